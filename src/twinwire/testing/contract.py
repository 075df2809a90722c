"""The contract of brokers as tests, for whoever writes one: see `twinwire.brokers.base`.

A test file subclasses the classes that fit its broker and says how one is made::

    class TestMine(PersistentContract, SharedContract):
        @pytest.fixture(autouse=True)
        def place(self, tmp_path: Path) -> None:
            self.path = tmp_path / "log"

        async def make(self, config: Config) -> Broker:
            return MyBroker(self.path, config)

`BrokerContract` is for every broker. `PersistentContract` adds that the log outlives whoever had it
open, `SharedContract` that several nodes have it open at once, and `CutContract`, `OutageContract`
and `LossContract` what happens when a connection breaks, when the backend is away for a while, and
when it has lost events; each asks for a way to bring that about.

Every test has a log of its own, which is empty. The tests are coroutines, run by anyio's plugin for
pytest on asyncio; fixtures of a subclass may be coroutines too.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar, NamedTuple

import msgspec
import pytest

from twinwire.brokers.base import Broker, Config
from twinwire.core.event import Draft, Event, Kind, Position, Publisher, Selection
from twinwire.core.feed import Earlier
from twinwire.core.log import Retention
from twinwire.errors import BrokerError
from twinwire.testing.heard import Heard

CONFIG = Config()


class Strict(Heard):
    """A tail that holds what it is told against the rules."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self._last: Position | None = None

    def begin(self, position: Position, latest: Sequence[Event]) -> None:
        """See `Tail.begin`."""
        if self._last is not None and position <= self._last:
            self._fault(f"begins again at {position}, after {self._last}")
        if any(event.position > position for event in latest):
            self._fault(f"begins after {position} with an event that lies beyond")
        if [event.position for event in latest] != sorted(event.position for event in latest):
            self._fault("begins with events that are not in order")
        if len({(event.channel, event.key) for event in latest}) != len(latest):
            self._fault("begins with two events of one key")
        self._last = position
        super().begin(position, latest)

    def deliver(self, events: Sequence[Event]) -> None:
        """See `Tail.deliver`."""
        if not events:
            self._fault("delivers nothing")
        for event in events:
            last = self._last
            if last is None:
                self._fault(f"delivers {event.position} before it has told where it begins")
            elif event.position <= last:
                self._fault(f"delivers {event.position} after {last}")
            elif event.epoch != last.epoch:
                self._fault(f"delivers {event.position} without having begun its epoch")
            self._last = event.position
        super().deliver(events)

    def hear(self, notice: bytes) -> None:
        """See `Tail.hear`."""
        if self._last is None:
            self._fault("hears before it has been told where the log begins")
        super().hear(notice)

    def _fault(self, text: str) -> None:
        self.faults.append(text)


class Node(NamedTuple):
    """An open broker and what it has told."""

    broker: Broker
    heard: Strict

    async def append(self, *drafts: Draft) -> list[Position]:
        """Append in one call, and wait until the tail has got all of it."""
        positions = await self.broker.append(drafts)
        if positions:
            await self.reach(max(positions))
        return positions

    async def reach(self, position: Position) -> None:
        """Wait until the tail has been told of everything up to `position`."""
        heard = self.heard
        await heard.until(lambda: heard.position >= position)


def drafts(channel: str, count: int, key: str | None = None) -> list[Draft]:
    """So many different ones."""
    return [Draft(channel, b"%d" % number, key=key) for number in range(count)]


def said(events: Sequence[Event]) -> list[tuple[str, bytes]]:
    """What tells events apart in these tests."""
    return [(event.channel, event.data) for event in events]


def newest(events: Sequence[Event]) -> dict[tuple[str, str | None], Event]:
    """The newest event of each key."""
    return {(event.channel, event.key): event for event in events}


FIELDS = {
    "json": Draft("a", b'{"a": [1, null]}'),
    "text": Draft("a", "grün\nund \0".encode(), Kind.TEXT),
    "bytes": Draft("a", bytes(range(256)), Kind.BYTES),
    "empty": Draft("a", b"", Kind.BYTES),
    "names": Draft("grün.0123456789.%-_:/'\"\\,[{$", b"1", key="Schlüssel '\"\\ %-:", type="tick"),
    "longest": Draft("c" * 255, b"1", key="k" * 255, type="t" * 255, tags={"n" * 255: "v" * 255}),
    "tags": Draft("a", b"1", tags={"venue": "x", "": "", "grün": "ja"}),
    "publisher": Draft("a", b"1", publisher=Publisher("user", "client")),
    "conn_info": Draft("a", b"1", publisher=Publisher("u", "c", msgspec.Raw(b'{"name":"x"}'))),
    "null": Draft("a", b"1", publisher=Publisher("u", "c", msgspec.Raw(b"null"))),
    "all": Draft("a", b"x", Kind.TEXT, "k", "t", {"a": "b"}, Publisher("u"), "once"),
}
"""Drafts that between them have everything that a draft can have."""


class _Base:
    pytestmark: ClassVar = pytest.mark.anyio

    in_one_append: int = 5000
    """Events that one append can hold, at least."""

    largest: int = 64 << 10
    """Bytes of data that an event can hold, at least."""

    slack: int = 500
    """Events, or keys, that the broker may keep beyond its limits."""

    window: float = 0.2
    """The shortest `Config.idempotency_window`, in seconds, that the broker heeds."""

    @pytest.fixture(scope="session")
    @classmethod
    def anyio_backend(cls) -> str:
        """The hub and its brokers are made for asyncio."""
        return "asyncio"

    async def make(self, config: Config) -> Broker:
        """A broker on this test's log, not yet open."""
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self, config: Config = CONFIG) -> AsyncIterator[Node]:
        """Another broker on this test's log, open. At its end it must have broken no rule."""
        broker, heard = await self.make(config), Strict()
        await broker.open(heard)
        try:
            assert len(heard.begins) == 1, "open tells once where the log begins"
            yield Node(broker, heard)
        finally:
            await broker.close()
        assert heard.faults == []


class BrokerContract(_Base):
    """What holds for every broker."""

    # Order and positions

    async def test_a_log_is_born_with_nothing_in_it(self) -> None:
        async with self.opened() as node:
            position, latest = node.heard.begins[0]
            assert latest == []
            assert node.heard.events == []
            # In ms, by whichever clock.
            assert abs(position.epoch - time.time_ns() // 1_000_000) < 3_600_000

    async def test_events_have_rising_positions_in_the_order_given(self) -> None:
        async with self.opened() as node:
            start = node.heard.position
            positions = await node.append(*drafts("a", 3))
            positions += await node.append(Draft("b", b"3"))
            positions += await node.append(Draft("a", b"4"), Draft("c", b"5"))
            assert [start, *positions] == sorted({start, *positions})
            assert {position.epoch for position in positions} == {start.epoch}
            assert [event.position for event in node.heard.events] == positions
            assert [event.channel for event in node.heard.events] == list("aaabac")
            numbers = [b"0", b"1", b"2", b"3", b"4", b"5"]
            assert [event.data for event in node.heard.events] == numbers

    async def test_concurrent_appends_are_in_the_order_of_their_calls(self) -> None:
        async with self.opened() as node:
            answers = await asyncio.gather(*(node.broker.append([d]) for d in drafts("a", 300)))
            positions = [position for answer in answers for position in answer]
            assert positions == sorted(set(positions))
            await node.reach(positions[-1])
            assert [event.position for event in node.heard.events] == positions
            assert [event.data for event in node.heard.events] == [b"%d" % n for n in range(300)]

    async def test_nothing_comes_between_the_events_of_one_append(self) -> None:
        async with self.opened() as node:
            several = [drafts(f"c{number}", 10) for number in range(50)]
            answers = await asyncio.gather(*map(node.broker.append, several))
            await node.reach(max(map(max, answers)))
            expected = [(f"c{number}", b"%d" % n) for number in range(50) for n in range(10)]
            assert said(node.heard.events) == expected

    async def test_an_append_of_nothing_does_nothing(self) -> None:
        async with self.opened() as node:
            assert await node.broker.append([]) == []
            (position,) = await node.append(Draft("a", b"1"))
            assert [event.position for event in node.heard.events] == [position]

    async def test_one_append_holds_many_events(self) -> None:
        async with self.opened() as node:
            many = drafts("a", self.in_one_append)
            positions = await node.append(*many)
            assert positions == sorted(set(positions))
            assert said(node.heard.events) == [(draft.channel, draft.data) for draft in many]

    async def test_an_event_holds_much_data(self) -> None:
        async with self.opened() as node:
            data = random.Random(1).randbytes(self.largest)
            await node.append(Draft("a", data, Kind.BYTES))
            assert [event.data for event in node.heard.events] == [data]

    # Fields

    @pytest.mark.parametrize("draft", FIELDS.values(), ids=FIELDS)
    async def test_an_event_is_what_its_draft_says(self, draft: Draft) -> None:
        async with self.opened() as node:
            (position,) = await node.append(draft)
            (event,) = node.heard.events
            assert event == Event.of(draft, position, event.time)

    async def test_an_event_has_the_time_at_which_it_was_appended(self) -> None:
        async with self.opened() as node:
            # The backend's clock is another one than this.
            before = time.time_ns() // 1_000_000 - 5000
            await node.append(Draft("a", b"1"))
            assert before <= node.heard.events[0].time <= time.time_ns() // 1_000_000 + 5000

    # Idempotency

    async def test_an_event_published_again_under_its_key_is_the_same_event(self) -> None:
        async with self.opened() as node:
            first = await node.append(Draft("a", b"1", idempotency_key="x"))
            await node.append(Draft("a", b"2"))
            assert await node.append(Draft("a", b"3", idempotency_key="x")) == first
            await node.append(Draft("a", b"4"))
            assert said(node.heard.events) == [("a", b"1"), ("a", b"2"), ("a", b"4")]

    async def test_a_key_twice_in_one_append_is_one_event(self) -> None:
        async with self.opened() as node:
            once = [Draft("a", b"%d" % n, idempotency_key=key) for n, key in enumerate("xyxzy")]
            one, two, again, three, too = await node.append(*once)
            assert (again, too) == (one, two)
            assert one < two < three
            assert said(node.heard.events) == [("a", b"0"), ("a", b"1"), ("a", b"3")]

    async def test_what_is_new_is_appended_beside_what_is_not(self) -> None:
        async with self.opened() as node:
            (known,) = await node.append(Draft("a", b"0", idempotency_key="x"))
            one, again, two = await node.append(
                Draft("a", b"1"), Draft("a", b"2", idempotency_key="x"), Draft("b", b"3")
            )
            assert again == known < one < two
            assert said(node.heard.events) == [("a", b"0"), ("a", b"1"), ("b", b"3")]

    async def test_a_key_is_the_channels_own(self) -> None:
        async with self.opened() as node:
            one = await node.append(Draft("a", b"1", idempotency_key="x"))
            two = await node.append(Draft("b", b"2", idempotency_key="x"))
            # However the two are written together.
            await node.append(Draft("b", b"3", idempotency_key="c.x"))
            await node.append(Draft("b.c", b"4", idempotency_key="x"))
            assert one < two
            assert await node.append(Draft("b", b"5", idempotency_key="x")) == two
            assert await node.append(Draft("a", b"6", idempotency_key="x")) == one
            assert len(node.heard.events) == 4

    async def test_concurrent_appends_under_one_key_are_one_event(self) -> None:
        async with self.opened() as node:
            again = [Draft("a", b"%d" % n, idempotency_key="x") for n in range(50)]
            answers = await asyncio.gather(*(node.broker.append([draft]) for draft in again))
            assert len({position for answer in answers for position in answer}) == 1
            await node.append(Draft("a", b"end"))
            assert len(node.heard.events) == 2

    async def test_after_its_window_a_key_is_forgotten(self) -> None:
        async with self.opened(CONFIG._replace(idempotency_window=self.window)) as node:
            draft = Draft("a", b"1", idempotency_key="x")
            (first,) = await node.append(draft)
            begun = time.monotonic()
            while (position := (await node.broker.append([draft]))[0]) == first:
                assert time.monotonic() < begun + 20
                await asyncio.sleep(0.01)
            assert time.monotonic() - begun > self.window * 0.5
            await node.reach(position)
            assert [event.position for event in node.heard.events] == [first, position]

    # What nodes tell each other

    async def test_a_node_hears_what_it_tells(self) -> None:
        async with self.opened() as node:
            notices = [b"one", b"", bytes(range(256)), b"x" * 4096]
            for notice in notices:
                await node.broker.tell(notice)
            await node.heard.until(lambda: len(node.heard.notices) == 4)
            assert node.heard.notices == notices
            assert node.heard.events == []

    # Beginning and end

    async def test_a_broker_that_is_not_open_refuses(self) -> None:
        broker = await self.make(CONFIG)
        await self._refuses(broker)
        await broker.open(Strict())
        await broker.close()
        await self._refuses(broker)

    @staticmethod
    async def _refuses(broker: Broker) -> None:
        with pytest.raises(BrokerError):
            await broker.append([Draft("a", b"1")])
        with pytest.raises(BrokerError):
            await broker.tell(b"x")

    async def test_closing_twice_is_closing_once(self) -> None:
        broker = await self.make(CONFIG)
        await broker.open(Strict())
        await broker.close()
        await broker.close()

    async def test_a_broker_that_is_closed_tells_nothing_more(self) -> None:
        async with self.opened() as node:
            await node.append(Draft("a", b"1"))
            waiting = [asyncio.ensure_future(node.broker.append([d])) for d in drafts("b", 100)]
            await asyncio.sleep(0)
            await node.broker.close()
            told = len(node.heard.events)
            for answer in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(answer, list | BrokerError)
            assert len(node.heard.events) == told


class PersistentContract(BrokerContract):
    """And the log is still there when it is opened again."""

    async def test_opened_again_the_log_is_as_it_was(self) -> None:
        async with self.opened() as node:
            await node.append(*drafts("a", 5), *drafts("b", 5, key="k"))
            start, before = node.heard.begins[0][0], node.heard.events
        async with self.opened() as node:
            assert node.heard.begins == [(start, [])]
            assert node.heard.events == before

    async def test_opened_again_positions_go_on(self) -> None:
        last = Position(0, 0)
        epochs = set()
        for number in range(5):
            async with self.opened() as node:
                positions = await node.append(*drafts("a", number + 1))
            assert last < positions[0]
            last = positions[-1]
            epochs.add(last.epoch)
        assert len(epochs) == 1

    @pytest.mark.parametrize("draft", FIELDS.values(), ids=FIELDS)
    async def test_opened_again_an_event_is_what_its_draft_says(self, draft: Draft) -> None:
        async with self.opened() as node:
            await node.append(draft)
            before = node.heard.events
        async with self.opened() as node:
            assert node.heard.events == before

    async def test_opened_again_idempotency_keys_are_known(self) -> None:
        draft = Draft("a", b"1", idempotency_key="x")
        async with self.opened() as node:
            first = await node.append(draft)
        async with self.opened() as node:
            assert await node.append(draft) == first
            await node.append(Draft("a", b"2"))
            assert said(node.heard.events) == [("a", b"1"), ("a", b"2")]

    async def test_what_was_acknowledged_before_a_close_is_there_after_it(self) -> None:
        async with self.opened() as node:
            appending = [asyncio.ensure_future(node.broker.append([d])) for d in drafts("a", 300)]
            await appending[20]
            await node.broker.close()
            answers = await asyncio.gather(*appending, return_exceptions=True)
            acknowledged = {
                answer[0]: b"%d" % number
                for number, answer in enumerate(answers)
                if isinstance(answer, list)
            }
        assert len(acknowledged) > 20
        async with self.opened() as node:
            kept = {event.position: event.data for event in node.heard.events}
            assert acknowledged.items() <= kept.items()

    # A warm start

    async def test_of_many_events_only_the_newest_are_delivered(self) -> None:
        async with self.opened() as node:
            await node.append(*drafts("a", 50))
            all_of_them = node.heard.events
        async with self.opened(CONFIG._replace(warm=Retention(20))) as node:
            assert node.heard.events == all_of_them[-20:]
            assert node.heard.begins[0][0] == all_of_them[-21].position
            assert node.heard.begins[0][1] == [all_of_them[-21]] or not node.heard.begins[0][1]

    async def test_of_much_data_only_the_newest_is_delivered(self) -> None:
        async with self.opened() as node:
            await node.append(*(Draft("a", b"%0100d" % number) for number in range(50)))
            all_of_them = node.heard.events
        async with self.opened(CONFIG._replace(warm=Retention(0, 2000))) as node:
            count = len(node.heard.events)
            assert 0 < count <= 20
            assert node.heard.events == all_of_them[-count:]

    @pytest.mark.parametrize("seed", range(3))
    async def test_the_newest_event_of_each_key_comes_with_a_warm_start(self, seed: int) -> None:
        dice = random.Random(seed)
        everything: list[Event] = []
        for _ in range(4):
            warm = Retention(dice.choice((1, 10, 100, 1000)))
            async with self.opened(CONFIG._replace(warm=warm)) as node:
                (_, latest), warm_events = node.heard.begins[0], node.heard.events
                assert warm_events == everything[-warm.events :]
                assert set(latest) <= set(everything)
                assert newest([*latest, *warm_events]) == newest(everything)
                for _ in range(dice.randint(1, 100)):
                    key = dice.choice((None, "x", "y", "z"))
                    await node.append(Draft(dice.choice("abc"), b"%d" % len(everything), key=key))
                everything += node.heard.events[len(warm_events) :]

    # Retention

    async def test_what_is_over_the_limit_is_gone_at_last(self) -> None:
        config = CONFIG._replace(keep=Retention(100))
        async with self.opened(config) as node:
            many = drafts("a", 400 + 4 * self.slack)
            for start in range(0, len(many), 100):
                await node.append(*many[start : start + 100])
            all_of_them = node.heard.events
        async with self.opened(config) as node:
            count = len(node.heard.events)
            assert 100 <= count <= 100 + self.slack
            assert node.heard.events == all_of_them[-count:]

    async def test_the_newest_event_of_each_key_outlives_the_others(self) -> None:
        config = CONFIG._replace(keep=Retention(100))
        async with self.opened(config) as node:
            await node.append(*(Draft("quiet", b"%d" % n, key=f"k{n % 20}") for n in range(60)))
            await node.append(Draft("quiet", b"without"))
            for _ in range(4 + 4 * self.slack // 100):
                await node.append(*drafts("busy", 100))
            expected = newest(node.heard.events)
        async with self.opened(config) as node:
            kept = [*node.heard.begins[0][1], *node.heard.events]
            assert newest(kept) == expected
            # What follows supersedes what was kept.
            await node.append(Draft("quiet", b"new", key="k3"))
            expected = newest([*kept, *node.heard.events])
        async with self.opened(config) as node:
            assert newest([*node.heard.begins[0][1], *node.heard.events]) == expected

    async def test_over_their_limit_the_keys_longest_without_an_event_are_forgotten(self) -> None:
        config = CONFIG._replace(keep=Retention(100), keys_max=50)
        count = 150 + 2 * self.slack
        async with self.opened(config) as node:
            for start in range(0, count, 50):
                keys = range(start, start + 50)
                await node.append(*(Draft("keyed", b"1", key=f"k{n}") for n in keys))
            for _ in range(4 + 4 * self.slack // 100):
                await node.append(*drafts("busy", 100))
        async with self.opened(config) as node:
            latest = node.heard.begins[0][1]
            kept = [event.key for event in latest if event.channel == "keyed"]
            assert len(kept) <= 50 + self.slack
            assert kept == [f"k{n}" for n in range(count - len(kept), count)]
            assert len(kept) >= 49  # the one of `busy` may count

    async def test_a_key_that_has_new_events_is_not_forgotten(self) -> None:
        config = CONFIG._replace(keep=Retention(100), keys_max=50)
        async with self.opened(config) as node:
            for number in range(4):
                keyed = [Draft("keyed", b"%d" % number, key=f"k{n}") for n in range(40)]
                await node.append(*keyed)
                for _ in range(4 + 4 * self.slack // 100):
                    await node.append(*drafts("busy", 100))
            expected = newest(node.heard.events)
        async with self.opened(config) as node:
            assert newest([*node.heard.begins[0][1], *node.heard.events]) == expected

    # Reading back

    @asynccontextmanager
    async def with_a_past(self, config: Config = CONFIG) -> AsyncIterator[tuple[Node, list[Event]]]:
        """A node whose memory holds the newest event, and all 300 events."""
        dice = random.Random(7)
        async with self.opened(config) as node:
            names = ["a", "b", "p.x", "p.y", "p.y.z", "p"]
            past = [Draft(dice.choice(names), b"%d" % number) for number in range(299)]
            for start in range(0, 299, 50):
                await node.append(*past[start : start + 50])
            await node.append(Draft("rare", b"299"))
            events = node.heard.events
        async with self.opened(config._replace(warm=Retention(1))) as node:
            yield node, events

    SELECTIONS = (
        ["a"],
        ["a", "b"],
        ["rare"],
        ["none"],
        ["p.*"],
        ["p.>"],
        [">"],
        ["a", "p.*"],
        ["none", "*.*.z", "p"],
        ["other.>"],
    )

    @pytest.mark.parametrize("selectors", SELECTIONS, ids=" ".join)
    async def test_what_is_read_is_the_selection_between_two_positions(
        self, selectors: list[str]
    ) -> None:
        selection = Selection(selectors)
        async with self.with_a_past() as (node, events):
            start, end = events[0].seq - 1, events[-1].seq
            some = events[40].seq, events[200].seq
            for after, upto in [(start, end), some, (start, some[0]), (some[1], end), (end, end)]:
                earlier = await node.broker.read(selection, after, upto, 1000)
                assert (earlier.begin, earlier.reached) == (after, upto)
                assert earlier.events == between(events, selection, after, upto)

    @pytest.mark.parametrize("selectors", SELECTIONS, ids=" ".join)
    async def test_reading_is_bounded_and_what_is_read_is_the_newest(
        self, selectors: list[str]
    ) -> None:
        selection = Selection(selectors)
        async with self.with_a_past() as (node, events):
            start = events[0].seq - 1
            for upto in (events[-1].seq, events[200].seq):
                for limit in (0, 1, 10, 100):
                    earlier = await node.broker.read(selection, start, upto, limit)
                    assert start <= earlier.begin <= earlier.reached == upto
                    assert len(earlier.events) <= limit
                    assert earlier.events == between(events, selection, earlier.begin, upto)
                # What is far more than there is reads everything.
                assert (await node.broker.read(selection, start, upto, 1000)).begin == start

    async def test_what_is_gone_is_not_read_and_is_told(self) -> None:
        config = CONFIG._replace(keep=Retention(100))
        async with self.opened(config) as node:
            await node.append(Draft("quiet", b"1", key="k"))
            for _ in range(4 + 4 * self.slack // 100):
                await node.append(*drafts("busy", 100))
            events = node.heard.events
            start, end = events[0].seq - 1, events[-1].seq
            for names in (["busy"], ["quiet"], [">"]):
                selection = Selection(names)
                earlier = await node.broker.read(selection, start, end, 100_000)
                assert earlier.begin > start
                assert earlier.reached == end
                assert earlier.events == between(events, selection, earlier.begin, end)
            earlier = await node.broker.read(Selection(["busy"]), start, events[1].seq, 100_000)
            assert earlier == Earlier(events[1].seq, [], events[1].seq)

    async def test_a_broker_that_is_not_open_does_not_read(self) -> None:
        broker = await self.make(CONFIG)
        await broker.open(Strict())
        await broker.close()
        with pytest.raises(BrokerError):
            await broker.read(Selection(["a"]), 0, 10, 10)


def between(events: Sequence[Event], selection: Selection, after: int, upto: int) -> list[Event]:
    """The selection's events after `after` up to and with `upto`."""
    found = (event for event in events if after < event.seq <= upto)
    return [event for event in found if any(selection.matching(event.channel))]


class SharedContract(BrokerContract):
    """And several nodes have it open at once."""

    async def test_every_node_gets_the_same_events_in_the_same_order(self) -> None:
        async with self.opened() as one, self.opened() as two:
            assert one.heard.begins == two.heard.begins
            answers = await asyncio.gather(
                *(node.broker.append(drafts(f"c{n}", 5)) for n in range(40) for node in (one, two))
            )
            positions = sorted(position for answer in answers for position in answer)
            for node in (one, two):
                await node.reach(positions[-1])
                assert [event.position for event in node.heard.events] == positions
            assert one.heard.events == two.heard.events
            by_position = {event.position: event.data for event in one.heard.events}
            for answer in answers:
                # Its own events, next to each other.
                mine = [by_position[position] for position in answer]
                assert mine == [b"0", b"1", b"2", b"3", b"4"]
                first = positions.index(answer[0])
                assert positions[first : first + 5] == answer

    async def test_a_node_that_comes_later_has_the_log(self) -> None:
        async with self.opened() as one:
            await one.append(*drafts("a", 10))
            async with self.opened() as two:
                assert two.heard.position.epoch == one.heard.position.epoch
                (position,) = await two.append(Draft("a", b"end"))
                await one.reach(position)
                missed = [e for e in one.heard.events if e.position > two.heard.begins[0][0]]
                assert two.heard.events == missed

    async def test_opening_in_the_midst_of_events_misses_none(self) -> None:
        async with self.opened() as one:

            async def publish() -> None:
                for number in range(200):
                    await one.broker.append([Draft("a", b"%d" % number)])

            publishing = asyncio.create_task(publish())
            async with (
                self.opened() as two,
                self.opened(CONFIG._replace(warm=Retention(1))) as late,
            ):
                await publishing
                (end,) = await one.append(Draft("a", b"end"))
                for node in (two, late):
                    await node.reach(end)
                    begin = node.heard.begins[0][0]
                    assert node.heard.events == [
                        event for event in one.heard.events if event.position > begin
                    ]

    async def test_an_idempotency_key_is_known_on_every_node(self) -> None:
        async with self.opened() as one, self.opened() as two:
            draft = Draft("a", b"1", idempotency_key="x")
            answers = await asyncio.gather(
                *(node.broker.append([draft]) for _ in range(10) for node in (one, two))
            )
            assert len({position for answer in answers for position in answer}) == 1
            await one.append(Draft("a", b"2"))
            assert said(one.heard.events) == [("a", b"1"), ("a", b"2")]

    async def test_every_node_hears_what_one_tells(self) -> None:
        async with self.opened() as one, self.opened() as two:
            await one.broker.tell(b"from one")
            await two.broker.tell(b"from two")
            for node in (one, two):
                heard = node.heard
                await heard.until(lambda heard=heard: len(heard.notices) == 2)  # type: ignore[misc]
                assert sorted(heard.notices) == [b"from one", b"from two"]

    async def test_a_node_that_ends_does_not_end_the_others(self) -> None:
        async with self.opened() as one:
            async with self.opened() as two:
                await two.append(Draft("a", b"1"))
            (position,) = await one.append(Draft("a", b"2"))
            assert one.heard.events[-1].position == position
            assert len(one.heard.events) == 2


class CutContract(_Base):
    """What a broken connection does: nothing that anybody notices."""

    async def cut(self) -> None:
        """Break every connection to the backend once. New ones can be made."""
        raise NotImplementedError

    async def test_a_cut_loses_nothing_and_repeats_nothing(self) -> None:
        async with self.opened() as node:
            await node.append(Draft("a", b"before"))
            for number in range(5):
                await self.cut()
                await node.append(Draft("a", b"%d" % number, idempotency_key=f"k{number}"))
            expected = [b"before", b"0", b"1", b"2", b"3", b"4"]
            assert [event.data for event in node.heard.events] == expected
            assert len(node.heard.begins) == 1

    async def test_events_under_way_when_it_breaks_come_once(self) -> None:
        async with self.opened() as node:
            appending = [
                asyncio.ensure_future(
                    node.broker.append([Draft("a", b"%d" % n, idempotency_key=f"k{n}")])
                )
                for n in range(300)
            ]
            await appending[10]
            await self.cut()
            answers = await asyncio.gather(*appending)
            await node.reach(max(map(max, answers)))
            by_data = {event.data: event.position for event in node.heard.events}
            assert len(by_data) == len(node.heard.events) == 300
            assert [by_data[b"%d" % n] for n in range(300)] == [answer[0] for answer in answers]


class OutageContract(_Base):
    """What happens while the backend is away."""

    async def stop(self) -> None:
        """Let the backend be away, with all that it has been told kept."""
        raise NotImplementedError

    async def resume(self) -> None:
        """Let it be back."""
        raise NotImplementedError

    async def test_an_append_waits_for_the_backend(self) -> None:
        async with self.opened(CONFIG._replace(wait=30)) as node:
            (first,) = await node.append(Draft("a", b"1"))
            await self.stop()
            waiting = asyncio.create_task(
                node.broker.append([Draft("a", b"2", idempotency_key="x")])
            )
            await asyncio.sleep(0.1)
            assert not waiting.done()
            await self.resume()
            (second,) = await waiting
            await node.reach(second)
            assert first < second
            assert [event.data for event in node.heard.events] == [b"1", b"2"]
            assert len(node.heard.begins) == 1

    async def test_an_append_does_not_wait_for_ever(self) -> None:
        async with self.opened(CONFIG._replace(wait=0.3)) as node:
            await node.append(Draft("a", b"1"))
            await self.stop()
            begun = time.monotonic()
            with pytest.raises(BrokerError):
                await node.broker.append([Draft("a", b"2")])
            assert 0.2 < time.monotonic() - begun < 10
            await self.resume()
            await eventually(lambda: node.append(Draft("a", b"3")))
            assert [event.data for event in node.heard.events if event.data != b"2"] == [b"1", b"3"]

    async def test_open_says_that_the_backend_is_away(self) -> None:
        await self.stop()
        broker = await self.make(CONFIG._replace(wait=0.3))
        begun = time.monotonic()
        with pytest.raises(BrokerError) as caught:
            await broker.open(Strict())
        assert time.monotonic() - begun < 10
        assert "\n" not in str(caught.value)
        await self.resume()


class LossContract(_Base):
    """What happens when the backend has lost events that it had acknowledged."""

    async def lose(self) -> None:
        """Let it have lost what it was told lately, or all of it. Then it can be reached again."""
        raise NotImplementedError

    async def test_what_comes_after_a_loss_has_a_later_epoch(self) -> None:
        async with self.opened(CONFIG._replace(wait=30)) as node:
            positions = await node.append(*drafts("a", 10))
            await self.lose()
            await eventually(lambda: node.append(Draft("a", b"new")))
            begins = node.heard.begins
            assert [begin.epoch for begin, _ in begins] == sorted({b.epoch for b, _ in begins})
            assert len(begins) > 1
            assert node.heard.events[-1].data == b"new"
            assert node.heard.events[-1].epoch > positions[-1].epoch

    async def test_opened_after_a_loss_the_log_has_a_later_epoch(self) -> None:
        async with self.opened() as node:
            positions = await node.append(*drafts("a", 10))
        await self.lose()
        async with self.opened(CONFIG._replace(wait=30)) as node:
            assert node.heard.position.epoch > positions[-1].epoch
            (position,) = await node.append(Draft("a", b"new"))
            assert position.epoch > positions[-1].epoch


async def eventually(do: Callable[[], Awaitable[object]], seconds: float = 15.0) -> None:
    """Do it again until it succeeds: a backend that has just come back may refuse for a moment."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                await do()
                return
            except BrokerError:
                await asyncio.sleep(0.05)
