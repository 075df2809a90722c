"""Presence in the official SDKs, unchanged, whose clients are at two nodes of one hub."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

from tests import ROOT
from tests.plain import Api
from tests.sdk.clients import Sdk, SdkError
from tests.servers import Server
from tests.waiting import wait_until
from twinwire.client import Event, Publisher, Refused, subscribe

NewSdk = Callable[..., Sdk]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("--app", "tests.web.nodes:app", cwd=ROOT) as running:
        yield running


async def test_two_clients_at_two_nodes_know_of_each_other(sdk: NewSdk, server: Server) -> None:
    async with sdk(server.ws_url + "/one", "?user=ada&info=[1]") as ada:
        await ada.connect()
        await ada.subscribe("rooms.sdk", join_leave=True)
        (itself,) = await ada.seen.count(1, "join", channel="rooms.sdk")
        assert itself["user"] == "ada"
        async with sdk(server.ws_url + "/two", "?user=bob") as bob:
            await bob.connect()
            await bob.subscribe("rooms.sdk", join_leave=True)
            _, other = await ada.seen.count(2, "join", channel="rooms.sdk")
            assert other["user"] == "bob"
            expected = {
                itself["client"]: {"client": itself["client"], "user": "ada", "info": [1]},
                other["client"]: {"client": other["client"], "user": "bob", "info": None},
            }
            assert await ada.presence("rooms.sdk") == expected
            assert await ada.presence_stats("rooms.sdk") == (2, 2)
            await bob.seen.count(1, "join", channel="rooms.sdk", user="bob")
            assert await bob.presence("rooms.sdk") == expected
            assert await bob.presence_stats("rooms.sdk") == (2, 2)
            await bob.unsubscribe("rooms.sdk")
            (left,) = await ada.seen.count(1, "leave", channel="rooms.sdk")
            assert (left["user"], left["client"]) == ("bob", other["client"])
            assert await ada.presence_stats("rooms.sdk") == (1, 1)


async def test_what_is_not_known_or_not_to_be_known_is_refused(sdk: NewSdk, server: Server) -> None:
    async with sdk(server.ws_url + "/one") as client:
        await client.connect()
        for channel, code in (("plain.a", 108), ("secret.a", 103), ("rooms.*", 107)):
            for ask in (client.presence, client.presence_stats):
                with pytest.raises(SdkError) as refused:
                    await ask(channel)
                assert refused.value.code == code


async def test_a_client_that_is_unsubscribed_stays_so_and_one_disconnected_stays_away(
    sdk: NewSdk, server: Server
) -> None:
    async with sdk(server.ws_url + "/two", "?user=eve") as eve:
        await eve.connect()
        await eve.subscribe("rooms.eve")
        with Api(server.port, "/one") as api:
            api.result("unsubscribe", user="eve", channel="rooms.eve")
            (told,) = await eve.seen.count(1, "unsubscribed", channel="rooms.eve")
            assert (told["code"], told["reason"]) == (2000, "server unsubscribe")
            assert await eve.presence_stats("rooms.eve") == (0, 0)
            api.result("disconnect", user="eve", disconnect={"code": 4501, "reason": "banned"})
            (ended,) = await eve.seen.count(1, "disconnected")
            assert (ended["code"], ended["reason"]) == (4501, "banned")


async def test_a_client_that_has_expired_comes_back_and_is_a_member_again(
    sdk: NewSdk, server: Server
) -> None:
    async with sdk(server.ws_url + "/one", "?user=kim") as kim:
        await kim.connect()
        await kim.subscribe("rooms.kim", join_leave=True)
        with Api(server.port, "/two") as api:
            await kim.seen.count(1, "join")
            wait_until(lambda: api.result("presence_stats", channel="rooms.kim")["num_clients"])
            api.result("refresh", user="kim", expired=True)
            await kim.seen.count(2, "connected")
            await kim.seen.count(2, "subscribed")
            first, again = await kim.seen.count(2, "join", user="kim")
            assert first["client"] != again["client"]
            assert list(await kim.presence("rooms.kim")) == [again["client"]]


@pytest.mark.parametrize("wire", ["sse", "ws"])
async def test_our_own_client_is_a_member_as_any_other_and_hears_when_it_is_unsubscribed(
    server: Server, wire: str
) -> None:
    room = f"rooms.own.{wire}"
    url = server.url + "/one"
    with Api(server.port, "/two") as api:
        async with Publisher(url) as publisher, subscribe(url, [room], wire=wire) as items:
            listening = asyncio.create_task(_event(items))
            members = api.result("presence", channel=room)["presence"]
            while not members:
                await asyncio.sleep(0)
                members = api.result("presence", channel=room)["presence"]
            await publisher.publish(room, 1)
            assert (await listening).json() == 1
            (client,) = members
            api.result("unsubscribe", client=client, channel=room)
            with pytest.raises(Refused, match=rf"{room}: server unsubscribe \(2000\)"):
                await _event(items)
        wait_until(lambda: not api.result("presence", channel=room)["presence"])


async def _event(items: object) -> Event:
    async for item in items:  # type: ignore[attr-defined]
        if isinstance(item, Event):
            return item
    raise AssertionError("it has ended")
