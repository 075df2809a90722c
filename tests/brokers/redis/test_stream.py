"""Following the log: nothing is left out unsaid, whatever happens to the stream meanwhile."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinwire.brokers.record import pack
from twinwire.brokers.redis.stream import BEGIN, RESUME, Began, Cursor, Entry, Lost, read
from twinwire.core.event import Draft, Event, Position


def event(seq: int, epoch: int = 1000) -> Entry:
    return [b"%d-%d" % (epoch, seq), [b"5", pack(Draft("a", b"%d" % seq))]]


def resumed(seq: int, before: int, epoch: int = 1000) -> Entry:
    return [b"%d-%d" % (epoch, seq), [RESUME, b"%d" % before]]


def begun(seq: int, epoch: int) -> Entry:
    return [b"%d-%d" % (epoch, seq), [BEGIN, b""]]


def foreign(seq: int, *fields: bytes) -> Entry:
    return [b"1000-%d" % seq, list(fields)]


def told(cursor: Cursor, entries: list[Entry]) -> list[Any]:
    """What is told, events as their numbers."""
    said = cursor.take(entries) if entries else ()
    return [[e.seq for e in one] if isinstance(one, list) else one for one in said]


def test_events_that_follow_each_other_are_told_together() -> None:
    cursor = Cursor(Position(1000, 4))
    (events,) = cursor.take([event(5), event(6)])
    assert events == [
        Event("a", b"5", 1000, 5, 5),
        Event("a", b"6", 1000, 6, 5),
    ]
    assert cursor.position == (1000, 6)


@pytest.mark.parametrize(
    ("entries", "expected", "position"),
    [
        ([event(5), event(6), event(7)], [[5, 6, 7]], (1000, 7)),
        # Numbers that are missing
        ([event(6)], [Began(Position(1000, 5)), [6]], (1000, 6)),
        ([event(5), event(8)], [[5], Began(Position(1000, 7)), [8]], (1000, 8)),
        # A server that was started again
        ([event(5), resumed(99, 5), event(100)], [[5], [100]], (1000, 100)),
        ([resumed(99, 4)], [], (1000, 99)),
        ([resumed(99, 4), resumed(200, 99), event(201)], [[201]], (1000, 201)),
        ([resumed(99, 7), event(100)], [Began(Position(1000, 99)), [100]], (1000, 100)),
        (
            [resumed(99, 3), event(100)],
            [Lost("it has lost the events from 1000-3 to 1000-4")],
            (1000, 4),
        ),
        (
            [event(5), resumed(99, 3), event(100)],
            [[5], Lost("it has lost the events from 1000-3 to 1000-5")],
            (1000, 5),
        ),
        # Another epoch
        ([begun(4, 2000), event(5, 2000)], [Began(Position(2000, 4)), [5]], (2000, 5)),
        ([event(5), begun(0, 2000)], [[5], Began(Position(2000, 0))], (2000, 0)),
        ([event(9, 2000)], [Began(Position(2000, 8)), [9]], (2000, 9)),
        (
            [begun(5, 2000), begun(7, 3000), event(8, 3000)],
            [Began(Position(2000, 5)), Began(Position(3000, 7)), [8]],
            (3000, 8),
        ),
        # What has been read before
        ([event(3), event(4), event(5)], [[5]], (1000, 5)),
        ([event(3), event(4)], [], (1000, 4)),
        # What is not of twinwire's is nobody's event
        ([event(5), foreign(6, b"a", b"b"), event(7)], [[5], [7]], (1000, 7)),
        ([foreign(5), event(6)], [[6]], (1000, 6)),
        ([foreign(5, b"7", b"junk"), event(6)], [[6]], (1000, 6)),
        ([foreign(5, b"a", b"b", b"c", b"d")], [], (1000, 5)),
        ([foreign(5, RESUME, b"x"), event(6)], [[6]], (1000, 6)),
    ],
)
def test_what_is_told_after_the_position_1000_4(
    entries: list[Entry], expected: list[Any], position: tuple[int, int]
) -> None:
    cursor = Cursor(Position(1000, 4))
    assert told(cursor, entries) == expected
    assert cursor.position == position


def test_what_could_not_be_told_comes_again() -> None:
    cursor = Cursor(Position(1000, 4))
    entries = [event(5), begun(5, 2000), event(6, 2000)]
    for _ in range(2):
        for said in cursor.take(entries):
            if isinstance(said, Began):
                break
        assert cursor.position == (1000, 5)
    assert told(cursor, entries) == [Began(Position(2000, 5)), [6]]


def test_an_acknowledged_event_before_which_the_log_was_resumed_is_lost() -> None:
    cursor = Cursor(Position(1000, 4))
    for seq in (5, 7, 101):
        cursor.acknowledge(Position(1000, seq))
    assert cursor.known == (1000, 101)
    assert told(cursor, [event(5), resumed(100, 6), event(101)]) == [
        [5],
        Began(Position(1000, 100)),
        [101],
    ]
    cursor = Cursor(Position(1000, 4))
    for seq in (5, 7, 101):
        cursor.acknowledge(Position(1000, seq))
    assert told(cursor, [event(5), event(6), resumed(100, 6), event(101)]) == [
        [5, 6],
        Lost("it has lost the events from 1000-6 to 1000-7"),
    ]
    cursor = Cursor(Position(1000, 4))
    for seq in (5, 101):
        cursor.acknowledge(Position(1000, seq))
    assert told(cursor, [event(5), resumed(100, 5), event(101)]) == [[5], [101]]
    assert cursor.known == (1000, 101)


def test_of_an_epoch_that_has_lost_events_nothing_more_is_told() -> None:
    cursor = Cursor(Position(1000, 4))
    entries = [resumed(99, 3), event(100), event(101)]
    assert isinstance(told(cursor, entries)[0], Lost)
    assert told(cursor, entries) == []
    more = [event(102), begun(102, 2000), event(103, 2000)]
    assert told(cursor, [*entries, *more]) == [Began(Position(2000, 102)), [103]]


def test_what_is_known_is_the_newest_of_what_was_seen_and_acknowledged() -> None:
    cursor = Cursor(Position(1000, 4))
    assert cursor.known == (1000, 4)
    cursor.acknowledge(Position(1000, 6))
    assert cursor.known == (1000, 6)
    list(cursor.take([event(5), event(6), event(7)]))
    assert cursor.known == (1000, 7)
    cursor.acknowledge(Position(1000, 8))
    assert cursor.known == (1000, 8)


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["append", "trim", "resume", "renew", "read"]), st.integers(0, 5)),
    max_size=40,
)


@given(ACTIONS)
def test_each_event_is_told_once_or_lies_before_a_beginning(
    actions: list[tuple[str, int]],
) -> None:
    stream: list[tuple[Position, Entry]] = []
    head = Position(1000, 0)
    everything: list[Position] = []
    cursor = Cursor(head)
    said: list[Any] = [Began(head)]

    def follow(count: int) -> None:
        coming = [entry for position, entry in stream if position > cursor.position]
        if coming[:count]:
            said.extend(cursor.take(coming[:count]))

    for action, number in actions:
        if action == "append":
            for _ in range(number):
                head = head._replace(seq=head.seq + 1)
                everything.append(head)
                stream.append((head, event(head.seq, head.epoch)))
        elif action == "trim":
            del stream[:number]
        elif action == "resume":
            before, head = head, head._replace(seq=head.seq + 10 + number)
            stream.append((head, resumed(head.seq, before.seq, head.epoch)))
        elif action == "renew":
            head = Position(head.epoch + 1, head.seq)
            stream[:] = [(head, begun(head.seq, head.epoch))]
        else:
            follow(number)
    follow(len(stream))
    assert cursor.position == head or not stream
    # Every event was told once, in order, unless a beginning came instead.
    reached, missing = Position(0, 0), list(everything)
    for one in said:
        assert not isinstance(one, Lost)
        if isinstance(one, Began):
            assert reached < one.position
            missing = [position for position in missing if position > one.position]
            reached = one.position
        else:
            for position in (item.position for item in one):
                assert reached < position
                assert missing.pop(0) == position
                reached = position
    assert [position for position in missing if position <= reached] == []


def test_an_entry_read_by_itself_says_what_comes_before_it() -> None:
    assert read(event(5))[:2] == ((1000, 5), 4)
    assert read(resumed(99, 5)) == (Position(1000, 99), 5, None)
    assert read(begun(4, 2000)) == (Position(2000, 4), 4, None)
    assert read(foreign(5, b"x", b"y")) == (Position(1000, 5), 4, None)
