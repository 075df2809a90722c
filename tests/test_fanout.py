"""The fan-out over sinks of the plainest kind: who is written what, and what a bad one may do."""

import asyncio
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.core.samples import EPOCH, event
from tests.waiting import until
from twinwire.core.event import Event, Position
from twinwire.core.feed import Feed, Gap, Mode, Start, Why
from twinwire.core.log import Log, Retention
from twinwire.errors import Closed, CloseReason, Reason
from twinwire.fanout import Fanout

HUGE = 1 << 40


class Encoding:
    """Events as they are, counted; one of the channel `bad` cannot be carried."""

    per_selector = False
    separator = b""

    def __init__(self) -> None:
        self.encoded: list[int] = []

    def event(self, event: Event, selector: str) -> bytes:
        if event.channel == "bad":
            raise Closed(CloseReason.INAPPROPRIATE_PROTOCOL)
        self.encoded.append(event.seq)
        return b"%d " % event.seq


class Wire:
    """Joins to bytes, counted."""

    resumes = True
    packs = False

    def __init__(self) -> None:
        self.encoding = Encoding()
        self.joined = 0

    def join(self, parts: Sequence[Any], readers: int = 1) -> bytes:
        self.joined += 1
        return b"".join(parts)

    def gap(self, gap: Gap) -> bytes:
        return b"gap:%s-%d-%d " % (gap.why.value.encode(), gap.begin.seq, gap.end.seq)


class Sink:
    """Remembers; is full over `room` bytes until it is drained."""

    def __init__(self, fanout: Fanout, room: int = HUGE) -> None:
        self.fanout = fanout
        self.room = room
        self.full = False
        self.writes: list[bytes] = []
        self.closed: Reason | None = None
        self.buffered = 0
        self.dropped_times = 0
        self.feed: Feed

    def write(self, data: bytes) -> None:
        assert self.closed is None
        self.writes.append(data)
        self.buffered += len(data)
        self.full = self.buffered > self.room

    def waiting(self) -> int:
        return self.buffered

    def drain(self) -> None:
        self.buffered = 0
        self.full = False
        self.fanout.drained(self.feed)

    def dropped(self) -> None:
        assert self.writes  # the client has been told
        self.dropped_times += 1

    def close(self, reason: Reason) -> None:
        self.closed = reason

    @property
    def got(self) -> list[str]:
        return b"".join(self.writes).decode().split()


class Stage:
    """A fan-out, one wire, and numbered events."""

    def __init__(
        self,
        retention: Retention = Retention(),  # noqa: B008 (an immutable tuple)
        *,
        slice_ms: float = 2,
        read_bytes: int = HUGE,
        write_timeout: float = 30,
        buffered_bytes: int = HUGE,
    ) -> None:
        self.log = Log(EPOCH, retention=retention)
        self.fanout = Fanout(
            self.log,
            slice_ms=slice_ms,
            read_bytes=read_bytes,
            replay_bytes=HUGE,
            write_timeout=write_timeout,
            buffered_bytes=buffered_bytes,
        )
        self.wire = Wire()

    def sink(
        self,
        *channels: str,
        room: int = HUGE,
        since: int | Start = Start.NOW,
        kind: Callable[..., Sink] = Sink,
    ) -> Sink:
        """An attached subscriber."""
        sink = kind(self.fanout, room)
        feed = sink.feed = Feed(self.wire, sink)
        start = since if isinstance(since, Start) else Position(EPOCH, since)
        feed.start(channels or ("a",), Mode.EVERY, start, self.log)
        self.fanout.attach(feed)
        return sink

    def publish(self, *channels: str, size: int = 1) -> None:
        head = self.log.head
        self.fanout.append(
            [event(head + n, channel, size=size) for n, channel in enumerate(channels, 1)]
        )

    async def settle(self) -> None:
        """Let all turns come that are due."""
        for _ in range(1000):
            await asyncio.sleep(0)
            if not self.fanout._scheduled:
                return
        raise AssertionError("the fan-out does not come to rest")


async def test_a_live_subscriber_is_written_what_it_wants_once_a_tick() -> None:
    stage = Stage()
    sink = stage.sink("a", "b")
    await stage.settle()
    stage.publish("a", "x", "b")
    stage.publish("a")
    await stage.settle()
    stage.publish("b")
    await stage.settle()
    assert sink.writes == [b"1 3 4 ", b"5 "]


async def test_a_thousand_members_of_a_lane_cost_one_encoding_and_one_join() -> None:
    stage = Stage()
    sinks = [stage.sink() for _ in range(400)]
    await stage.settle()
    stage.publish("a", "a")
    stage.publish("a")
    await stage.settle()
    assert stage.wire.encoding.encoded == [1, 2, 3]
    assert stage.wire.joined == 1
    first = sinks[0].writes[0]
    assert all(sink.writes[0] is first and len(sink.writes) == 1 for sink in sinks)


async def test_with_nobody_listening_nothing_is_encoded_or_joined() -> None:
    stage = Stage()
    elsewhere = stage.sink("elsewhere")
    await stage.settle()
    stage.publish(*["a"] * 100)
    await stage.settle()
    assert (stage.wire.encoding.encoded, stage.wire.joined, elsewhere.writes) == ([], 0, [])


async def test_nothing_is_written_while_who_publishes_still_runs() -> None:
    stage = Stage()
    sink = stage.sink()
    await stage.settle()
    stage.publish("a")
    assert sink.writes == []
    await stage.settle()
    assert sink.got == ["1"]


async def test_one_who_attaches_between_a_publish_and_its_tick_gets_each_event_once() -> None:
    stage = Stage()
    early = stage.sink()
    await stage.settle()
    stage.publish("a", "a")
    late = stage.sink()
    from_start = stage.sink(since=0)
    stage.publish("a")
    await stage.settle()
    stage.publish("a")
    await stage.settle()
    assert early.got == from_start.got == ["1", "2", "3", "4"]
    assert late.got == ["3", "4"]


async def test_a_detached_subscriber_gets_nothing_more_and_detaching_twice_is_no_matter() -> None:
    stage = Stage()
    sinks = [stage.sink() for _ in range(3)]
    await stage.settle()
    stage.publish("a")
    stage.fanout.detach(sinks[1].feed)
    stage.fanout.detach(sinks[1].feed)
    await stage.settle()
    assert [sink.got for sink in sinks] == [["1"], [], ["1"]]
    for sink in sinks:
        stage.fanout.detach(sink.feed)
    assert len(stage.fanout.lanes) == 0
    assert not stage.fanout.feeds


async def test_one_that_detaches_while_it_reads_the_log_is_gone() -> None:
    stage = Stage(read_bytes=1)
    stage.publish(*["a"] * 50)
    sink = stage.sink(since=0)
    stage.fanout.detach(sink.feed)
    await stage.settle()
    assert sink.writes == []


async def test_a_full_sink_is_left_alone_until_it_has_drained_and_then_misses_nothing() -> None:
    stage = Stage()
    slow, quick = stage.sink(room=3), stage.sink()
    await stage.settle()
    for _ in range(5):
        stage.publish("a")
        await stage.settle()
    assert slow.got == ["1", "2"]
    assert quick.got == ["1", "2", "3", "4", "5"]
    slow.drain()
    await stage.settle()
    assert slow.got == ["1", "2", "3", "4", "5"]
    slow.drain()
    stage.publish("a")
    await stage.settle()
    assert slow.got[-1] == "6"


async def test_a_full_sink_reads_on_in_pieces_of_bounded_size() -> None:
    # Each event counts with some bytes for what is written around it.
    stage = Stage(read_bytes=150)
    slow = stage.sink(room=3)
    await stage.settle()
    for _ in range(10):
        stage.publish("a")
        await stage.settle()
    pieces = len(slow.writes)
    while slow.got[-1] != "10":
        slow.drain()
        await stage.settle()
        assert len(slow.writes) == pieces + 1
        assert slow.writes[-1].count(b" ") <= 3
        pieces += 1
    assert slow.got == [str(n) for n in range(1, 11)]


async def test_what_the_log_forgot_while_a_sink_was_full_is_told_as_a_gap() -> None:
    stage = Stage(Retention(events=3))
    slow = stage.sink(room=1)
    await stage.settle()
    for _ in range(8):
        stage.publish("a")
        await stage.settle()
    slow.drain()
    await stage.settle()
    assert slow.got == ["1", f"gap:{Why.TOO_SLOW.value}-1-5", "6", "7", "8"]


async def test_a_tick_is_cut_into_slices_between_which_others_are_served() -> None:
    stage = Stage(slice_ms=1e-6)
    sinks = [stage.sink() for _ in range(400)]
    await stage.settle()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while any(not sink.writes for sink in sinks):
            turns += 1
            await asyncio.sleep(0)

    stage.publish("a")
    await other()
    assert turns >= 400 / 10


async def test_the_next_tick_begins_when_the_last_write_of_this_one_is_out() -> None:
    stage = Stage(slice_ms=1e-6)
    sinks = [stage.sink() for _ in range(50)]
    await stage.settle()
    joined = stage.wire.joined
    stage.publish("a")
    await until(lambda: sinks[0].writes)
    for _ in range(5):
        stage.publish("a")
        await asyncio.sleep(0)
    await stage.settle()
    assert stage.wire.joined == joined + 2
    assert {tuple(sink.writes) for sink in sinks} == {(b"1 ", b"2 3 4 5 6 ")}


async def test_what_is_published_during_a_tick_goes_with_the_lanes_still_to_come() -> None:
    stage = Stage()

    class Busy(Sink):
        """While it is first written to, an event is published."""

        def write(self, data: bytes) -> None:
            super().write(data)
            if len(self.writes) == 1:
                stage.publish("a")

    before, busy = stage.sink("a", "x"), stage.sink("a", "y", kind=Busy)
    after = stage.sink("a", "z")
    await stage.settle()
    stage.publish("a")
    await stage.settle()
    assert after.writes == [b"1 2 "]
    assert before.writes == busy.writes == [b"1 ", b"2 "]


async def test_who_publishes_all_the_time_is_told_in_each_tick_that_it_may_go_on() -> None:
    stage = Stage(slice_ms=1e-6)
    sinks = [stage.sink("a", f"own.{number}") for number in range(20)]
    await stage.settle()
    stage.publish("a", "a")
    assert stage.fanout.ahead == 2
    stage.fanout.cut.clear()
    await stage.fanout.cut.wait()
    assert stage.fanout.ahead == 0
    await until(lambda: sinks[0].writes)
    stage.publish("a")
    assert (stage.fanout.ahead, sinks[-1].writes) == (1, [])
    await stage.settle()
    assert stage.fanout.ahead == 0
    assert all(sink.got == ["1", "2", "3"] for sink in sinks)


async def test_one_that_leaves_in_the_middle_of_a_tick_is_not_written_and_can_come_back() -> None:
    stage = Stage(slice_ms=1e-6)
    sinks = [stage.sink() for _ in range(50)]
    await stage.settle()
    stage.publish("a")
    await until(lambda: sinks[0].writes)
    last = sinks[-1]
    assert not last.writes
    position = stage.fanout.position(last.feed)
    stage.fanout.detach(last.feed)
    again = stage.sink(since=position.seq)
    await stage.settle()
    assert (last.got, again.got) == ([], ["1"])


async def test_those_behind_are_read_for_while_others_are_written_to_all_the_time() -> None:
    stage = Stage(read_bytes=1, slice_ms=0.01)
    stage.publish(*["a"] * 200)
    behind = [stage.sink(since=0) for _ in range(20)]
    live = [stage.sink() for _ in range(20)]
    published = 200
    while any(len(sink.got) < published for sink in behind):
        if published < 400:
            stage.publish("a")
            published += 1
        await asyncio.sleep(0)
    assert all(sink.got == [str(n) for n in range(1, published + 1)] for sink in behind)
    await stage.settle()
    assert all(sink.got == live[0].got for sink in live)


class Raises(Sink):
    """Fails when it is written to."""

    def write(self, data: bytes) -> None:
        raise OSError("as asked")


class RaisesAtClose(Raises):
    """Fails even when it is closed."""

    def close(self, reason: Reason) -> None:
        super().close(reason)
        raise OSError("as asked")


class Leaves(Sink):
    """Finds at its first write that its connection is gone."""

    def write(self, data: bytes) -> None:
        self.full = True
        self.fanout.detach(self.feed)


@pytest.mark.parametrize("since", [Start.NOW, 0])
async def test_a_sink_that_leaves_while_it_is_written_to_hurts_nobody_else(
    since: int | Start,
) -> None:
    stage = Stage()
    stage.publish("a")
    before = stage.sink(since=since)
    stage.sink(since=since, kind=Leaves)
    after = stage.sink(since=since)
    await stage.settle()
    stage.publish("a")
    await stage.settle()
    assert before.got == after.got == ["1", "2"][0 if since == 0 else 1 :]
    assert list(stage.fanout.feeds) == [before.feed, after.feed]


@pytest.mark.parametrize("kind", [Raises, RaisesAtClose])
@pytest.mark.parametrize("since", [Start.NOW, 0])
async def test_a_sink_that_raises_is_closed_and_hurts_nobody_else(
    kind: type[Sink], since: int | Start, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage()
    stage.publish("a")
    before = stage.sink(since=since)
    bad = stage.sink(since=since, kind=kind)
    after = stage.sink(since=since)
    await stage.settle()
    stage.publish("a")
    await stage.settle()
    stage.publish("a")
    await stage.settle()
    assert before.got == after.got == ["1", "2", "3"][0 if since == 0 else 1 :]
    assert bad.closed is CloseReason.WRITE_ERROR
    assert bad.feed not in stage.fanout.feeds
    assert "a sink failed" in caplog.text


@pytest.mark.parametrize("since", [Start.NOW, 0])
async def test_an_event_that_a_wire_cannot_carry_ends_its_streams_and_no_other(
    since: int | Start,
) -> None:
    stage = Stage()
    if since == 0:
        stage.publish("a", "bad", "a")
    sink, other = stage.sink("a", "bad", since=since), stage.sink("a", since=since)
    await stage.settle()
    if since is Start.NOW:
        stage.publish("a", "bad", "a")
        await stage.settle()
    stage.publish("a")
    await stage.settle()
    assert sink.closed is CloseReason.INAPPROPRIATE_PROTOCOL
    assert sink.got in ([], ["1"], ["1", "3"])
    assert other.got == ["1", "3", "4"]
    assert other.closed is None


async def test_a_position_is_what_has_been_written() -> None:
    stage = Stage()
    sink, slow = stage.sink(), stage.sink(room=1)
    await stage.settle()
    stage.publish("a", "other")
    assert stage.fanout.position(sink.feed).seq == 0
    await stage.settle()
    stage.publish("other")
    await stage.settle()
    assert stage.fanout.position(sink.feed) == Position(EPOCH, 3)
    stage.publish("a")
    await stage.settle()
    assert stage.fanout.position(sink.feed).seq == 4
    assert stage.fanout.position(slow.feed).seq == 2


async def test_channels_can_be_added_and_dropped_while_it_runs() -> None:
    stage = Stage()
    sink = stage.sink("a")
    stage.publish("a", "b")
    await stage.settle()
    recovery = stage.fanout.subscribe(sink.feed, "b", Mode.EVERY, Position(EPOCH, 0))
    assert recovery.recovered
    assert [missed.seq for missed in recovery.events] == [2]
    stage.publish("b", "a")
    await stage.settle()
    stage.fanout.unsubscribe(sink.feed, ["a"])
    stage.publish("a", "b")
    await stage.settle()
    assert sink.got == ["1", "3", "4", "6"]


@pytest.mark.parametrize("since", [Start.NOW, 0])
async def test_a_sink_that_takes_nothing_for_the_timeout_is_closed(since: int | Start) -> None:
    stage = Stage(write_timeout=30)
    if since == 0:
        # It has much to read, and has never been live.
        stage.publish(*["a"] * 50)
    sink, slow = stage.sink(since=since, room=10), stage.sink(since=since, room=10)
    await stage.settle()
    if since is Start.NOW:
        stage.publish(*["a"] * 50)
        await stage.settle()
    assert sink.full
    assert slow.full
    for second in range(1, 31):
        stage.fanout.expire(second * 1000)
        slow.buffered -= 1
        assert sink.closed is None
    stage.fanout.expire(31_000)
    assert sink.closed is CloseReason.WRITE_ERROR
    assert slow.closed is None


async def test_the_fullest_are_closed_when_all_together_hold_too_much() -> None:
    stage = Stage(buffered_bytes=1000)
    sinks = [stage.sink(room=10) for _ in range(3)]
    await stage.settle()
    stage.publish(*["a"] * 20)
    await stage.settle()
    for sink, buffered in zip(sinks, (400, 700, 300), strict=True):
        sink.buffered = buffered
    stage.fanout.expire(1000)
    stage.fanout.expire(2000)
    assert [sink.closed for sink in sinks] == [None, CloseReason.SLOW, None]


async def test_nothing_is_encoded_for_a_lane_whose_members_are_all_full() -> None:
    stage = Stage()
    sink = stage.sink(room=1)
    await stage.settle()
    stage.publish("a")
    await stage.settle()
    assert sink.full
    stage.publish("a", "a")
    await stage.settle()
    assert stage.wire.encoding.encoded == [1]


async def test_one_who_attaches_beyond_what_is_pending_joins_after_its_cut() -> None:
    stage = Stage()
    late: list[Sink] = []

    class Busy(Sink):
        """While it is written to, an event is published and somebody comes who begins after it."""

        def write(self, data: bytes) -> None:
            super().write(data)
            if not late:
                stage.publish("a")
                late.append(stage.sink("a"))

    stage.sink("a", kind=Busy)
    await stage.settle()
    stage.publish("a")
    await stage.settle()
    stage.publish("a")
    await stage.settle()
    assert late[0].got == ["3"]


async def test_the_memory_of_all_feeds_is_reckoned_up_and_down() -> None:
    stage = Stage()
    before = stage.sink("a")
    await stage.settle()
    one = stage.fanout.memory
    assert one > before.feed.cost
    sink = stage.sink("a")
    await stage.settle()
    # Of a lane that is there already only the member is new.
    assert stage.fanout.memory == one + sink.feed.cost
    stage.fanout.subscribe(sink.feed, "b.*", Mode.EVERY, None)
    await stage.settle()
    assert stage.fanout.memory > one + sink.feed.cost
    stage.fanout.unsubscribe(sink.feed, ["b.*"])
    await stage.settle()
    assert stage.fanout.memory == one + sink.feed.cost
    stage.fanout.detach(sink.feed)
    stage.fanout.detach(before.feed)
    assert stage.fanout.memory == 0


async def test_a_subscription_that_a_gap_has_ended_is_reckoned_no_more() -> None:
    stage = Stage(Retention(events=1))
    stage.wire.resumes = False
    sink = stage.sink("a", "b", since=Start.EARLIEST)
    with_both = sink.feed.cost
    stage.publish("a", "b")
    await stage.settle()
    assert sorted(sink.feed.selection) == ["b"]
    assert stage.fanout.feeds[sink.feed] == sink.feed.cost < with_both
    assert sink.dropped_times == 1


@pytest.mark.parametrize("channels", [1, 20, 300])
async def test_what_is_reckoned_is_about_what_is_taken(channels: int) -> None:
    stage = Stage()
    tracemalloc.start()
    try:
        for client in range(600 // channels):
            # Names of their own, as they come from different requests.
            feed = Feed(stage.wire, Sink.__new__(Sink))
            feed.sink.full = False
            names = [f"prices.{client}.{number}" for number in range(channels)]
            feed.start(names, Mode.EVERY, Start.NOW, stage.log)
            stage.fanout.attach(feed)
        await stage.settle()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.6 * taken < stage.fanout.memory < 1.6 * taken
