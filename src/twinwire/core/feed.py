"""A feed: one subscriber, as a cursor over the log.

1. A feed is a set of channels, the mode of each, and the position it has reached. It has no queue.
2. It is live (in a lane), or behind: it reads the log after its position until it may join.
   Replay after a reconnect, catching up after a stall and the first snapshot are this one reading.
3. Between two positions every matching event was delivered, or superseded by a newer one of its
   key where the mode is `latest`, or declared in a gap.
4. `ahead` holds the selectors that have been served beyond the feed's position: those whose
   subscription began, or was recovered, further on. They are left out of the reading up to there.
5. What lies before the log's memory it reads from `earlier`, if the outside has fetched that.
6. A gap is declared before what follows it, and once: `declared` is how far each selector's have
   been told. The retained events inside of it are still delivered.
7. What changes a feed's channels takes it out of its lane first; it goes on from its position.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from enum import Enum
from itertools import islice
from operator import attrgetter
from typing import Any, Final, NamedTuple

from twinwire.core.event import Event, Position, Selection
from twinwire.core.lane import Lane, Lanes
from twinwire.core.log import Log, take
from twinwire.core.replay import Replay
from twinwire.core.wire import Gap as Gap
from twinwire.core.wire import Why as Why
from twinwire.core.wire import Wire, encoded
from twinwire.errors import Closed, CloseReason

PACE_MAX: Final = 3_600_000
"""The longest time in ms between what a paced feed is told."""

_EVENT: Final = 230
"""Bytes of memory of an event besides its data, about."""

_SEQ: Final = attrgetter("seq")

_NOTHING: Final = Selection()

_COST: Final = 500
_COST_SELECTOR: Final = 40
"""Bytes of memory of a feed, and of each of its selectors besides the text; see `Feed.cost`."""


class Mode(Enum):
    """How a subscriber is brought up to date when it is behind."""

    EVERY = "every"
    """With each event, in order; what is gone from the log is a gap."""

    LATEST = "latest"
    """With the newest event of each key that has changed."""


class Start(Enum):
    """Where a subscriber without a position may begin."""

    NOW = "now"
    """`every`: at the head; `latest`: with the newest event of each key."""

    EARLIEST = "earliest"
    """With the oldest retained event. What is older was not asked for and is no gap."""


class Earlier(NamedTuple):
    """Events from before what the log holds, for one reader."""

    begin: int
    """The `seq` after which nothing is missing in here: the one that was asked for, or a later one
    if what followed it is gone."""

    events: list[Event]
    """In order."""

    reached: int
    """The `seq` up to which these are all."""


class Feed:
    """One subscriber. `sink` is whatever the outside knows it by."""

    __slots__ = (
        "__weakref__", "_begun", "_changes", "_fresh", "_latest", "_selection", "ahead", "cost",
        "count", "declared", "earlier", "foreign", "lane", "pace", "position", "sink", "strict",
        "wire",
    )  # fmt: skip

    def __init__(
        self,
        wire: Wire,
        sink: Any = None,
        *,
        pace: int = 0,
        strict: Callable[[str], bool] | None = None,
    ) -> None:
        """`pace` is the time in ms between what a feed of mode `latest` is told, 0 for at once.
        `strict` says for which selectors being too slow ends the stream instead of being a gap."""
        self.wire = wire
        self.sink = sink
        self.pace = pace
        self.strict = strict
        self.count = 0
        """How many selectors it has."""
        self.cost = _COST
        """About how many bytes of memory it takes, without its lane (`Lanes.memory`) and sink.

        Measured as what `tracemalloc` counts on CPython 3.11 for 5,000 feeds of one channel, 2,000
        of 20 and 100 of 1,000: with its lane's, within a sixth where no two feeds want the same.
        Live feeds that do share one selection and take less: 490 bytes each. It counts for each
        all the same, since whoever comes back, or is behind, has one of its own.
        """
        self._selection = self._latest = _NOTHING
        # A client adds its channels one by one, perhaps thousands: they are taken into the
        # selection together when it is asked for. None is for one that is dropped.
        self._changes: dict[str, Mode | None] = {}
        self.position = 0
        self.foreign: Position | None = None
        self.earlier: Earlier | None = None
        self.declared: dict[str, int] = {}
        self.ahead: dict[str, int] = {}
        self.lane: Lane | None = None
        self._begun = False
        # Until it has been brought up to the head once: a lane that is cut once in a while is no
        # measure for what a client that has just come may see.
        self._fresh = pace > 0

    def start(
        self,
        selectors: Iterable[str],
        mode: Mode,
        since: Position | Start,
        log: Log,
        earlier: Earlier | None = None,
    ) -> None:
        """Select channels and begin after `since`. Raises `BadChannel`.

        A position that is not this log's becomes a gap. `earlier` has events of exactly these
        channels, from `since` on.
        """
        self._selection = Selection.of(selectors)
        self.count = len(self._selection)
        self.cost = _COST + sum(map(_cost, self._selection))
        if mode is Mode.LATEST:
            self._latest = self._selection
        if isinstance(since, Position):
            if knows(log, since):
                self.position = since.seq
                if earlier is not None:
                    self.take(earlier)
            else:
                self.foreign = since
        elif since is Start.EARLIEST or mode is Mode.LATEST:
            # What is gone before a stream begins is no loss of this stream.
            self.declared = {s: self._lost(s, log) for s in self.selection}
        else:
            self.position = log.head

    def take(self, earlier: Earlier) -> None:
        """Read these first: what its selectors, of mode `every`, had before the log's memory."""
        assert not self.latest
        self.earlier = earlier
        self.cost += _weight(earlier)

    @property
    def selection(self) -> Selection:
        """What it selects."""
        if self._changes:
            self._settle()
        return self._selection

    @property
    def latest(self) -> Selection:
        """The part of its selection that is read by mode `latest`."""
        if self._changes:
            self._settle()
        return self._latest

    def _settle(self) -> None:
        changes, self._changes = self._changes, {}
        added = [s for s, mode in changes.items() if mode is not None]
        latest = [s for s in added if changes[s] is Mode.LATEST]
        self._selection = self._selection.without(changes).including(added)
        if latest or self._latest:
            self._latest = self._latest.without(changes).including(latest)

    def selects(self, selector: str) -> bool:
        """Whether `selector` is one of its own."""
        if selector in self._changes:
            return self._changes[selector] is not None
        return selector in self._selection

    def share(self, selection: Selection) -> None:
        """Hold an equal `selection` in place of its own: one for all members of a lane."""
        assert self.selection == selection
        if self._latest == selection:
            self._latest = selection
        self._selection = selection

    def restart(self, epoch: int) -> None:
        """The log, whose epoch was `epoch`, is another one now. The feed must be out of its lane.

        Its position becomes a gap.
        """
        assert self.lane is None
        if self.foreign is None:
            self.foreign = Position(epoch, self.position)
        self.position = 0
        self._leave_earlier()
        self.ahead.clear()
        self.declared.clear()

    def begins(self, log: Log) -> Position:
        """The position to tell the client at the start of its stream."""
        return self.foreign or Position(log.epoch, self.position)

    def reached(self, head: int) -> int:
        """How far the stream has been written; `head` is the log's (see `lane`, rule 4).

        It is noted, so that a client that is told will not be told an older position later.
        """
        lane = self.lane
        if lane and not (lane.pace or self.position < lane.position or lane.dirty):
            self.position = head
        return self.position

    def add(self, selector: str, mode: Mode, seq: int) -> None:
        """Also select `selector`, of which the client has everything up to `seq`.

        The feed must be out of its lane.
        """
        assert self.lane is None
        assert not self.selects(selector)
        if not self.count:
            self.position = seq
        elif seq < self.position:
            # The others keep what they have: from here on they are the ones ahead.
            for other in self.selection:
                self.ahead[other] = max(self.ahead.get(other, 0), self.position)
            self.position = seq
        elif seq > self.position:
            self.ahead[selector] = seq
        self._changes[selector] = mode
        self.count += 1
        self.cost += _cost(selector)

    def drop(self, selectors: Iterable[str]) -> None:
        """Select these no longer. The feed must be out of its lane."""
        assert self.lane is None
        for selector in selectors:
            if self.selects(selector):
                self._changes[selector] = None
                self.count -= 1
                self.cost -= _cost(selector)
            self.ahead.pop(selector, None)
            self.declared.pop(selector, None)

    def advance(self, log: Log, lanes: Lanes, limit: int, replay: Replay | None = None) -> Any:
        """Read on: what to write now, joined; about `limit` bytes of events at most.

        With `replay`, what other feeds are reading too is shared with them.

        Joins the lane when it may; `lane` tells. A feed that is neither in a lane nor got anything
        can only wait for the next cut.
        """
        assert self.lane is None
        parts = self._gaps(log)
        if not self.count:
            self.position = log.head
            return self.wire.join(parts) if parts else b""
        goal = log.head if self._fresh else lanes.goal(self, log)
        read: list[Any] = []
        packed = b""
        while self.position < goal and not (read or packed):
            read, packed = self._read(log, goal, limit, replay)
        if self._fresh and self.position == goal:
            self._fresh = False
            goal = lanes.goal(self, log)
        if self.position == goal and not self.ahead:
            lanes.join(self)
        parts += read
        if not parts:
            return packed
        return self.wire.join(parts) + packed if packed else self.wire.join(parts)

    def _gaps(self, log: Log) -> list[Any]:
        begin, why = Position(log.epoch, self.position), Why.EVICTED
        lost = {s: seq for s in self.selection if (seq := self._lost(s, log))}
        if self.foreign is not None:
            begin, why, self.foreign = self.foreign, Why.RESTARTED, None
            lost = dict.fromkeys(self.selection, 0) | lost
        elif lost and self._begun:
            why = Why.TOO_SLOW
            if self.strict is not None and any(map(self.strict, lost)):
                raise Closed(CloseReason.SLOW)
        self._begun = True
        if not lost:
            return []
        self.declared |= lost
        if not self.wire.resumes:
            self.drop(lost)
        end = Position(log.epoch, max(lost.values()))
        return [self.wire.gap(Gap(begin, end, why, tuple(lost)))]

    def _lost(self, selector: str, log: Log) -> int:
        """The newest event of `selector` that this feed should have had and can have no more."""
        lost = log.keys_lost(selector) if selector in self.latest else log.evicted(selector)
        if self.earlier is not None and self.earlier.reached >= lost:
            lost = self.earlier.begin
        had = max(self.position, self.ahead.get(selector, 0), self.declared.get(selector, 0))
        return lost if lost > had else 0

    def _read(
        self, log: Log, goal: int, limit: int, replay: Replay | None
    ) -> tuple[list[Any], bytes]:
        """The next parts, and what is joined already, for the selectors that are not ahead, up to
        where the next one is."""
        wire, behind, latest = self.wire, self.selection, self.latest
        if self.earlier is not None:
            return encoded(wire.encoding, self._read_earlier(self.earlier, limit), behind), b""
        if self.ahead:
            behind, latest = behind.without(self.ahead), latest.without(self.ahead)
            goal = min(goal, *self.ahead.values())
        parts: list[Any] = []
        packed = b""
        if replay is None or latest:
            events, self.position = _read(log, behind, latest, self.position, goal, limit)
            parts = encoded(wire.encoding, events, behind)
        elif wire.packs:
            packed, self.position = replay.read_packed(wire, behind, self.position, goal)
        else:
            part, self.position = replay.read(wire.encoding, behind, self.position, goal)
            parts = [part] if part else []
        if self.ahead:
            self.ahead = {s: seq for s, seq in self.ahead.items() if seq > self.position}
        return parts, packed

    def _read_earlier(self, earlier: Earlier, limit: int) -> list[Event]:
        begin = bisect_right(earlier.events, self.position, key=_SEQ)
        events, self.position = take(islice(earlier.events, begin, None), earlier.reached, limit)
        if self.position >= earlier.reached:
            self._leave_earlier()
        return events

    def _leave_earlier(self) -> None:
        if self.earlier is not None:
            self.cost -= _weight(self.earlier)
            self.earlier = None


def _read(
    log: Log, selection: Selection, latest: Selection, after: int, upto: int, limit: int
) -> tuple[list[Event], int]:
    """Of a selection some of which is to be read by mode `latest`."""
    if not latest:
        return log.read(selection, after, upto, limit)
    if latest == selection:
        return log.read_latest(latest, after, upto, limit)
    every = selection.without(latest)
    one = log.read(every, after, upto, limit)
    two = log.read_latest(latest, after, upto, limit)
    reached = min(one.reached, two.reached)
    both = {event.seq: event for event in (*two.events, *one.events) if event.seq <= reached}
    return [both[seq] for seq in sorted(both)], reached


def _weight(earlier: Earlier) -> int:
    return sum(len(event.data) + _EVENT for event in earlier.events)


def _cost(selector: str) -> int:
    return _COST_SELECTOR + selector.__sizeof__()


def knows(log: Log, position: Position) -> bool:
    """Whether `position` is one of this log's: of its epoch, and not beyond its head."""
    return position.epoch == log.epoch and position.seq <= log.head
