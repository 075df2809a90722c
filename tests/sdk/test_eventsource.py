"""A plain page's `EventSource`, in headless Chromium, against our server."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from tests import ROOT
from tests.browser import browser, until
from tests.relay import Relay
from tests.sdk.clients import PythonSdk
from tests.seen import Seen
from tests.servers import Server, unused_port
from twinwire.client import Position, Publisher

QUICK = ("--set", "retry=0.1")  # a browser's own time between connections is seconds

LISTEN = """([query, types]) => new Promise((resolve) => {
    const source = new EventSource(`/sse?${query}`);
    Object.assign(window, { source, seen: [], opened: 0 });
    const see = ({ type, data, lastEventId }) => {
        // The browser's own event for a lost connection has no data.
        if (data !== undefined) seen.push({ type, data, id: lastEventId });
    };
    for (const type of ["message", "gap", "reconnect", "error", ...types]) {
        source.addEventListener(type, see);
    }
    source.onopen = () => { opened += 1; resolve(); };
})"""


@pytest.fixture(scope="module")
async def launched(chromium: str) -> AsyncIterator[Browser]:
    async with browser(chromium) as running:
        yield running


@pytest.fixture(scope="module")
def application() -> Iterator[Server]:
    with Server("--app", "tests.sdk.app:hub", cwd=ROOT) as running:
        yield running


@asynccontextmanager
async def page_at(launched: Browser, url: str) -> AsyncIterator[Page]:
    """A page of the server's origin; what it holds is of no matter."""
    page = await launched.new_page()
    try:
        await page.goto(url + "/health")
        yield page
    finally:
        await page.close()


async def listen(page: Page, query: str, *types: str) -> None:
    await page.evaluate(LISTEN, [query, types])


async def seen(page: Page, count: int) -> list[Any]:
    """Everything the page was told, once it is `count` events."""
    await until(page, f"seen.length >= {count}")
    found: list[Any] = await page.evaluate("seen")
    return found


def message(data: Any, position: Position) -> dict[str, str]:
    return {"type": "message", "data": json.dumps(data), "id": str(position)}


async def test_after_a_cut_the_browser_has_what_it_missed(launched: Browser) -> None:
    with Server(*QUICK) as server:
        heard = Seen()
        async with (
            Relay(server.port, heard) as relay,
            page_at(launched, relay.url) as page,
            Publisher(server.url) as publisher,
        ):
            await listen(page, "channel=a")
            expected = [message(n, await publisher.publish("a", n)) for n in range(3)]
            assert await seen(page, 3) == expected
            async with relay.down():
                expected += [message(n, await publisher.publish("a", n)) for n in range(3, 50)]
            assert await seen(page, 50) == expected
            expected.append(message(50, await publisher.publish("a", 50)))
            assert await seen(page, 51) == expected
            assert await page.evaluate("opened") == 2
            assert asked_for(heard) == [None, expected[2]["id"]]


def asked_for(heard: Seen) -> list[str | None]:
    """The Last-Event-ID of each request for a stream."""
    found = []
    for item in heard.of("client"):
        for request in item["data"].decode().split("\r\n\r\n"):
            if request.startswith("GET /sse"):
                headers = dict(line.lower().split(": ", 1) for line in request.split("\r\n")[1:])
                found.append(headers.get("last-event-id"))
    return found


async def test_a_block_with_an_id_alone_moves_the_position_and_fires_nothing(
    launched: Browser,
) -> None:
    with Server(*QUICK, "--set", "heartbeat=0.1") as server:
        heard = Seen()
        async with (
            Relay(server.port, heard) as relay,
            page_at(launched, relay.url) as page,
            Publisher(server.url) as publisher,
        ):
            await listen(page, "channel=quiet", "heartbeat")
            for n in range(20):
                position = await publisher.publish("busy", n)
            beat = f"id: {position}\n\n".encode()

            def beats() -> int:
                return sum(item["data"].count(beat) for item in heard.of("server"))

            # More than one: what the browser gets together with the cut it may not read any more.
            await heard.until(lambda: beats() >= 3)
            relay.cut(reset=False)
            await until(page, "opened == 2")
            assert asked_for(heard) == [None, str(position)]
            assert await page.evaluate("seen") == []


async def test_a_page_can_ask_for_heartbeats_it_sees(launched: Browser) -> None:
    with Server("--set", "heartbeat=0.1") as server:
        async with page_at(launched, server.url) as page, Publisher(server.url) as publisher:
            await listen(page, "channel=quiet&heartbeat=event", "heartbeat")
            position = await publisher.publish("busy", 1)
            await until(page, f"seen.some(({{ id }}) => id === '{position}')")
            beat = (await seen(page, 1))[-1]
            assert beat["type"] == "heartbeat"
            assert json.loads(beat["data"]) == {"position": str(position)}


async def test_a_gap_is_an_event(launched: Browser) -> None:
    with Server(*QUICK, "--set", "log_events=10") as server:
        async with (
            Relay(server.port) as relay,
            page_at(launched, relay.url) as page,
            Publisher(server.url) as publisher,
        ):
            await listen(page, "channel=a")
            first = await publisher.publish("a", 0)
            await seen(page, 1)
            async with relay.down():
                positions = [await publisher.publish("a", n) for n in range(1, 30)]
            (_, gap, *rest) = await seen(page, 12)
            assert gap["type"] == "gap"
            lost = json.loads(gap["data"])
            assert lost == {"from": str(first), "to": str(positions[18]), "reason": "evicted"}
            assert rest == [message(n, positions[n - 1]) for n in range(20, 30)]


async def test_a_server_that_was_restarted_is_found_again_and_what_was_lost_is_told(
    launched: Browser,
) -> None:
    port = unused_port()
    with Server(*QUICK, port=port) as server:
        async with Publisher(server.url) as publisher:
            page = await launched.new_page()
            await page.goto(server.url + "/health")
            await listen(page, "channel=a")
            before = await publisher.publish("a", "before")
            await seen(page, 1)
    told = (await seen(page, 2))[1]
    assert told["type"] == "reconnect"
    assert json.loads(told["data"])["code"] == 3001
    with Server(*QUICK, port=port) as server:
        async with Publisher(server.url) as publisher:
            await until(page, "opened >= 2")
            count = 3
            while (told := (await seen(page, count))[-1])["type"] == "reconnect":
                count += 1  # it was there before the server was warm, and was told to come back
            assert told["type"] == "gap"
            lost = json.loads(told["data"])
            assert (lost["from"], lost["reason"]) == (str(before), "restarted")
            after = await publisher.publish("a", "after")
            assert (await seen(page, count + 1))[-1] == message("after", after)
            await page.close()


async def test_several_channels_patterns_and_types_come_in_one_order(launched: Browser) -> None:
    with Server() as server:
        async with page_at(launched, server.url) as page, Publisher(server.url) as publisher:
            await listen(page, "channel=prices.*&channel=news&format=event", "trade", "headline")
            await publisher.publish("prices.A", 1, key="A")
            await publisher.publish("prices.A", {"size": 5}, type="trade", tags={"venue": "X"})
            await publisher.publish("prices.A.deep", 2)
            await publisher.publish("news", "Up", type="headline")
            await publisher.publish("news", "Down", type="nobody-listens")
            await publisher.publish("prices.B", 3)
            found = await seen(page, 4)
            assert [item["type"] for item in found] == ["message", "trade", "headline", "message"]
            events = [json.loads(item["data"]) for item in found]
            assert all(event.pop("time") for event in events)
            assert events == [
                {"channel": "prices.A", "data": 1, "key": "A"},
                {
                    "channel": "prices.A",
                    "data": {"size": 5},
                    "type": "trade",
                    "tags": {"venue": "X"},
                },
                {"channel": "news", "data": "Up", "type": "headline"},
                {"channel": "prices.B", "data": 3},
            ]


@pytest.mark.parametrize(
    "text",
    [
        "two\nlines",
        "\n\nid: 1-1\nevent: gap\ndata: forged\n\n",
        "\r\rid: 1-1\r\revent: gap\r\n\r\ndata",
        "",
        "\n",
        " padded ",
        ": comment",
        "a\0b\u2028c\ufeff",
    ],
)
async def test_text_arrives_as_it_is_and_forges_nothing(
    launched: Browser, application: Server, text: str
) -> None:
    async with (
        page_at(launched, application.url) as page,
        PythonSdk(application.ws_url + "/ws") as client,
    ):
        await listen(page, "channel=a")
        await client.connect()
        position = await client.rpc("say", ["a", text])
        end = await client.rpc("say", ["a", "end"])
        # The format has one line end: whichever a text has, a browser gives it as this one.
        arrived = text.replace("\r\n", "\n").replace("\r", "\n")
        assert await seen(page, 2) == [
            {"type": "message", "data": arrived, "id": position},
            {"type": "message", "data": "end", "id": end},
        ]
