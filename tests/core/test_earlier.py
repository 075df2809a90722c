"""Reading what lies before the log's memory, which the outside has fetched."""

from hypothesis import given
from hypothesis import strategies as st

from tests.core.samples import EPOCH, event
from tests.core.wires import Part, stream
from twinwire.core.event import Event, Position
from twinwire.core.feed import Earlier, Feed, Gap, Mode, Why
from twinwire.core.lane import Lanes
from twinwire.core.log import Log, Retention
from twinwire.core.replay import Replay


def history(count: int, kept: int, channels: int = 1) -> tuple[Log, list[Event]]:
    """A log that has forgotten all but the newest `kept` of `count` events, and all of them."""
    log = Log(EPOCH, retention=Retention(kept))
    events = [event(seq, f"c{seq % channels}") for seq in range(1, count + 1)]
    for each in events:
        log.append(each)
    return log, events


def stretch(events: list[Event], after: int, upto: int) -> Earlier:
    return Earlier(after, [e for e in events if after < e.seq <= upto], upto)


def read(feed: Feed, log: Log, limit: int = 1, replay: Replay | None = None) -> list[int | Gap]:
    """All that the feed is written until it is live."""
    wire, lanes, found = feed.wire, Lanes(), []
    while feed.lane is None:
        for item in wire.read(feed.advance(log, lanes, limit, replay)):  # type: ignore[attr-defined]
            found.append(item.seq if isinstance(item, Part) else item)
    return found


def test_what_is_earlier_comes_first_and_then_the_log() -> None:
    log, events = history(20, kept=5)
    for replay in (None, Replay(log, limit=1000, kept=1000)):
        feed = Feed(stream())
        feed.start(["c0"], Mode.EVERY, Position(EPOCH, 3), log, stretch(events, 3, 17))
        assert read(feed, log, replay=replay) == list(range(4, 21))


def test_what_the_broker_has_no_more_either_is_a_gap() -> None:
    log, events = history(20, kept=5)
    feed = Feed(stream())
    feed.start(["c0"], Mode.EVERY, Position(EPOCH, 3), log, stretch(events, 9, 17))
    gap = Gap(Position(EPOCH, 3), Position(EPOCH, 9), Why.EVICTED, ("c0",))
    assert read(feed, log) == [gap, *range(10, 21)]


def test_what_the_log_has_evicted_beyond_it_is_a_gap() -> None:
    log, events = history(20, kept=5)
    feed = Feed(stream())
    feed.start(["c0"], Mode.EVERY, Position(EPOCH, 3), log, stretch(events, 3, 12))
    gap = Gap(Position(EPOCH, 3), Position(EPOCH, 15), Why.EVICTED, ("c0",))
    assert read(feed, log) == [gap, *range(4, 13), *range(16, 21)]


def test_its_memory_counts_until_it_is_read() -> None:
    log, events = history(20, kept=5)
    feed, other = Feed(stream()), Feed(stream())
    other.start(["c0"], Mode.EVERY, Position(EPOCH, 3), log)
    feed.start(["c0"], Mode.EVERY, Position(EPOCH, 3), log, stretch(events, 3, 17))
    assert feed.cost > other.cost + 14 * 200
    read(feed, log)
    assert feed.cost == other.cost
    assert feed.earlier is None


@given(st.data())
def test_nothing_is_lost_silently_doubled_or_out_of_order(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 60))
    channels = data.draw(st.integers(1, 3))
    log, events = history(count, data.draw(st.integers(1, 60)), channels)
    since = data.draw(st.integers(0, count))
    begin = data.draw(st.integers(since, count))
    reached = data.draw(st.integers(begin, count))
    wanted = [f"c{n}" for n in range(data.draw(st.integers(1, channels)))]
    earlier = Earlier(
        begin, [e for e in events if begin < e.seq <= reached and e.channel in wanted], reached
    )
    feed = Feed(stream())
    feed.start(wanted, Mode.EVERY, Position(EPOCH, since), log, earlier)
    lanes, seen, gaps = Lanes(), [], []
    head = count
    while True:
        joined = feed.advance(log, lanes, data.draw(st.integers(1, 400)))
        for item in feed.wire.read(joined):  # type: ignore[attr-defined]
            if isinstance(item, Part):
                seen.append(item.seq)
            else:
                gaps.append(item)
        if feed.lane is not None:
            break
        for _ in range(data.draw(st.integers(0, 2)) if head < 80 else 0):
            head += 1
            events.append(event(head, f"c{head % channels}"))
            log.append(events[-1])
    expected = [e.seq for e in events if e.seq > since and e.channel in wanted]
    assert seen == sorted(set(seen))
    missing = set(expected) - set(seen)
    assert set(seen) <= set(expected)
    for seq in missing:
        assert any(gap.begin.seq < seq <= gap.end.seq for gap in gaps), (seq, gaps)
