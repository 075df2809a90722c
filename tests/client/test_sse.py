"""Reading a subscription from an event stream: what comes out, and where it goes on."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from twinwire.client.errors import ComeBack, Refused
from twinwire.client.items import EARLIEST, Connected, Item, Since
from twinwire.client.sse import SseReader
from twinwire.core.event import Event, Kind, Position
from twinwire.core.feed import Gap, Mode, Why
from twinwire.errors import BadFrame, Closed, CloseReason, Unsubscribed
from twinwire.wires import sse

EPOCH = 1_763_800_000_000
START = Position(EPOCH, 4)
PRIMING = sse.priming(1500, START)
ENCODING = sse.SseEncoding(envelope=True)


def event(seq: int, data: bytes = b'{"n":1}', **fields: Any) -> Event:
    return Event("prices.EURUSD", data, EPOCH, seq, 1_763_800_000_123, **fields)


def block(event: Event) -> bytes:
    return ENCODING.event(event)


def reader(since: Since = None) -> SseReader:
    made = SseReader(["prices.*"], Mode.EVERY, since)
    made.request()
    return made


def whole(stream: bytes) -> Iterator[bytes]:
    yield stream


def byte_by_byte(stream: bytes) -> Iterator[bytes]:
    for at in range(len(stream)):
        yield stream[at : at + 1]


def in_threes(stream: bytes) -> Iterator[bytes]:
    for at in range(0, len(stream), 3):
        yield stream[at : at + 3]


Cut = Callable[[bytes], Iterable[bytes]]
every_cut = pytest.mark.parametrize("cut", [whole, byte_by_byte, in_threes])


def read(reader: SseReader, stream: bytes, cut: Cut = whole) -> list[Item]:
    return [item for piece in cut(stream) for item in reader.receive(piece)]


EVENTS = [
    event(5),
    event(6, key="EURUSD", type="tick", tags={"source": "x"}),
    event(7, "grüße\nzwei\r\nZeilen".encode(), kind=Kind.TEXT),
    event(8, b"\x00\xff\n\n", kind=Kind.BYTES),
    event(9, b'"id: 1-1"'),
]


@every_cut
def test_events_come_out_as_they_went_in(cut: Cut) -> None:
    stream = PRIMING + b"".join(map(block, EVENTS))
    connected, *items = read(reader(), stream, cut)
    assert connected == Connected(None)
    events = [item for item in items if isinstance(item, Event)]
    assert events == items
    assert [(e.position, e.key, e.type, e.tags, e.time) for e in events] == [
        (e.position, e.key, e.type, e.tags, e.time) for e in EVENTS
    ]
    assert [e.json() for e in events] == [e.json() for e in EVENTS]


@every_cut
def test_what_is_incomplete_is_not_there(cut: Cut) -> None:
    last = block(event(6))
    for end in range(len(last) - 1):
        it = reader()
        items = read(it, PRIMING + block(event(5)) + last[:end], cut)
        assert [i.seq for i in items if isinstance(i, Event)] == [5]
        assert it.position == Position(EPOCH, 5)


def test_the_position_moves_with_each_item_taken() -> None:
    it = reader()
    items = it.receive(
        PRIMING + block(event(5)) + block(event(6)) + sse.heartbeat(Position(EPOCH, 9))
    )
    assert it.position is None
    assert isinstance(next(items), Connected)
    for seq in (5, 6):
        assert next(items) == event(seq)
        assert it.position == Position(EPOCH, seq)
    assert next(items, None) is None
    assert it.position == Position(EPOCH, 9)


@pytest.mark.parametrize("visible", [False, True])
def test_heartbeats_move_the_position_and_are_no_items(visible: bool) -> None:
    it = reader()
    beat = sse.heartbeat(Position(EPOCH, 77), visible=visible)
    assert read(it, PRIMING + beat) == [Connected(None)]
    assert it.position == Position(EPOCH, 77)


def test_the_first_request_asks_for_what_comes_next() -> None:
    query, headers = SseReader(["a", "b.*"], Mode.LATEST, None).request()
    assert query == {"channel": ["a", "b.*"], "mode": "latest", "format": "event"}
    assert "Last-Event-ID" not in headers


@pytest.mark.parametrize(("since", "header"), [(START, str(START)), (EARLIEST, "earliest")])
def test_a_request_can_begin_in_the_past(since: Since, header: str) -> None:
    assert SseReader(["a"], Mode.EVERY, since).request().headers["Last-Event-ID"] == header


def test_the_next_request_goes_on_after_the_last_item() -> None:
    it = reader()
    read(it, PRIMING + block(event(5)) + block(event(6))[:-1])
    assert it.request().headers["Last-Event-ID"] == f"{EPOCH}-5"
    # What was left of the first connection is not mixed into the second.
    assert read(it, PRIMING + block(event(6)))[1:] == [event(6)]


def test_a_stream_that_said_nothing_but_where_it_begins_is_resumed_there() -> None:
    it = reader()
    read(it, PRIMING)
    assert it.request().headers["Last-Event-ID"] == str(START)


def test_a_gap_is_told_with_its_reason_and_does_not_move_the_position() -> None:
    it = reader()
    lost = Gap(START, Position(EPOCH, 40), Why.EVICTED, ("prices.*",))
    gap = sse.wire(envelope=True, chunked=False).gap(lost)
    assert read(it, PRIMING + gap)[1:] == [lost]
    assert it.position == START


def test_a_gap_for_a_reason_of_a_newer_server_is_a_gap() -> None:
    gap = sse.control("gap", {"from": "1-2", "to": "1-3", "reason": "moonshine"})
    _, item = read(reader(), PRIMING + gap)
    assert item == Gap(Position(1, 2), Position(1, 3), Why.EVICTED, ("prices.*",))


def test_the_server_says_how_long_to_wait() -> None:
    it = reader()
    read(it, PRIMING)
    assert it.retry == 1.5


@every_cut
@pytest.mark.parametrize("why", list(CloseReason))
def test_a_farewell_ends_the_stream_after_all_that_came_before(why: CloseReason, cut: Cut) -> None:
    it = reader()
    stream = PRIMING + block(event(5)) + sse.farewell(why, 2500) + block(event(6))
    with pytest.raises((ComeBack, Closed)) as caught:
        read(it, stream, cut)
    if why.reconnect:
        assert isinstance(caught.value, ComeBack)
        assert caught.value.delay == 2.5
    else:
        assert isinstance(caught.value, Closed)
        assert caught.value.reason is why
    assert it.position == Position(EPOCH, 5)


def test_a_final_reason_of_a_newer_server_is_final() -> None:
    with pytest.raises(Refused, match=r"out of coffee \(3999\)"):
        read(reader(), PRIMING + sse.control("error", {"code": 3999, "reason": "out of coffee"}))


def test_control_events_of_a_newer_server_are_passed_over() -> None:
    assert read(reader(), PRIMING + sse.control("token", {"x": 1})) == [Connected(None)]


def test_who_joins_and_leaves_is_passed_over() -> None:
    joined = sse.control("join", {"channel": "a", "info": {"user": "", "client": "c"}})
    assert read(reader(), PRIMING + joined) == [Connected(None)]


def test_a_channel_that_is_taken_from_the_stream_is_a_refusal() -> None:
    taken = sse.unsubscribed("a.*", Unsubscribed.SERVER)
    with pytest.raises(Refused, match=r"a\.\*: server unsubscribe \(2000\)"):
        read(reader(), PRIMING + taken)


@pytest.mark.parametrize(
    "stream",
    [
        b"data: hello\n\n",
        b"id: x\n\n",
        b"id: 1\ndata: {}\n\n",
        b"id: 1-1\ndata: {}\n\n",
        b"id: 1-1\ndata: hello\n\n",
        b'id: 1-1\ndata: {"channel":1}\n\n',
        b'id: 1-1\ndata: {"channel":"a","b64data":"?"}\n\n',
        b"event: gap\ndata: {}\n\n",
        b'event: gap\ndata: {"from":"1-1","to":"x"}\n\n',
        b"event: error\ndata: [\n\n",
        b"event: unsubscribe\ndata: [\n\n",
    ],
)
@every_cut
def test_a_stream_that_is_not_ours_is_a_bad_frame(stream: bytes, cut: Cut) -> None:
    with pytest.raises(BadFrame):
        read(reader(), stream, cut)


def test_an_endless_block_is_a_bad_frame() -> None:
    it = reader()
    megabyte = b"x" * (1 << 20)
    with pytest.raises(BadFrame, match="over"):
        read(it, b"data: " + megabyte * 20, lambda stream: [megabyte] * 20)
