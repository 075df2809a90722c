"""Lanes: live subscribers that share bytes, and what a tick writes to whom.

1. A lane is one set of channels on one wire. Whoever stands in it is live: it has been written
   everything up to the lane's position or is about to be.
2. An event is encoded once for each encoding that some lane of its channel uses, and noted once for
   each selector in use that matches it. A tick cuts every lane that has something pending, each
   when its turn comes, with all that has come until then: what its selectors have noted is put in
   order and joined (and compressed) once, and every member gets the same bytes in one write. Lanes
   for which only one selector has something share even that, if nothing has come in between.
3. `Lane.position` is the log's head at the lane's own last cut. All that is pending is after it.
4. A member whose own position is behind its lane's still awaits the write of that cut. Otherwise
   it has had everything up to the cut, and with nothing pending everything up to the head.
5. A feed joins where all that is pending in its lane lies after its position (`Lanes.goal`): at the
   lane's position, or at the head if nothing is pending. It never joins in the middle of a batch;
   but a new lane begins wherever it is opened, and leaves out what was noted before.
6. A lane without members is gone.
7. A paced lane is cut by time, every `pace` ms: nothing is pending in it, and its cut reads the
   newest event of each key that has changed since the last one, and declares what the log has
   forgotten of them. Its members are of mode `latest`.

The cost of an event is that of encoding it, and one note for each selector that matches, however
many lanes there are: to append it to each of its lanes would touch hundreds of lists all over the
memory. The cost of a tick is a look at each lane and selector that has something, putting each
lane's parts in order and joining them, and one write for each member.

Parts are counted on from tick to tick, and a lane knows from where on it takes part (`Lane.begin`).
What was noted before a tick began has been taken by all when it is over, and is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from twinwire.core.batch import Batch, Notes, ordered
from twinwire.core.event import Event, Position, Selection
from twinwire.core.log import Log
from twinwire.core.patterns import Patterns
from twinwire.core.wire import Encoding, Gap, Why, Wire, encoded
from twinwire.errors import Closed, CloseReason, Reason

if TYPE_CHECKING:
    from twinwire.core.feed import Feed


_ALL: Final = 1 << 62
"""No limit, where bytes are limited."""

_COST: Final = 750
_COST_ENTRY: Final = 50
_COST_SELECTOR: Final = 640
"""Bytes of memory that a lane takes, each of its selectors, and each that any lane has at all."""

_POSITION: Final = attrgetter("position")


class Lane:
    """One set of channels on one wire, and the live feeds that want exactly that."""

    __slots__ = ("begin", "groups", "members", "once", "pace", "position", "selection", "wire")

    def __init__(self, wire: Wire, selection: Selection, position: int, pace: int = 0) -> None:
        self.wire = wire
        self.selection = selection
        self.position = position
        self.pace = pace
        self.groups: tuple[_Group, ...] = ()
        self.begin = 0
        """The count (see `twinwire.core.batch`) from which on it takes part."""
        self.members: dict[Feed, None] = {}
        # Several selectors may match one event, which is written once all the same.
        self.once = bool(
            not wire.encoding.per_selector and selection.patterns and len(selection) > 1
        )

    @property
    def pending(self) -> list[_Group]:
        """Those of its selectors that have noted what it has not been cut with."""
        begin = self.begin
        return [group for group in self.groups if group.last >= begin]

    @property
    def dirty(self) -> bool:
        """Whether something is pending."""
        return bool(self.pending)


class Cut:
    """What is written to the members of one lane, and with `broken` why they end then.

    It has to be written before the lane is cut again.
    """

    __slots__ = ("broken", "data", "lane", "members", "position")

    def __init__(self, lane: Lane, position: int, data: Any, broken: Reason | None) -> None:
        self.lane = lane
        self.position = lane.position = position
        self.members = list(lane.members)
        self.data = data
        self.broken = broken

    def awaited_by(self, feed: Feed) -> bool:
        """Whether this member still has to be written the cut (rule 4).

        It may have left since, and even have come back, having read the same from the log.
        """
        return feed.lane is self.lane and feed.position < self.position


class _Group(Notes):
    """The lanes that want one selector in one encoding, and what has been published to it."""

    __slots__ = ("lanes",)

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self.lanes: dict[Lane, None] = {}


class Lanes:
    """All lanes of a hub, found by what an event is published to."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[Wire, Selection, int], Lane] = {}
        self._paced: dict[int, dict[Lane, None]] = {}
        self._groups: dict[str, dict[Encoding, _Group]] = {}
        # Exact channels and patterns are indexed apart: a new channel costs the others nothing.
        self._patterns = Patterns()
        self._batches: dict[Encoding, Batch] = {}
        # The groups that have noted something since the last tick began.
        self._touched: list[_Group] = []
        self._entries = 0

    def __len__(self) -> int:
        return len(self._lanes)

    @property
    def memory(self) -> int:
        """About how many bytes of memory the lanes take, without what is pending in them; see
        `Feed.cost`."""
        lanes, selectors = len(self._lanes), len(self._groups)
        return _COST * lanes + _COST_ENTRY * self._entries + _COST_SELECTOR * selectors

    @property
    def dirty(self) -> bool:
        """Whether a tick may have something to write."""
        return bool(self._touched)

    def count(self, channel: str) -> int:
        """How many live feeds would get an event of `channel`."""
        selectors = (channel, *self._patterns.matching(channel))
        lanes = {
            lane
            for selector in selectors
            for group in self._groups.get(selector, {}).values()
            for lane in group.lanes
        }
        return sum(len(lane.members) for lane in lanes)

    def append(self, event: Event) -> None:
        """Encode `event` for every lane that wants it."""
        groups = self._groups
        if not groups:
            return
        places: dict[Encoding, int] = {}
        exact = groups.get(event.channel)
        if exact is not None:
            self._note(event, event.channel, exact, places)
        if self._patterns:
            for selector in self._patterns.matching(event.channel):
                self._note(event, selector, groups[selector], places)

    def _note(
        self,
        event: Event,
        selector: str,
        groups: dict[Encoding, _Group],
        places: dict[Encoding, int],
    ) -> None:
        """`places` are those where the event has its part in each encoding already."""
        for encoding, group in groups.items():
            batch = group.batch
            if group.last < batch.mark:
                self._touched.append(group)
            place = None if encoding.per_selector else places.get(encoding)
            place = group.add(event, selector, place)
            if place is not None:
                places[encoding] = place

    def cuts(self, log: Log) -> Iterator[Cut]:
        """One tick: take what is pending in every lane, each when its turn comes.

        What is published meanwhile goes with the lanes whose turn is still to come, and with the
        next tick to the others. It has to be gone through to its end before the next one begins.
        """
        touched, self._touched = self._touched, []
        for batch in self._batches.values():
            batch.mark = batch.end
        for lane in self._ripe(touched):
            if lane.members and (pending := lane.pending):
                yield _cut(lane, pending, log.head)
        for group in dict.fromkeys((*touched, *self._touched)):
            group.drop()
        for batch in self._batches.values():
            batch.drop()

    def _ripe(self, touched: list[_Group]) -> list[Lane]:
        """The lanes that may have something of these, and perhaps others.

        Whoever was cut longest ago comes first: so nobody's turn is more than a tick after the
        last one.
        """
        ripe: dict[Lane, None] = {}
        if sum(len(group.lanes) for group in touched) > 4 * len(self._lanes):
            # Nearly all of them have: to find out which takes longer than to look at the rest.
            return sorted(self._lanes.values(), key=_POSITION)
        for group in touched:
            ripe.update(group.lanes)
        return sorted(ripe, key=_POSITION)

    @property
    def paces(self) -> Iterable[int]:
        """The paces of the paced lanes there are, in ms."""
        return self._paced.keys()

    def cut_paced(self, pace: int, log: Log) -> list[Cut]:
        """Take what has changed for the lanes of this pace (rule 7)."""
        cuts: list[Cut] = []
        for lane in self._paced.get(pace, ()):
            if lane.position == log.head:
                continue
            wire = lane.wire
            events = log.read_latest(lane.selection, lane.position, log.head, _ALL).events
            lost = _keys_lost(lane, log)
            begin, lane.position = lane.position, log.head
            if not events and not lost:
                continue
            parts: list[Any] = []
            broken: Reason | None = None
            if lost:
                end = Position(log.epoch, max(lost.values()))
                gap = Gap(Position(log.epoch, begin), end, Why.EVICTED, tuple(lost))
                parts.append(wire.gap(gap))
                broken = None if wire.resumes else CloseReason.INSUFFICIENT
            try:
                parts += encoded(wire.encoding, events, lane.selection)
            except Closed as closed:
                broken = closed.reason
            data = wire.join(parts, len(lane.members))
            cuts.append(Cut(lane, log.head, data, broken))
        return cuts

    def goal(self, feed: Feed, log: Log) -> int:
        """The position at which `feed` may join its lane (rule 5)."""
        lane = self._lanes.get((feed.wire, feed.selection, feed.pace))
        if lane is None or not (lane.pace or lane.dirty):
            return log.head
        if lane.pace and feed.position > lane.position:
            changed = log.read_latest(lane.selection, lane.position, log.head, 1).events
            # Its members must still be told also of what has been forgotten.
            if not changed and not _keys_lost(lane, log):
                lane.position = log.head
        return lane.position

    def join(self, feed: Feed) -> None:
        """Put `feed`, which has reached `goal`, into its lane."""
        key = (feed.wire, feed.selection, feed.pace)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(*key[:2], feed.position, feed.pace)
            self._open(lane)
        lane.members[feed] = None
        feed.lane = lane
        feed.share(lane.selection)

    def _open(self, lane: Lane) -> None:
        if lane.pace:
            self._paced.setdefault(lane.pace, {})[lane] = None
            return
        encoding = lane.wire.encoding
        batch = self._batches.get(encoding)
        if batch is None:
            batch = self._batches[encoding] = Batch(encoding)
        lane.begin = batch.end
        groups = []
        self._entries += len(lane.selection)
        for selector in lane.selection:
            by_encoding = self._groups.setdefault(selector, {})
            group = by_encoding.get(encoding)
            if group is None:
                group = by_encoding[encoding] = _Group(batch)
            group.lanes[lane] = None
            groups.append(group)
        lane.groups = tuple(groups)
        for text in lane.selection.patterns:
            self._patterns.add(text)

    def leave(self, feed: Feed, head: int) -> None:
        """Take `feed` out of its lane, and give it the position it has reached (rule 4)."""
        lane = feed.lane
        assert lane is not None
        feed.reached(head)
        del lane.members[feed]
        feed.lane = None
        if not lane.members:
            self._close(lane)

    def _close(self, lane: Lane) -> None:
        del self._lanes[lane.wire, lane.selection, lane.pace]
        if lane.pace:
            del self._paced[lane.pace][lane]
            if not self._paced[lane.pace]:
                del self._paced[lane.pace]
            return
        self._entries -= len(lane.selection)
        for selector in lane.selection:
            by_encoding = self._groups[selector]
            group = by_encoding[lane.wire.encoding]
            del group.lanes[lane]
            if not group.lanes:
                del by_encoding[lane.wire.encoding]
                if not by_encoding:
                    del self._groups[selector]
                    if selector in self._patterns:
                        self._patterns.remove(selector)


def _cut(lane: Lane, pending: list[_Group], head: int) -> Cut:
    """Take what is pending in a lane."""
    wire, begin, readers = lane.wire, lane.begin, len(lane.members)
    first = pending[0]
    broken: Reason | None = None
    if first.batch.broken >= begin:
        for group in pending:
            broken = group.broken_since(begin) or broken
    if len(pending) == 1 and len(first.lanes) > 1:
        data = first.joined(wire, begin, max(readers, len(first.lanes)))
    else:
        data = wire.join(ordered(pending, begin, once=lane.once), readers)
    lane.begin = first.batch.end
    return Cut(lane, head, data, broken)


def _keys_lost(lane: Lane, log: Log) -> dict[str, int]:
    """What the log has forgotten since the lane's cut, by selector; see `Log.keys_lost`."""
    return {s: seq for s in lane.selection if (seq := log.keys_lost(s)) > lane.position}
