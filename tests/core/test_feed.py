"""Feeds: how one subscriber reads on, and what it is told. See also test_lossless."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.samples import EPOCH, event, selectors
from tests.core.wires import Part, TestWire, stream, subscriptions
from twinwire.core.event import Pattern, Position, Selection
from twinwire.core.feed import Feed, Gap, Mode, Start, Why, knows
from twinwire.core.lane import Lanes
from twinwire.core.log import OVERHEAD, Log, Retention
from twinwire.core.recovery import subscribe
from twinwire.errors import BadChannel, Closed, CloseReason

ENOUGH = 1 << 40
ONE = 1
"""A limit that each event reaches."""


def at(seq: int) -> Position:
    return Position(EPOCH, seq)


def log_of(*names: str, **options: Any) -> Log:
    """A log of events of these channels; `a=k` is one of channel `a` with the key `k`."""
    log = Log(EPOCH, **options)
    publish(log, *names)
    return log


def publish(log: Log, *names: str) -> None:
    for name in names:
        channel, _, key = name.partition("=")
        log.append(event(log.head + 1, channel, key=key or None))


class Reader:
    """A feed and what it has been written."""

    def __init__(self, log: Log, wire: TestWire | None = None, **options: Any) -> None:
        self.log = log
        self.lanes = Lanes()
        self.wire = wire or stream()
        self.feed = Feed(self.wire, **options)

    def start(
        self, *selectors: str, mode: Mode = Mode.EVERY, since: Position | Start = Start.NOW
    ) -> "Reader":
        self.feed.start(selectors, mode, since, self.log)
        return self

    def subscribe(self, selector: str, since: Position | None, mode: Mode = Mode.EVERY) -> Any:
        if self.feed.lane is not None:
            self.lanes.leave(self.feed, self.log.head)
        return subscribe(self.feed, selector, mode, since, self.log, ONE)

    def step(self, limit: int = ENOUGH) -> list[Any]:
        """The seqs of what comes next, and the gaps."""
        return [
            (item.seq, item.selector) if isinstance(item, Part) and item.selector
            else item.seq if isinstance(item, Part) else item
            for item in self.wire.read(self.feed.advance(self.log, self.lanes, limit))
        ]  # fmt: skip

    @property
    def live(self) -> bool:
        return self.feed.lane is not None


def gap(begin: Position, end: int, why: Why, *selectors: str) -> Gap:
    return Gap(begin, at(end), why, selectors)


# Where a stream begins


def test_every_event_from_now_on() -> None:
    reader = Reader(log_of("a", "a")).start("a")
    assert reader.feed.begins(reader.log) == at(2)
    assert reader.step() == []
    assert reader.live


def test_the_latest_of_each_key_and_then_from_now_on() -> None:
    reader = Reader(log_of("a=k", "a=l", "b", "a=k", "a")).start("a", mode=Mode.LATEST)
    assert reader.feed.begins(reader.log) == at(0)
    assert reader.step() == [2, 4, 5]
    assert reader.live


def test_every_event_after_a_position() -> None:
    reader = Reader(log_of("a", "b", "a", "a")).start("a", since=at(1))
    assert reader.feed.begins(reader.log) == at(1)
    assert reader.step() == [3, 4]


def test_the_keys_that_have_changed_since_a_position() -> None:
    log = log_of("a=k", "a=l", "a=k", "a=k", retention=Retention(events=1))
    assert Reader(log).start("a", mode=Mode.LATEST, since=at(2)).step() == [4]


def test_from_the_earliest_event_that_is_retained_without_a_gap() -> None:
    log = log_of("a", "a", "a", retention=Retention(events=2))
    assert Reader(log).start("a", since=Start.EARLIEST).step() == [2, 3]


@pytest.mark.parametrize("since", [Position(EPOCH - 1, 2), Position(EPOCH + 1, 2), at(99)])
def test_a_position_that_the_log_does_not_know_is_a_gap_and_all_of_the_log(since: Position) -> None:
    log = log_of("a", "a")
    assert not knows(log, since)
    reader = Reader(log).start("a", since=since)
    assert reader.feed.begins(log) == since
    assert reader.step() == [gap(since, 0, Why.RESTARTED, "a"), 1, 2]
    assert reader.live


def test_a_gap_to_another_log_covers_what_this_one_has_evicted() -> None:
    log = log_of("a", "a", "a", retention=Retention(events=1))
    since = Position(EPOCH - 1, 2)
    assert Reader(log).start("a", since=since).step() == [gap(since, 2, Why.RESTARTED, "a"), 3]


def test_a_snapshot_has_no_gap_where_keys_were_forgotten_before() -> None:
    log = log_of("a=k", "a=l", "b=k", keys_max=1, after=0)
    reader = Reader(log).start("a", ">", mode=Mode.LATEST)
    assert reader.step() == [2, 3]


def test_selectors_are_checked() -> None:
    with pytest.raises(BadChannel):
        Reader(log_of()).start("a", "a..b")


# Reading on


def test_reading_stops_at_the_limit_and_goes_on_from_there() -> None:
    reader = Reader(log_of(*"aaaaa")).start("a", since=at(0))
    assert reader.step(2 * OVERHEAD) == [1, 2]
    assert not reader.live
    assert reader.step(ONE) == [3]
    assert reader.step() == [4, 5]
    assert reader.live


def test_a_gap_is_declared_before_what_follows_it_and_once() -> None:
    log = log_of(*"aaaa", retention=Retention(events=2))
    reader = Reader(log).start("a", since=at(1))
    assert reader.step(ONE) == [gap(at(1), 2, Why.EVICTED, "a"), 3]
    assert reader.step(ONE) == [4]


def test_what_is_evicted_while_a_feed_is_behind_is_a_gap_because_it_is_too_slow() -> None:
    log = log_of(*"aaaa", retention=Retention(events=4))
    reader = Reader(log).start("a", since=at(0))
    assert reader.step(ONE) == [1]
    publish(log, *"aaa")
    assert reader.step(ONE) == [gap(at(1), 3, Why.TOO_SLOW, "a"), 4]


def test_being_too_slow_ends_a_strict_stream_but_coming_late_does_not() -> None:
    log = log_of(*"aaaa", retention=Retention(events=2))
    reader = Reader(log, strict=lambda selector: selector == "a").start("a", "b", since=at(0))
    assert reader.step(ONE) == [gap(at(0), 2, Why.EVICTED, "a"), 3]
    publish(log, *"bbb")
    with pytest.raises(Closed) as caught:
        reader.step()
    assert caught.value.reason is CloseReason.SLOW


def test_a_gap_of_one_channel_does_not_hide_a_later_one_of_another() -> None:
    rules = [(Pattern("a"), Retention(events=1)), (Pattern("b"), Retention(events=3))]
    log = log_of("b", "a", "b", "b", "a", "a", rules=rules)
    reader = Reader(log).start("a", "b", since=at(0))
    assert reader.step(ONE) == [gap(at(0), 5, Why.EVICTED, "a"), 1]
    publish(log, "b", "b")
    assert reader.step() == [gap(at(1), 3, Why.TOO_SLOW, "b"), 4, 6, 7, 8]


def test_who_wants_the_latest_skips_what_is_superseded_only_when_behind() -> None:
    log = log_of("a=k", "a=k", "a=l")
    reader = Reader(log).start("a", mode=Mode.LATEST)
    assert reader.step() == [2, 3]
    for name in ("a=k", "a=k"):
        publish(log, name)
        reader.lanes.append(log.history("a", limit=1, reverse=True)[0])
    (cut,) = reader.lanes.cuts(log)
    assert reader.wire.read(cut.data) == [Part(4, ""), Part(5, "")]


def test_a_feed_without_channels_has_reached_the_head() -> None:
    reader = Reader(log_of("a"))
    assert reader.step() == []
    assert reader.feed.position == 1
    assert not reader.live


def test_what_a_client_is_told_never_goes_back() -> None:
    log = log_of("a")
    reader = Reader(log).start("a")
    reader.step()
    publish(log, "b")
    assert reader.feed.reached(log.head) == 2
    publish(log, "a")
    reader.lanes.append(event(3, "a"))
    assert reader.feed.reached(log.head) == 2


# Subscriptions that come and go


def test_a_subscription_recovers_what_it_has_missed_in_parts() -> None:
    log = log_of(*"aaa")
    reader = Reader(log, subscriptions())
    assert reader.subscribe("a", at(0)) == ([event(1)], True, at(0))
    assert reader.step() == [(2, "a"), (3, "a")]
    assert reader.live


def test_a_subscription_that_cannot_be_recovered_begins_at_the_head() -> None:
    log = log_of(*"aaa", retention=Retention(events=1))
    for since in (at(0), at(1), at(99), Position(1, 1), None):
        reader = Reader(log, subscriptions())
        assert reader.subscribe("a", since) == ([], False, at(3))
        assert reader.step() == []
        assert reader.live


def test_a_subscription_to_the_latest_that_cannot_be_recovered_begins_anew() -> None:
    log = log_of("a=k", "a=l", "a=m", keys_max=2)
    reader = Reader(log, subscriptions())
    events, recovered, start = reader.subscribe("a", at(0), Mode.LATEST)
    assert ([each.seq for each in events], recovered) == ([2], False)
    # Not the head: the client may have to ask for the rest from here.
    assert start == at(2)
    assert reader.step() == [(3, "a")]
    assert reader.live


def test_an_answer_that_is_no_whole_snapshot_tells_all_the_same_how_far_something_is_lost() -> None:
    log = log_of("b=k", "a=k", "a=l", keys_max=1)
    reader = Reader(log, subscriptions())
    events, recovered, start = reader.subscribe(">", at(0), Mode.LATEST)
    assert ([each.seq for each in events], recovered, start) == ([1], False, at(2))
    assert reader.step() == [(3, ">")]
    assert reader.live


def test_a_subscription_does_not_repeat_what_others_have_had() -> None:
    log = log_of("a", "b", "a", "b", "a")
    reader = Reader(log, subscriptions())
    reader.subscribe("a", None)
    assert reader.subscribe("b", at(0)).recovered
    publish(log, "a", "b")
    assert reader.subscribe(">", at(6)).recovered
    told = []
    while not reader.live:
        told += reader.step(ONE)
    assert told == [(4, "b"), (6, "a"), (7, "b")]


def test_what_a_subscription_has_had_is_not_forgotten_for_one_that_is_further_behind() -> None:
    log = log_of("c", "b", "a", "c", "b")
    reader = Reader(log, subscriptions())
    reader.subscribe("a", None)
    reader.subscribe("b", at(0))
    reader.subscribe("c", at(0))
    told = []
    while not reader.live:
        told += reader.step()
    assert told == [(4, "c"), (5, "b")]


def test_a_subscription_that_comes_back_is_not_taken_for_what_it_was() -> None:
    log = log_of("a", "b", "a", "b")
    reader = Reader(log, subscriptions())
    reader.subscribe("a", None)
    reader.subscribe("b", at(0))
    reader.feed.drop(["a"])
    assert reader.subscribe("a", at(0)).events == [event(1, "a")]
    told = []
    while not reader.live:
        told += reader.step()
    assert told == [(3, "a"), (4, "b")]


def test_a_feed_with_subscriptions_further_on_does_not_join_a_batch_they_have_had() -> None:
    log, wire = log_of(), subscriptions()
    one, two = Reader(log, wire), Reader(log, wire)
    two.lanes = one.lanes
    for selector in ("a", "b"):
        one.subscribe(selector, None)
    assert one.step() == []
    two.subscribe("a", None)
    for seq, name in enumerate("ab", 1):
        publish(log, name)
        one.lanes.append(event(seq, name))
    assert two.subscribe("b", None).start == at(2)
    assert two.step() == []
    assert not two.live
    list(one.lanes.cuts(log))
    assert two.step() == [(1, "a")]
    assert two.live


def test_a_channel_that_several_subscriptions_match_comes_once_for_each() -> None:
    log = log_of()
    reader = Reader(log, subscriptions())
    for selector in ("a", "*", ">"):
        reader.subscribe(selector, None)
    publish(log, "a")
    assert sorted(reader.step()) == [(1, "*"), (1, ">"), (1, "a")]


def test_a_gap_ends_only_the_subscriptions_that_have_lost_events() -> None:
    log = log_of("a", "b", rules=[(Pattern("a"), Retention(events=1))])
    reader = Reader(log, subscriptions())
    reader.subscribe("a", None)
    reader.subscribe("b", None)
    publish(log, "a", "b", "a")
    assert reader.step() == [gap(at(2), 3, Why.EVICTED, "a"), (4, "b")]
    assert sorted(reader.feed.selection) == ["b"]
    assert reader.live


def test_what_one_subscription_lost_does_not_hide_what_another_loses() -> None:
    rules = [(Pattern("a"), Retention(events=1)), (Pattern("b"), Retention(events=2))]
    log = log_of("a", "b", rules=rules)
    reader = Reader(log, subscriptions())
    reader.subscribe("a", None)
    reader.subscribe("b", None)
    publish(log, "b", "b", "a", "a")
    assert reader.step(ONE) == [gap(at(2), 5, Why.EVICTED, "a"), (3, "b")]
    publish(log, "b", "b")
    assert reader.step() == [gap(at(3), 4, Why.TOO_SLOW, "b")]
    assert not reader.feed.selection


def test_a_subscription_that_was_dropped_may_come_back() -> None:
    log = log_of("a", "a", "b")
    reader = Reader(log, subscriptions())
    reader.subscribe("a", None)
    reader.subscribe("b", None)
    reader.feed.drop(["a"])
    publish(log, "a", "b")
    assert reader.step() == [(5, "b")]
    assert reader.subscribe("a", at(2)) == ([event(4)], True, at(2))
    assert reader.step() == []
    assert reader.live


@given(st.lists(st.tuples(st.sampled_from([*Mode, None]), selectors, st.booleans())))
def test_channels_come_and_go_one_by_one_or_many_at_once(
    changes: list[tuple[Mode | None, str, bool]],
) -> None:
    feed = Reader(log_of("a"), subscriptions()).feed
    empty = feed.cost
    has: dict[str, Mode] = {}
    for mode, selector, looks in changes:
        assert feed.selects(selector) == (selector in has)
        if mode is None:
            feed.drop([selector, selector])
            has.pop(selector, None)
        elif selector not in has:
            feed.add(selector, mode, 1)
            has[selector] = mode
        assert feed.count == len(has)
        if looks:
            assert feed.selection == Selection(has)
            assert feed.latest == Selection(s for s in has if has[s] is Mode.LATEST)
    assert feed.selection == Selection(has)
    assert feed.cost >= empty + sum(map(len, has))
    feed.drop(list(has))
    assert (feed.cost, feed.count, feed.selection) == (empty, 0, Selection())


def test_modes_may_be_mixed() -> None:
    log = log_of()
    reader = Reader(log, subscriptions())
    reader.subscribe("a", None)
    reader.subscribe("b", None, Mode.LATEST)
    publish(log, "b=k", "a=k", "a=k", "b=l", "b=k")
    told = []
    while not reader.live:
        told += reader.step(ONE)
    assert told == [(2, "a"), (3, "a"), (4, "b"), (5, "b")]


def test_a_feed_that_got_nothing_has_joined_or_awaits_a_cut() -> None:
    log = log_of()
    reader = Reader(log, subscriptions())
    reader.subscribe("b", None)
    publish(log, *"aaaaaa")
    reader.subscribe("a", None)
    assert reader.step(ONE) == []
    assert reader.live
