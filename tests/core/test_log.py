"""The log against a plain list of everything that was ever appended to it."""

import gc
import random
from collections import deque
from collections.abc import Iterator
from math import log2
from typing import Any, ClassVar, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.core.samples import (
    CHANNELS,
    EPOCH,
    PATTERNS,
    SELECTORS,
    channels,
    event,
    keys,
    matches,
    selected,
    selections,
    selectors,
)
from twinwire.core.event import Event, Pattern, Position, Selection
from twinwire.core.log import OVERHEAD, Log, Retention

ENOUGH = 1 << 40


def log_of(*events: Event, **options: Any) -> Log:
    log = Log(EPOCH, **options)
    for each in events:
        log.append(each)
    return log


class Plain:
    """A log that is lists: everything ever appended, and by the plainest way what is retained."""

    def __init__(
        self,
        after: int,
        retention: Retention,
        rules: list[tuple[str, Retention]],
        channels_max: int,
        keys_max: int,
    ) -> None:
        self.retention, self.rules = retention, rules
        self.channels_max, self.keys_max = channels_max, keys_max
        self.head = self.floor = after
        # A channel that is first seen later begins with the floor of that time.
        self.floors = {after}
        self.ever: list[Event] = []
        self.kept: dict[int, Event] = {}
        self.bytes = 0
        self.known: dict[str, deque[Event]] = {}
        self.last: dict[str, int] = {}
        self.latest: dict[str, dict[str | None, Event]] = {}
        self.lost_keys: list[Event] = []

    def append(self, event: Event) -> None:
        name = event.channel
        if name not in self.known:
            if len(self.known) >= self.channels_max:
                self.forget(min(self.known, key=self.last.__getitem__))
            self.known[name], self.latest[name] = deque(), {}
        self.head = self.last[name] = event.seq
        self.ever.append(event)
        self.kept[event.seq] = event
        self.bytes += len(event.data)
        self.known[name].append(event)
        latest = self.latest[name]
        latest.pop(event.key, None)
        latest[event.key] = event
        if len(latest) > self.keys_max:
            self.lost_keys.append(latest.pop(min(latest, key=lambda key: latest[key].seq)))
        self.expire(event.time, [name])

    def forget(self, name: str) -> None:
        while self.known[name]:
            self.evict(name)
        del self.known[name]
        self.lost_keys += self.latest.pop(name).values()
        self.floor = max(self.floor, self.last.pop(name))
        self.floors.add(self.floor)

    def evict(self, name: str) -> None:
        gone = self.known[name].popleft()
        del self.kept[gone.seq]
        self.bytes -= len(gone.data)

    def expire(self, now: int, names: list[str]) -> None:
        for name in names:
            keep = self.rule(name)
            events = self.known[name]
            size = sum(len(event.data) for event in events) if keep.bytes else 0
            while events and over(keep, len(events), size, events[0], now):
                size -= len(events[0].data)
                self.evict(name)
        while self.kept:
            oldest = self.kept[next(iter(self.kept))]
            if not over(self.retention, len(self.kept), self.bytes, oldest, now):
                break
            self.evict(oldest.channel)

    def rule(self, name: str) -> Retention:
        return next((keep for text, keep in self.rules if matches(text, name)), Retention())

    def newest(self, selection: frozenset[str], after: int, upto: int) -> list[Event]:
        found = [
            event
            for latest in self.latest.values()
            for event in latest.values()
            if after < event.seq <= upto and selected(selection, event.channel)
        ]
        return sorted(found, key=lambda event: event.seq)


def over(keep: Retention, events: int, size: int, oldest: Event, now: int) -> bool:
    return bool(
        (keep.events and events > keep.events)
        or (keep.bytes and size > keep.bytes)
        or (keep.age and oldest.time < now - keep.age)
    )


limits = st.sampled_from([0, 0, 1, 3, 10])
retentions = st.builds(Retention, limits, st.sampled_from([0, 0, 20, 200]), limits)
byte_limits = st.sampled_from([0, 1, 100, 500, ENOUGH])


def size_of(events: list[Event]) -> int:
    return sum(len(event.data) + OVERHEAD for event in events)


class LogMachine(RuleBasedStateMachine):
    """Whatever is appended, expired and read: what is read is what the plain lists have."""

    @initialize(
        after=st.sampled_from([0, 100]),
        retention=retentions,
        rules=st.lists(st.tuples(st.sampled_from(CHANNELS + PATTERNS), retentions), max_size=2),
        channels_max=st.sampled_from([1, 2, 4, 15]),
        keys_max=st.sampled_from([1, 2, 100]),
    )
    def begin(
        self,
        after: int,
        retention: Retention,
        rules: list[tuple[str, Retention]],
        channels_max: int,
        keys_max: int,
    ) -> None:
        self.plain = Plain(after, retention, rules, channels_max, keys_max)
        self.log = Log(
            EPOCH,
            after=after,
            retention=retention,
            rules=[(Pattern(text), keep) for text, keep in rules],
            channels_max=channels_max,
            keys_max=keys_max,
        )
        self.now = 1000

    def add(self, channel: str, key: str | None, size: int, hole: int) -> None:
        made = event(self.plain.head + 1 + hole, channel, key=key, size=size, time=self.now)
        self.log.append(made)
        self.plain.append(made)

    @rule(
        channel=channels,
        key=keys,
        size=st.integers(0, 30),
        hole=st.sampled_from([0, 0, 0, 1, 50]),
        passed=st.sampled_from([0, 0, 1, 5, -3]),  # a clock may be set back
    )
    def append(self, channel: str, key: str | None, size: int, hole: int, passed: int) -> None:
        self.now += passed
        self.add(channel, key, size, hole)

    @precondition(lambda self: len(self.plain.ever) < 5000)
    @rule(count=st.sampled_from([20, 300, 1500]), names=st.lists(channels, min_size=1, max_size=3))
    def burst(self, count: int, names: list[str]) -> None:
        for index in range(count):
            self.add(names[index % len(names)], None, 3, 0)

    @rule(passed=st.integers(0, 12))
    def expire(self, passed: int) -> None:
        self.now += passed
        self.log.expire(self.now)
        self.plain.expire(self.now, [n for n in self.plain.known if self.plain.rule(n).age])

    @rule(
        selection=selections,
        back=st.integers(0, 40) | st.integers(0, 6000),
        short=st.sampled_from([0, 0, 0, 1, 10, 500]),
        limit=byte_limits,
    )
    def read(self, selection: frozenset[str], back: int, short: int, limit: int) -> None:
        after, upto = max(0, self.plain.head - back), max(0, self.plain.head - short)
        events, reached = self.log.read(Selection(selection), after, upto, limit)
        assert events == [
            event
            for event in self.plain.kept.values()
            if after < event.seq <= reached and selected(selection, event.channel)
        ]
        self.bounded(events, reached, after, upto, limit)

    @rule(
        selection=selections,
        back=st.integers(0, 40) | st.integers(0, 6000),
        short=st.sampled_from([0, 0, 0, 1, 10, 500]),
        limit=byte_limits,
    )
    def read_latest(self, selection: frozenset[str], back: int, short: int, limit: int) -> None:
        after, upto = max(0, self.plain.head - back), max(0, self.plain.head - short)
        events, reached = self.log.read_latest(Selection(selection), after, upto, limit)
        assert events == self.plain.newest(selection, after, reached)
        self.bounded(events, reached, after, upto, limit)

    def bounded(self, events: list[Event], reached: int, after: int, upto: int, limit: int) -> None:
        assert after <= reached
        assert reached <= max(after, upto)
        if reached < upto:
            assert events
            assert events[-1].seq == reached
            assert size_of(events) >= limit
        assert size_of(events[:-1]) < max(limit, 1)

    @rule(
        channel=st.sampled_from([*CHANNELS, "x"]),
        back=st.none() | st.integers(0, 50),
        limit=st.integers(0, 5),
        reverse=st.booleans(),
    )
    def history(self, channel: str, back: int | None, limit: int, reverse: bool) -> None:
        after = 0 if back is None else max(0, self.plain.head - back)
        kept = [event for event in self.plain.kept.values() if event.channel == channel]
        if not reverse:
            expected = [event for event in kept if event.seq > after]
        else:
            expected = [event for event in reversed(kept) if not after or event.seq < after]
        found = self.log.history(channel, after=after, limit=limit, reverse=reverse)
        assert found == (expected[:limit] if limit else expected)

    @rule(selector=selectors)
    def whatever_is_gone_is_told(self, selector: str) -> None:
        plain, evicted = self.plain, self.log.evicted(selector)
        ever = [event.seq for event in plain.ever if matches(selector, event.channel)]
        gone = [seq for seq in ever if seq not in plain.kept]
        assert evicted >= max(gone, default=0)
        assert evicted in {*gone[-1:], *plain.floors}
        keys_lost = self.log.keys_lost(selector)
        lost = [event.seq for event in plain.lost_keys if matches(selector, event.channel)]
        assert keys_lost >= max(lost, default=0)
        assert keys_lost in {*lost, *plain.floors}

    @rule(channel=channels, key=keys)
    def latest(self, channel: str, key: str | None) -> None:
        assert self.log.latest(channel, key) == self.plain.latest.get(channel, {}).get(key)

    @rule(selector=selectors)
    def channels(self, selector: str) -> None:
        known = sorted(name for name in self.plain.known if matches(selector, name))
        assert self.log.channels(selector) == known

    @invariant()
    def it_counts_what_it_retains(self) -> None:
        assert len(self.log) == len(self.plain.kept)
        assert self.log.bytes == self.plain.bytes
        assert self.log.position == Position(EPOCH, self.plain.head)


TestLog = LogMachine.TestCase


def test_a_log_begins_after_a_position_and_nothing_before_it_is_known() -> None:
    log = log_of(event(8), after=7)
    assert log.position == Position(EPOCH, 8)
    assert [log.evicted(s) for s in ("a", "b", "*")] == [7, 7, 7]
    assert [log.keys_lost(s) for s in ("a", "b", "*")] == [7, 7, 7]


def test_a_channel_that_retains_nothing_is_still_known() -> None:
    log = log_of(event(1, key="k"), event(2, key="l"), retention=Retention(age=10))
    log.channels("*")
    log.expire(100)
    log.append(event(3, "b", time=100))
    log.append(event(4, key="m", time=100))
    assert log.evicted("a") == 2
    assert log.channels("*") == ["a", "b"]
    newest = log.read_latest(Selection(["a", "*"]), 0, 4, ENOUGH).events
    assert [event.seq for event in newest] == [1, 2, 3, 4]


def test_the_newest_of_a_key_is_known_when_nothing_is_retained() -> None:
    log = log_of(event(1, key="k"), retention=Retention(age=10))
    log.expire(100)
    assert len(log) == 0
    assert log.latest("a", "k") == event(1, key="k")
    assert log.latest("a") is None
    assert log.latest("b", "k") is None


def test_an_event_over_the_limit_is_not_retained_and_that_is_told() -> None:
    log = log_of(event(1, size=5), event(2, size=50), retention=Retention(bytes=10))
    assert len(log) == 0
    assert log.evicted("a") == 2


def test_the_first_rule_that_matches_counts() -> None:
    rules = [(Pattern("a"), Retention(events=1)), (Pattern(">"), Retention(events=2))]
    events = [event(seq, "ab"[seq % 2]) for seq in range(1, 9)]
    log = log_of(*events, rules=rules)
    assert [event.seq for event in log.history("a")] == [8]
    assert [event.seq for event in log.history("b")] == [5, 7]


def test_a_key_that_is_forgotten_is_the_one_longest_without_an_event() -> None:
    names = ["k", "l", "k", "m"]
    log = log_of(*(event(seq, key=key) for seq, key in enumerate(names, 1)), keys_max=2)
    assert log.keys_lost("a") == 2
    newest = log.read_latest(Selection(["a"]), 0, 4, ENOUGH).events
    assert [event.key for event in newest] == ["k", "m"]


class Weighed(bytes):
    """Data that counts how many of its kind are alive."""

    alive: ClassVar[int] = 0

    def __new__(cls, size: int) -> "Weighed":
        cls.alive += 1
        return super().__new__(cls, size)

    def __del__(self) -> None:
        Weighed.alive -= 1


@pytest.mark.parametrize(
    ("retention", "rule"),
    [
        (Retention(events=100), Retention()),
        (Retention(bytes=1000), Retention()),
        (Retention(age=50), Retention()),
        (Retention(), Retention(events=50)),
        (Retention(), Retention(bytes=500)),
        (Retention(), Retention(age=50)),
        (Retention(events=100), Retention(events=1)),
    ],
)
def test_what_is_evicted_is_let_go_of(retention: Retention, rule: Retention) -> None:
    gc.collect()
    before = Weighed.alive
    log = Log(EPOCH, retention=retention, rules=[(Pattern("*"), rule)])
    # Stands at the old end for ever, unless there is a retention of the whole.
    log.append(Event("quiet.one", Weighed(10), EPOCH, 1, 0))
    for seq in range(2, 20_000):
        log.append(Event("abc"[seq % 3], Weighed(10), EPOCH, seq, seq))
        newest = 4
        swept_at = 0 if rule == Retention() else len(log) + 1025
        assert Weighed.alive - before <= len(log) + swept_at + newest
    del log
    assert Weighed.alive == before


def test_large_events_are_let_go_of_sooner() -> None:
    gc.collect()
    before = Weighed.alive
    log = Log(EPOCH, rules=[(Pattern("*"), Retention(events=2))])
    log.append(Event("quiet.one", Weighed(10), EPOCH, 1, 0))
    for seq in range(2, 200):
        log.append(Event("a", Weighed(100_000), EPOCH, seq, 0))
        assert Weighed.alive - before <= 3 + 2 + 11


def test_channels_that_are_forgotten_are_let_go_of() -> None:
    gc.collect()
    before = Weighed.alive
    log = Log(EPOCH, channels_max=10)
    for seq in range(1, 2000, 2):
        log.append(Event("busy", b"", EPOCH, seq, 0))
        log.append(Event(f"a.{seq}", Weighed(10), EPOCH, seq + 1, 0))
        # They are taken out of the list of all events now and then.
        assert Weighed.alive - before <= 10 + (10 + 10 + 1024 + 1)


class Watched:
    """An event that tells when it is looked at."""

    seen: ClassVar[set[int]] = set()

    def __init__(self, seq: int, channel: str) -> None:
        self._seq, self._channel = seq, channel
        self.data, self.key, self.time = b"x", None, 0

    @property
    def seq(self) -> int:
        self.seen.add(self._seq)
        return self._seq

    @property
    def channel(self) -> str:
        self.seen.add(self._seq)
        return self._channel


def watched(names: Iterator[str]) -> Log:
    log = Log(EPOCH)
    for seq, name in enumerate(names, 1):
        log.append(cast(Event, Watched(seq, name)))
    return log


def visited(log: Log, selection: list[str], after: int, upto: int, limit: int) -> tuple[int, int]:
    """How many events a read looks at, and how many it returns."""
    Watched.seen.clear()
    events, _ = log.read(Selection(selection), after, upto, limit)
    return len(Watched.seen), len(events)


def worst(log: Log, selection: list[str], returned: int) -> int:
    """What a read may look at: a multiple of what it returns, and a search in each channel."""
    own = sum(len(log.channels(selector)) for selector in selection)
    return 9 * (returned + 1) + own * (9 + int(log2(log.head))) + int(log2(log.head))


@pytest.fixture(scope="module")
def firehose() -> Log:
    """40,000 events: a quiet channel at the beginning and the end, and a late burst of its own."""

    def names() -> Iterator[str]:
        for index in range(40_000):
            if index % 10_000 == 1:
                yield "quiet.a"
            elif index % 10_000 == 2:
                yield "quiet.b"
            elif index > 36_000 and index % 2:
                yield "late"
            else:
                yield f"fire.{index % 7}"

    return watched(names())


@pytest.mark.parametrize("limit", [1, 10_000, ENOUGH])
@pytest.mark.parametrize(
    "selection",
    [
        ["quiet.a"], ["quiet.*"], ["quiet.a", "quiet.b"], ["late"], ["late", "quiet.*"], ["fire.*"],
        ["fire.0", "late"], [">"], ["x"], ["x.>"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_reading_visits_a_fixed_multiple_of_what_it_returns(
    firehose: Log, selection: list[str], limit: int
) -> None:
    for after in (0, 1, 10_000, 35_000, 39_990):
        for upto in (after + 100, firehose.head):
            seen, returned = visited(firehose, selection, after, upto, limit)
            assert seen <= worst(firehose, selection, returned)


def test_the_reader_of_a_quiet_channel_does_not_pay_for_the_firehose(firehose: Log) -> None:
    seen, returned = visited(firehose, ["quiet.a"], 0, firehose.head, ENOUGH)
    assert returned == 4
    assert seen < 100


@given(st.randoms(use_true_random=False), st.lists(selectors, min_size=1, max_size=5))
def test_reading_on_in_small_steps_gives_the_same_as_reading_at_once(
    dice: random.Random, chosen: list[str]
) -> None:
    names = dice.choices(CHANNELS, [1, 5, 30, 200, dice.choice([0, 1000])], k=400)
    log = log_of(*(event(seq, name) for seq, name in enumerate(names, 1)))
    selection = Selection(chosen)
    whole = log.read(selection, 0, log.head, ENOUGH).events
    steps: list[Event] = []
    reached = 0
    while reached < log.head:
        events, reached = log.read(selection, reached, log.head, dice.randint(0, 500))
        steps += events
    assert steps == whole


def test_more_patterns_than_are_kept_listed_all_match() -> None:
    log = log_of(event(1, "a.b"))
    for index in range(1100):
        assert log.channels(f"x{index}.*") == []
    log.append(event(2, "x0.y"))
    log.append(event(3, "x1099.y"))
    assert log.channels("x0.*") == ["x0.y"]
    assert log.channels("x1099.*") == ["x1099.y"]


def test_the_selectors_of_these_tests_mean_what_they_should() -> None:
    assert {s: [c for c in CHANNELS if matches(s, c)] for s in SELECTORS} == {
        **{channel: [channel] for channel in CHANNELS},
        "*": ["a", "d"],
        "a.*": ["a.b", "a.c"],
        "*.b": ["a.b"],
        "a.>": ["a.b", "a.c", "a.b.c"],
        "*.*.c": ["a.b.c"],
        ">": CHANNELS,
        "x": [],
        "x.*": [],
    }
