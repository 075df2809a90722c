"""Proxies: what they do to heads, and to streams."""

import asyncio
import os
from collections.abc import Iterator

import pytest

from tests.servers import Server
from twinwire.client import Event, Publisher, Refused, Subscription, subscribe
from twinwire.compare.proxies import HOLD, KINDS, Proxy, asked, holds
from twinwire.compare.speak import Target

PLAIN, HEEDING, DEAF, FLAT = KINDS

ASKS = (
    b"GET /ws HTTP/1.1\r\nhost: proxy\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nA: b\r\n\r\n"
)


def test_a_proxy_names_the_server_to_itself() -> None:
    assert asked(ASKS, "h:1", PLAIN) == ASKS.replace(b"host: proxy", b"Host: h:1")


def test_a_proxy_that_is_not_told_drops_the_upgrade() -> None:
    assert asked(ASKS, "h:1", FLAT) == b"GET /ws HTTP/1.1\r\nHost: h:1\r\nA: b\r\n\r\n"


OK = b"HTTP/1.1 200 OK\r\nx-accel-buffering: no\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "kinds"),
    [
        (OK, {DEAF}),
        (OK.replace(b"no", b"yes"), {DEAF, HEEDING}),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\n", set()),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", set()),
    ],
)
def test_who_holds_an_answer(head: bytes, kinds: set[object]) -> None:
    assert {kind for kind in KINDS if holds(head, kind)} == kinds


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.mark.parametrize("wire", ["sse", "ws"])
async def test_what_passes_is_there_at_once(server: Server, wire: str) -> None:
    async with (
        Proxy(Target.of(server.url), HEEDING).open() as url,
        Publisher(server.url) as publisher,
        subscribe(url, ["passing"], wire=wire, since="earliest") as events,
    ):
        await publisher.publish("passing", "x")
        assert (await event(events)).json() == "x"


async def test_what_is_held_comes_when_there_is_enough_of_it(server: Server) -> None:
    async with (
        Proxy(Target.of(server.url), DEAF).open() as url,
        Publisher(server.url) as publisher,
        subscribe(url, ["held"], since="earliest") as events,
    ):
        reading = asyncio.create_task(event(events))
        await publisher.publish("held", "x")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(reading), 0.3)
        # Nothing that gzip could make smaller.
        await publisher.publish("held", os.urandom(HOLD).hex())
        assert (await reading).json() == "x"


async def test_without_upgrade_the_client_is_refused(server: Server) -> None:
    async with Proxy(Target.of(server.url), FLAT).open() as url:
        with pytest.raises(Refused):
            await anext(subscribe(url, ["a"], wire="ws"))


async def event(subscription: Subscription) -> Event:
    """The next event."""
    while not isinstance(item := await anext(subscription), Event):
        pass
    return item
