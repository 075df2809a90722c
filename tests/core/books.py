"""The clients' side of test_lossless: what they read, and the books they keep over it."""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.core.samples import EPOCH, event, selected
from tests.core.wires import Part, TestWire
from twinwire.core.event import Event, Position
from twinwire.core.feed import Feed, Gap, Mode, Why
from twinwire.core.recovery import Recovery


class Truth:
    """Every event there ever was."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.newest: dict[tuple[str, str | None], int] = {}

    def add(self, seq: int, channel: str, key: str | None) -> Event:
        self.events.append(event(seq, channel, key=key, size=5))
        self.newest[channel, key] = seq
        return self.events[-1]

    def matching(self, selectors: Iterable[str], after: int, upto: int) -> list[Event]:
        start = bisect_right(self.events, after, key=lambda event: event.seq)
        stop = bisect_right(self.events, upto, key=lambda event: event.seq)
        chosen = list(selectors)
        return [each for each in self.events[start:stop] if selected(chosen, each.channel)]

    def event(self, seq: int) -> Event:
        (found,) = self.matching([">"], seq - 1, seq)
        return found


class Begun(NamedTuple):
    """The priming block: where the stream begins, which may be in another log."""

    position: Position


class Beat(NamedTuple):
    """A heartbeat: everything up to this position has been written."""

    position: Position


class Answer(NamedTuple):
    """The reply to a subscribe command that asked to recover from `since`."""

    selector: str
    mode: Mode
    since: Position | None
    recovery: Recovery


class Ended(NamedTuple):
    """The reply to an unsubscribe command."""

    selector: str


@dataclass
class Book:
    """What a client knows by one position: everything up to `at` is accounted for."""

    truth: Truth
    selectors: frozenset[str]
    mode: Mode
    at: int = 0
    position: Position | None = None
    gaps: list[tuple[int, int, tuple[str, ...]]] = field(default_factory=list)
    open: bool = True

    def begin(self, at: int, *gaps: tuple[int, int, tuple[str, ...]]) -> None:
        """A stream begins after `at`. What an older one declared does not count for it."""
        self.at = at
        self.gaps = list(gaps)
        self.open = True

    def account(self, upto: int) -> None:
        """Everything up to `upto` must have come, or be superseded, or be in a gap."""
        for each in self.truth.matching(self.selectors, self.at, upto):
            assert self._excused(each), f"{each.seq} was lost after {self.at}"
        self.at = max(self.at, upto)

    def _excused(self, event: Event) -> bool:
        newest = self.truth.newest[event.channel, event.key]
        return (self.mode is Mode.LATEST and newest > event.seq) or any(
            begin < event.seq <= end and selected(self.selectors.intersection(lost), event.channel)
            for begin, end, lost in self.gaps
        )

    def read(self, event: Event) -> None:
        """`event` has come."""
        assert event.seq > self.at, f"{event.seq} came after {self.at}"
        assert selected(self.selectors, event.channel)
        self.account(event.seq - 1)
        self.at = event.seq
        self.position = event.position

    def beat(self, position: Position) -> None:
        """Nothing before `position` is still to come."""
        assert position.seq >= self.at
        self.account(position.seq)
        self.position = position


@dataclass(eq=False)
class Client:
    """A client and its connections, one after the other.

    On a wire that resumes it has one book, under "", else one for each selector. `inbox` is what
    was written and is not read yet; a connection that breaks loses it.
    """

    wire: TestWire
    truth: Truth
    room: int
    pace: int = 0
    strict: bool = False
    books: dict[str, Book] = field(default_factory=dict)
    feed: Feed | None = None
    inbox: deque[Begun | Beat | Answer | Ended | Gap | Part] = field(default_factory=deque)

    @property
    def full(self) -> bool:
        return len(self.inbox) >= self.room

    def read(self, count: int) -> None:
        """Read so many items."""
        while self.inbox and count:
            count -= 1
            match self.inbox.popleft():
                case Begun(position):
                    self.books[""].position = position
                case Beat(position):
                    self.books[""].beat(position)
                case Answer() as answer:
                    self._subscribed(answer)
                case Ended(selector):
                    self.books[selector].open = False
                case Gap() as gap:
                    self._gap(gap)
                case Part(seq, selector):
                    self._part(self.truth.event(seq), selector)

    def _part(self, event: Event, selector: str) -> None:
        if not self.wire.resumes:
            assert self.books[selector].open
            self.books[selector].read(event)
            return
        # A stream may bring an event once for each selector that matches it.
        if not selector or event.seq != self.books[""].at:
            self.books[""].read(event)
        assert not selector or selected([selector], event.channel)

    def _gap(self, gap: Gap) -> None:
        if self.wire.resumes:
            begin = 0 if gap.why is Why.RESTARTED else gap.begin.seq
            self.books[""].gaps.append((begin, gap.end.seq, gap.selectors))
            return
        for selector in gap.selectors:
            assert self.books[selector].open
            self.books[selector].open = False

    def _subscribed(self, answer: Answer) -> None:
        selector, mode, since, (events, recovered, start) = answer
        assert start.epoch == EPOCH
        book = self.books.setdefault(selector, Book(self.truth, frozenset([selector]), mode))
        book.mode = mode
        if recovered:
            assert start == since
            book.begin(start.seq)
        elif mode is Mode.EVERY:
            assert not events
            book.begin(start.seq)
        else:
            book.begin(0, (0, start.seq, (selector,)))
        book.position = start
        for each in events:
            book.read(each)
        book.beat(book.position)
