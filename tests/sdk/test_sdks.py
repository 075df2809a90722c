"""The official SDKs for Python and JavaScript against our server, unchanged."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests import ROOT
from tests.relay import Relay
from tests.sdk.clients import Sdk, SdkError
from tests.servers import Server, unused_port
from twinwire.client import Publisher

NewSdk = Callable[[str], Sdk]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for the tests that do not end it. Each has channels of its own."""
    with Server("--app", "tests.sdk.app:hub", cwd=ROOT) as running:
        yield running


@pytest.fixture
async def publisher(server: Server) -> AsyncIterator[Publisher]:
    async with Publisher(server.url) as running:
        yield running


async def test_a_subscriber_gets_what_is_published(
    sdk: NewSdk, server: Server, publisher: Publisher
) -> None:
    async with sdk(server.ws_url) as client:
        await client.connect()
        await client.subscribe("prices.A")
        data: list[Any] = [1.5, "text", None, True, [1, {"a": "ü\n"}], {"deep": {"er": []}}]
        positions = [await publisher.publish("prices.A", item) for item in data]
        got = await client.seen.count(len(data), "publication")
        assert [item["data"] for item in got] == data
        assert [item["offset"] for item in got] == [position.seq for position in positions]


async def test_a_pattern_brings_the_channels_it_matches(
    sdk: NewSdk, server: Server, publisher: Publisher
) -> None:
    async with sdk(server.ws_url) as client:
        await client.connect()
        await client.subscribe("wild.*")
        await client.subscribe("wild.deep.>")
        for channel in ("wild.a", "tame.a", "wild.b", "wild.deep.er", "wild.a"):
            await publisher.publish(channel, channel)
        await client.seen.count(4, "publication")
        assert client.data("wild.*") == ["wild.a", "wild.b", "wild.a"]
        assert client.data("wild.deep.>") == ["wild.deep.er"]


async def test_after_unsubscribing_nothing_comes(
    sdk: NewSdk, server: Server, publisher: Publisher
) -> None:
    async with sdk(server.ws_url) as client:
        await client.connect()
        await client.subscribe("leave.a")
        await client.subscribe("leave.b")
        await publisher.publish("leave.a", 1)
        await client.seen.count(1, "publication")
        await client.unsubscribe("leave.a")
        await client.seen.count(1, "unsubscribed", channel="leave.a")
        # The answer to a later command tells that the server has let go of the channel.
        await client.rpc("sum", [])
        await publisher.publish("leave.a", 2)
        await publisher.publish("leave.b", 3)
        await client.seen.count(2, "publication")
        assert client.data("leave.a") == [1]
        await client.subscribe("leave.a")
        await publisher.publish("leave.a", 4)
        await client.seen.count(3, "publication")
        assert client.data("leave.a") == [1, 4]


async def test_a_client_publishes_where_it_may(sdk: NewSdk, server: Server) -> None:
    async with sdk(server.ws_url) as client:
        await client.connect()
        await client.subscribe("chat.room")
        await client.publish("chat.room", {"text": "hello"})
        (got,) = await client.seen.count(1, "publication")
        assert got["data"] == {"text": "hello"}
        (connected,) = client.seen.of("connected")
        assert got["user"] == connected["client"]
        with pytest.raises(SdkError) as refused:
            await client.publish("prices.A", 1)
        assert refused.value.code == 103


async def test_a_command_is_answered(sdk: NewSdk, server: Server) -> None:
    async with sdk(server.ws_url) as client:
        await client.connect()
        answers = await asyncio.gather(*(client.rpc("sum", [n, 1]) for n in range(30)))
        assert answers == list(range(1, 31))


@pytest.mark.parametrize(
    ("method", "data", "code"),
    [("fail", "no luck", 1000), ("missing", None, 104), ("sum", ["one"], 107)],
)
async def test_a_command_that_fails_says_why(
    sdk: NewSdk, server: Server, method: str, data: Any, code: int
) -> None:
    async with sdk(server.ws_url) as client:
        await client.connect()
        with pytest.raises(SdkError) as refused:
            await client.rpc(method, data)
        assert refused.value.code == code
        assert await client.rpc("sum", [1]) == 1


async def test_history_is_what_was_published(
    sdk: NewSdk, server: Server, publisher: Publisher, request: pytest.FixtureRequest
) -> None:
    channel = f"past.{request.node.callspec.id}"
    positions = [await publisher.publish(channel, n) for n in range(5)]
    async with sdk(server.ws_url) as client:
        await client.connect()
        past = await client.history(channel)
        assert [item["data"] for item in past["publications"]] == [0, 1, 2, 3, 4]
        assert [item["offset"] for item in past["publications"]] == [p.seq for p in positions]
        assert past["epoch"] == str(positions[0].epoch)
        assert past["offset"] >= positions[-1].seq
        later = await client.history(channel, since=(positions[2].seq, past["epoch"]))
        assert [item["data"] for item in later["publications"]] == [3, 4]
        with pytest.raises(SdkError) as refused:
            await client.history(channel, since=(1, "1"))
        assert refused.value.code == 112


async def test_a_channel_that_is_none_ends_the_subscription(sdk: NewSdk, server: Server) -> None:
    async with sdk(server.ws_url) as client:
        await client.connect()
        # The SDKs differ in what a caller is told, but both fire this.
        waiting = asyncio.ensure_future(client.subscribe("a..b"))
        (ended,) = await client.seen.count(1, "unsubscribed")
        assert ended["code"] == 107
        with pytest.raises(Exception):  # noqa: B017, PT011 (each SDK's own)
            await waiting


async def test_a_connection_that_was_cut_gets_what_it_missed(
    sdk: NewSdk, server: Server, publisher: Publisher
) -> None:
    async with Relay(server.port) as relay, sdk(relay.ws_url) as client:
        await client.connect()
        await client.subscribe("cut.*")
        await client.subscribe("cut.b")
        for n in range(5):
            await publisher.publish("cut.a", n)
        await client.seen.count(5, "publication")
        async with relay.down():
            for n in range(5, 300):
                await publisher.publish("cut.b" if n % 2 else "cut.a", n)
        await client.seen.until(lambda: client.data("cut.*")[-1:] == [299])
        await publisher.publish("cut.b", 300)
        await client.seen.until(lambda: client.data("cut.b")[-1:] == [300])
        assert client.data("cut.*") == [*range(300), 300]
        assert client.data("cut.b") == [*range(5, 300, 2), 300]
        for channel in ("cut.*", "cut.b"):
            first, second = client.seen.of("subscribed", channel=channel)
            assert (first["was_recovering"], first["recovered"]) == (False, False)
            assert (second["was_recovering"], second["recovered"]) == (True, True)


async def test_what_the_log_has_lost_is_not_called_recovered(sdk: NewSdk) -> None:
    with Server("--set", "log_events=10") as server:
        async with (
            Publisher(server.url) as publisher,
            Relay(server.port) as relay,
            sdk(relay.ws_url) as client,
        ):
            await client.connect()
            await client.subscribe("a")
            await publisher.publish("a", 0)
            await client.seen.count(1, "publication")
            async with relay.down():
                for n in range(1, 30):
                    await publisher.publish("a", n)
            _, again = await client.seen.count(2, "subscribed")
            assert (again["was_recovering"], again["recovered"]) == (True, False)
            await publisher.publish("a", 30)
            await client.seen.count(2, "publication")
            assert client.data("a") == [0, 30]


async def test_a_server_that_ends_is_found_again(sdk: NewSdk) -> None:
    port = unused_port()
    with Server(port=port) as server:
        client = sdk(server.ws_url)
        await client.open()
        await client.connect()
        await client.subscribe("a")
        (before,) = client.seen.of("subscribed")
        async with Publisher(server.url) as publisher:
            await publisher.publish("a", "before")
        await client.seen.count(1, "publication")
    try:
        # Told to come back, not cut off.
        again = (await client.seen.count(2, "connecting"))[1]
        assert (again["code"], again["reason"]) == (3001, "shutdown")
        with Server(port=port) as server:
            _, after = await client.seen.count(2, "subscribed")
            assert after["epoch"] > before["epoch"]
            # The log of the first server is gone, and so is what it may have had for us.
            assert (after["was_recovering"], after["recovered"]) == (True, False)
            async with Publisher(server.url) as publisher:
                await publisher.publish("a", "after")
            await client.seen.count(2, "publication")
            assert client.data("a") == ["before", "after"]
            await client.close()
    finally:
        await client.close()


async def test_pings_are_answered(sdk: NewSdk) -> None:
    with Server("--set", "ping=1", "--set", "pong_timeout=0.5") as server:
        async with Publisher(server.url) as publisher, sdk(server.ws_url) as client:
            await client.connect()
            await client.subscribe("a")
            # Somebody who never answers is gone after the time in which the SDK has answered.
            assert await _silent(server.ws_url) == (3012, "no pong")
            assert await _silent(server.ws_url) == (3012, "no pong")
            await publisher.publish("a", 1)
            await client.seen.count(1, "publication")
            assert len(client.seen.of("connected")) == 1
            assert client.seen.of("disconnected") == []


async def _silent(url: str) -> tuple[int, str]:
    """Connects, takes what comes and says nothing to it; how it ends."""
    async with connect(url + "/ws", proxy=None) as socket:
        await socket.send('{"id":1,"connect":{}}')
        connected = json.loads(await socket.recv())
        assert connected["connect"]["ping"] == 1
        assert connected["connect"]["pong"] is True
        assert await socket.recv() == "{}"
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason
