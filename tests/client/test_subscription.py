"""Subscribing to real servers over both wires, through connections that break."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any, Literal

import httpx2
import pytest
from websockets.asyncio.server import ServerConnection, serve

from tests.client.odd_server import OddServer, answer, hang_up
from tests.relay import Relay
from tests.servers import Server, unused_port
from twinwire.client import (
    Connected,
    Disconnected,
    Event,
    Gap,
    Mode,
    Position,
    Publisher,
    Refused,
    Subscription,
    Why,
    subscribe,
)
from twinwire.errors import BadChannel, BadInput, BadPosition, Closed, CloseReason, CommandError
from twinwire.wires import sse

Wire = Literal["sse", "ws"]
both_wires = pytest.mark.parametrize("wire", ["sse", "ws"])

# So short that tests need not wait, and so quick that a client comes back while they watch.
QUICK = ("--set", "heartbeat=0.3", "--set", "ping=1", "--set", "retry=0.1")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(*QUICK, "--set", 'allow_subscribe=["open.>"]') as server:
        yield server


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    """A channel of the test's own on the server that the tests share."""
    return "open." + "".join(c if c.isalnum() else "-" for c in request.node.name)


@pytest.fixture
async def publisher(server: Server) -> AsyncIterator[Publisher]:
    async with Publisher(server.url) as publisher:
        yield publisher


async def events(items: Subscription, count: int) -> list[Event]:
    """The next so many events; anything else on the way but a coming and going is wrong."""
    found: list[Event] = []
    while len(found) < count:
        item = await anext(items)
        if isinstance(item, Event):
            found.append(item)
        else:
            assert isinstance(item, Connected | Disconnected), item
    return found


async def until(items: Subscription, kind: type) -> Any:
    """The next item of a kind."""
    async for item in items:
        if isinstance(item, kind):
            return item


def numbers(events: list[Event]) -> list[Any]:
    return [event.json() for event in events]


@both_wires
async def test_what_is_published_arrives_in_order(
    server: Server, publisher: Publisher, channel: str, wire: Wire
) -> None:
    async with subscribe(server.url, channel, wire=wire) as items:
        assert isinstance(await anext(items), Connected)
        # Being let in comes before the channels: what is published now may be too early.
        first = asyncio.create_task(events(items, 1))
        while not first.done():
            await publisher.publish(channel, "knock")
            await asyncio.wait([first], timeout=0.02)
        for n in range(2000):
            await publisher.send(channel, n)
        await publisher.flush()
        found: list[Any] = []
        while 1999 not in found:
            found += numbers(await events(items, 1))
        assert [n for n in found if n != "knock"] == list(range(2000))


@both_wires
async def test_fields_arrive_as_published(
    server: Server, publisher: Publisher, channel: str, wire: Wire
) -> None:
    at = await publisher.publish(channel, {"grüße": [1.5, None]}, tags={"x": "y"})
    since = Position(at.epoch, at.seq - 1)
    async with subscribe(server.url, ["open.*"], wire=wire, since=since) as items:
        (event,) = await events(items, 1)
    assert (event.channel, event.position, event.tags) == (channel, at, {"x": "y"})
    assert event.json() == {"grüße": [1.5, None]}
    assert event.time > 1_700_000_000_000


async def test_key_type_and_bytes_arrive_over_sse(
    server: Server, publisher: Publisher, channel: str
) -> None:
    at = await publisher.publish(channel, b"\x00\xff", key="k", type="tick")
    since = str(Position(at.epoch, at.seq - 1))
    async with subscribe(server.url, channel, since=since) as items:
        (event,) = await events(items, 1)
    assert (event.key, event.type, event.data) == ("k", "tick", b"\x00\xff")


@both_wires
async def test_a_cut_connection_goes_on_where_it_was(
    server: Server, publisher: Publisher, channel: str, wire: Wire
) -> None:
    at = await publisher.publish(channel, -1)
    found: list[Event] = []
    async with (
        Relay(server.port) as relay,
        subscribe(relay.url, channel, wire=wire, since=at) as items,
    ):
        for n in range(0, 300, 50):
            for m in range(n, n + 25):
                await publisher.send(channel, m)
            found += await events(items, 20)
            relay.cut()
            for m in range(n + 25, n + 50):
                await publisher.send(channel, m)
            while not isinstance(item := await anext(items), Disconnected):
                assert isinstance(item, Event)
                found.append(item)
        found += await events(items, 300 - len(found))
    assert numbers(found) == list(range(300))


async def send_slowly(publisher: Publisher, channel: str, count: int) -> None:
    for n in range(count):
        await publisher.send(channel, n)
        await asyncio.sleep(0.001)


@both_wires
async def test_events_published_while_nobody_gets_through_arrive_afterwards(
    server: Server, publisher: Publisher, channel: str, wire: Wire
) -> None:
    at = await publisher.publish(channel, 0)
    async with (
        Relay(server.port) as relay,
        subscribe(relay.url, channel, wire=wire, since=at) as items,
    ):
        await publisher.publish(channel, 1)
        assert numbers(await events(items, 1)) == [1]
        async with relay.down():
            assert isinstance(await anext(items), Disconnected)
            assert isinstance(await anext(items), Disconnected)
            for n in range(2, 10):
                await publisher.send(channel, n)
            await publisher.flush()
        assert numbers(await events(items, 8)) == list(range(2, 10))


@both_wires
async def test_a_position_from_one_wire_is_good_on_the_other(
    server: Server, publisher: Publisher, channel: str, wire: Wire
) -> None:
    other: Wire = "ws" if wire == "sse" else "sse"
    at = await publisher.publish(channel, 0)
    for n in range(1, 20):
        await publisher.send(channel, n)
    await publisher.flush()
    async with subscribe(server.url, channel, wire=wire, since=at) as items:
        assert numbers(await events(items, 7)) == list(range(1, 8))
        position = items.position
    async with subscribe(server.url, channel, wire=other, since=position) as items:
        assert numbers(await events(items, 12)) == list(range(8, 20))


async def silent_stream(_: bytes, writer: asyncio.StreamWriter) -> bool:
    """Begin an event stream, and leave it at that."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    writer.write(head + sse.priming(100, Position(1, 1)))
    await asyncio.Event().wait()
    return False


async def test_a_silent_stream_is_dead() -> None:
    async with OddServer(silent_stream) as odd, subscribe(odd.url, "a", silence=0.3) as items:
        assert isinstance(await anext(items), Connected)
        lost = await anext(items)
        assert isinstance(lost, Disconnected)
        assert lost.why == "nothing heard for 0.3 s"
        assert await anext(items) == Connected(Position(1, 1))


async def test_a_silent_websocket_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    async def let_in(connection: ServerConnection) -> None:
        async for message in connection:
            if '"connect"' in str(message):
                await connection.send('{"id":1,"connect":{"ping":25,"pong":true}}')

    monkeypatch.setattr("twinwire.client.websocket.ANSWER_TIME", 0.3)
    async with serve(let_in, "127.0.0.1", 0) as silent:
        port = next(iter(silent.sockets)).getsockname()[1]
        async with subscribe(f"http://127.0.0.1:{port}", "a", wire="ws") as items:
            assert isinstance(await anext(items), Connected)
            lost = await anext(items)
            assert isinstance(lost, Disconnected)
            assert lost.why == "nothing heard for 0.3 s"


@both_wires
async def test_heartbeats_and_pings_keep_a_quiet_connection(
    server: Server, channel: str, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinwire.client.websocket.PING_LEEWAY", 0.6)
    async with subscribe(server.url, channel, wire=wire, silence=0.8) as items:
        assert isinstance(await anext(items), Connected)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await anext(items)


@both_wires
async def test_a_timeout_around_an_item_does_not_end_the_subscription(
    server: Server, publisher: Publisher, channel: str, wire: Wire
) -> None:
    at = await publisher.publish(channel, 0)
    async with subscribe(server.url, channel, wire=wire, since=at) as items:
        found: list[Any] = []
        sending = asyncio.create_task(send_slowly(publisher, channel, 200))
        while len(found) < 200:
            try:
                async with asyncio.timeout(0.003):
                    found += numbers(await events(items, 1))
            except TimeoutError:
                pass
        await sending
        assert found == list(range(200))


@both_wires
async def test_latest_begins_with_the_newest_of_each_key(
    server: Server, publisher: Publisher, channel: str, wire: Wire
) -> None:
    for n in range(6):
        await publisher.send(channel, n, key=f"k{n % 2}")
    await publisher.flush()
    async with subscribe(server.url, channel, wire=wire, mode="latest") as items:
        assert numbers(await events(items, 2)) == [4, 5]


async def test_the_earliest_is_the_oldest_that_the_server_has(
    server: Server, publisher: Publisher, channel: str
) -> None:
    for n in range(3):
        await publisher.send(channel, n)
    await publisher.flush()
    async with subscribe(server.url, channel, since="earliest") as items:
        assert numbers(await events(items, 3)) == [0, 1, 2]


@both_wires
async def test_what_the_server_no_longer_has_is_a_gap(wire: Wire) -> None:
    with Server(*QUICK, "--set", "log_events=10") as server:
        async with Publisher(server.url) as publisher:
            at = await publisher.publish("a", 0)
            for n in range(1, 100):
                await publisher.send("a", n)
        async with subscribe(server.url, "a", wire=wire, since=at) as items:
            gap = await until(items, Gap)
            assert (gap.begin, gap.why) == (at, Why.EVICTED)
            assert gap.end.seq >= 90


@both_wires
async def test_a_restarted_server_is_a_gap_and_the_stream_goes_on(wire: Wire) -> None:
    port = unused_port()
    with Server(*QUICK, port=port) as server:
        async with Publisher(server.url) as publisher:
            at = await publisher.publish("a", 0)
            items = subscribe(server.url, "a", wire=wire, since=at)
            await until(items, Connected)
            await publisher.publish("a", 1)
            assert numbers(await events(items, 1)) == [1]
    assert isinstance(await until(items, Disconnected), Disconnected)
    with Server(*QUICK, port=port) as server:
        async with Publisher(server.url) as publisher:
            position = await publisher.publish("a", 2)
            gap = await until(items, Gap)
            assert gap.why is Why.RESTARTED
            assert gap.begin.epoch == at.epoch
            await publisher.publish("a", 3)
            last = await until(items, Event)
            while last.json() != 3:
                last = await until(items, Event)
            assert items.position is not None
            assert items.position.epoch == position.epoch
            await items.aclose()


@both_wires
async def test_a_stopping_server_is_left_for_when_it_is_back(wire: Wire) -> None:
    port = unused_port()
    items = subscribe(f"http://127.0.0.1:{port}", "a", wire=wire)
    with Server(*QUICK, port=port):
        await until(items, Connected)
    lost = await until(items, Disconnected)
    assert lost.why == "shutdown (3001)"
    with Server(*QUICK, port=port):
        assert isinstance(await until(items, Connected), Connected)
        await items.aclose()


async def test_a_channel_that_may_not_be_seen_is_an_error_and_the_end(server: Server) -> None:
    items = subscribe(server.url, "secret", wire="ws")
    with pytest.raises(CommandError, match="secret: permission denied"):
        await until(items, Event)
    with pytest.raises(StopAsyncIteration):
        await anext(items)
    with pytest.raises(Refused, match="403"):
        await until(subscribe(server.url, "secret"), Event)


async def test_data_that_a_wire_cannot_carry_ends_the_subscription_for_good(
    server: Server, publisher: Publisher, channel: str
) -> None:
    at = await publisher.publish(channel, 1)
    await publisher.publish(channel, b"\xff")
    items = subscribe(server.url, channel, wire="ws", since=at)
    with pytest.raises(Closed) as caught:
        await until(items, Event)
    assert caught.value.reason is CloseReason.INAPPROPRIATE_PROTOCOL


@pytest.mark.parametrize(
    ("status", "sentence"), [(400, "bad request"), (404, "not found"), (204, "no content")]
)
async def test_an_answer_that_is_final_is_an_error(status: int, sentence: str) -> None:
    async with OddServer(answer(status)) as odd:
        with pytest.raises(Refused, match=sentence):
            await anext(subscribe(odd.url, "a"))


async def test_a_page_is_no_event_stream() -> None:
    async with OddServer(answer(200, b"hello", Content_Type="text/html")) as odd:
        with pytest.raises(Refused, match="is this twinwire's URL"):
            await anext(subscribe(odd.url, "a"))


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_a_server_in_trouble_is_tried_again_when_it_says(status: int) -> None:
    async with OddServer(answer(status, Retry_After="2")) as odd:
        lost = await anext(subscribe(odd.url, "a"))
        assert isinstance(lost, Disconnected)
        assert lost.delay == 2
        assert str(status) in lost.why


@pytest.mark.parametrize(
    ("status", "final"), [(400, True), (403, True), (429, False), (503, False)]
)
async def test_a_refused_websocket_goes_by_its_status(status: int, final: bool) -> None:
    async with OddServer(answer(status)) as odd:
        items = subscribe(odd.url, "a", wire="ws")
        if final:
            with pytest.raises(Refused, match=f"no WebSocket at .*/ws .{status}."):
                await anext(items)
        else:
            assert isinstance(await anext(items), Disconnected)


@both_wires
async def test_a_connection_that_is_not_made_is_tried_again_later_and_later(wire: Wire) -> None:
    items = subscribe(f"http://127.0.0.1:{unused_port()}", "a", wire=wire)
    delays = []
    for _ in range(3):
        lost = await anext(items)
        assert isinstance(lost, Disconnected)
        assert lost.why == "connection refused"
        delays.append(lost.delay)
    # Each is random by a factor of three, so only the span is sure.
    assert 0.25 <= delays[0] <= 0.75
    assert 1 <= delays[2] <= 3
    await items.aclose()


@both_wires
async def test_a_server_that_hangs_up_is_tried_again(wire: Wire) -> None:
    async with OddServer(hang_up) as odd:
        assert isinstance(await anext(subscribe(odd.url, "a", wire=wire)), Disconnected)


@both_wires
async def test_a_subscription_that_is_left_lets_go_of_its_connection(
    server: Server, publisher: Publisher, channel: str, wire: Wire
) -> None:
    at = await publisher.publish(channel, 0)
    await publisher.publish(channel, 1)
    async for item in subscribe(server.url, channel, wire=wire, since=at):
        if isinstance(item, Event):
            assert await clients(server, channel) == 1
            break
    gc.collect()
    async with asyncio.timeout(5):
        while await clients(server, channel):
            pass  # asked again over a connection: nothing tells us


@both_wires
async def test_a_closed_subscription_has_ended(server: Server, channel: str, wire: Wire) -> None:
    items = subscribe(server.url, channel, wire=wire)
    async with aclosing(items):
        await anext(items)
    assert [item async for item in items] == []
    await items.aclose()


async def clients(server: Server, channel: str) -> int:
    """How many are subscribed to a channel."""
    async with httpx2.AsyncClient() as http:
        answer = await http.post(server.url + "/api/channels", json={"pattern": channel})
    count: int = answer.json()["result"]["channels"][channel]["num_clients"]
    return count


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"url": "h"}, BadInput),
        ({"channels": []}, BadInput),
        ({"channels": ["a..b"]}, BadChannel),
        ({"channels": "a b"}, BadChannel),
        ({"since": "latest"}, BadPosition),
        ({"mode": "some"}, BadInput),
        ({"wire": "smoke"}, BadInput),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(
    change: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        subscribe(**{"url": "http://h", "channels": ["a"], **change})


def test_a_position_is_known_before_the_first_connection_only_if_given() -> None:
    assert subscribe("http://h", "a").position is None
    assert subscribe("http://h", "a", since="earliest").position is None
    assert subscribe("http://h", "a", since="5-6", mode=Mode.LATEST).position == Position(5, 6)
