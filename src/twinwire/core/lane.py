"""Lanes: live subscribers that share bytes, and what a tick writes to whom.

1. A lane is one set of channels on one wire. Whoever stands in it is live: it has been written
   everything up to the lane's position or is about to be.
2. An event is encoded once for each encoding that some lane of its channel uses, and noted once for
   each selector in use that matches it. A tick cuts every lane that has something pending: what
   its selectors have noted is put in order and joined (and compressed) once, and every member gets
   the same bytes in one write. Lanes for which only one selector has something share even that.
3. `Lane.position` is the log's head at the lane's last cut. All that is pending is after it.
4. A member whose own position is behind its lane's still awaits the write of that cut. Otherwise
   it has had everything up to the cut, and with nothing pending everything up to the head.
5. A feed joins where all that is pending lies after its position (`Lanes.goal`): at the lane's
   position, or at the head if nothing is pending. It never joins in the middle of a batch; but a
   new lane may begin there, and leaves out what was noted before.
6. A lane without members is gone.
7. A paced lane is cut by time, every `pace` ms: nothing is pending in it, and its cut reads the
   newest event of each key that has changed since the last one, and declares what the log has
   forgotten of them. Its members are of mode `latest`.

The cost of an event is that of encoding it, and one note for each selector that matches, however
many lanes there are: to append it to each of its lanes would touch hundreds of lists all over the
memory. The cost of a tick is a note for each lane and selector that has something, putting each
lane's parts in order and joining them, and one write for each member.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, cast

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
        """From where in the batch on it takes part; see rule 5."""
        self.members: dict[Feed, None] = {}
        # Several selectors may match one event, which is written once all the same.
        self.once = bool(
            not wire.encoding.per_selector and selection.patterns and len(selection) > 1
        )

    @property
    def pending(self) -> list[_Notes]:
        """What its selectors have noted and it has not been cut with."""
        begin = self.begin
        return [g.notes for g in self.groups if g.notes is not None and g.notes.last >= begin]

    @property
    def dirty(self) -> bool:
        """Whether something is pending."""
        return bool(self.pending)


class Cut:
    """What one tick writes to the members of one lane, and with `broken` why they end then.

    It has to be written before the next cut.
    """

    __slots__ = ("_begin", "_data", "broken", "lane", "members", "position")

    def __init__(self, lane: Lane, position: int) -> None:
        self.lane = lane
        self.position = lane.position = position
        self.members = list(lane.members)
        self.broken: Reason | None = None
        self._begin = lane.begin
        self._data: Any = None

    @classmethod
    def of(cls, lane: Lane, position: int, parts: list[Any], broken: Reason | None) -> Cut:
        """A cut whose parts are known."""
        cut = cls(lane, position)
        cut.broken = broken
        cut._data = lane.wire.join(parts, len(cut.members))
        return cut

    @property
    def data(self) -> Any:
        """The bytes for each of them, put in order and joined when they are first asked for: all
        lanes at once would hold the loop for too long."""
        if self._data is None:
            self._data = self._joined()
        return self._data

    def _joined(self) -> Any:
        lane, begin, wire = self.lane, self._begin, self.lane.wire
        noted = [n for g in lane.groups if (n := g.cut) is not None and n.last >= begin]
        if len(noted) == 1 and not begin:
            (notes,) = noted
            if wire not in notes.joined:
                notes.joined[wire] = wire.join(ordered(noted), max(len(self.members), notes.lanes))
            return notes.joined[wire]
        return wire.join(ordered(noted, begin, once=lane.once), len(self.members))

    def awaited_by(self, feed: Feed) -> bool:
        """Whether this member still has to be written the cut (rule 4).

        It may have left since, and even have come back, having read the same from the log.
        """
        return feed.lane is self.lane and feed.position < self.position


class _Notes:
    """What has been published to one selector, in one encoding, since the last cut.

    `places` are those of its parts in `batch`, in which the encoding has all of its parts.
    """

    __slots__ = ("batch", "broken", "joined", "lanes", "last", "places")

    def __init__(self, batch: list[Any]) -> None:
        self.batch = batch
        self.places: list[int] = []
        self.last = -1
        """The place of the newest, also if the encoding could not carry it."""
        self.broken: tuple[int, Reason] | None = None
        """The place of the newest that it could not carry, and why."""
        self.joined: dict[Wire, Any] = {}
        self.lanes = 0
        """How many lanes were cut with it."""


class _Group:
    """The lanes that want one selector in one encoding, what they have pending of it, and what they
    were cut with last."""

    __slots__ = ("cut", "lanes", "notes")

    def __init__(self) -> None:
        self.lanes: dict[Lane, None] = {}
        self.notes: _Notes | None = None
        self.cut: _Notes | None = None


class Lanes:
    """All lanes of a hub, found by what an event is published to."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[Wire, Selection, int], Lane] = {}
        self._paced: dict[int, dict[Lane, None]] = {}
        self._groups: dict[str, dict[Encoding, _Group]] = {}
        # Exact channels and patterns are indexed apart: a new channel costs the others nothing.
        self._patterns = Patterns()
        # Since the last cut: the parts of each encoding, the groups that have some, the new lanes.
        self._batches: dict[Encoding, list[Any]] = {}
        self._touched: list[_Group] = []
        self._cut: list[_Group] = []
        self._opened: list[Lane] = []
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
        """Whether a cut would have something to write."""
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
            notes = group.notes
            if notes is None:
                notes = group.notes = _Notes(self._batches[encoding])
                self._touched.append(group)
            place = None if encoding.per_selector else places.get(encoding)
            if place is None:
                place = len(notes.batch)
                try:
                    notes.batch.append(encoding.event(event, selector))
                except Closed as closed:
                    notes.batch.append(None)
                    notes.broken = (place, closed.reason)
                    notes.last = place
                    continue
                places[encoding] = place
            notes.places.append(place)
            notes.last = place

    def cut(self, head: int) -> list[Cut]:
        """Take what is pending in every lane; `head` is the log's head."""
        for group in self._cut:
            group.cut = None
        ripe: dict[Lane, None] = {}
        broken: list[tuple[int, Reason, dict[Lane, None]]] = []
        for group in self._touched:
            group.cut, group.notes = group.notes, None
            notes = cast(_Notes, group.cut)
            notes.lanes = len(group.lanes)
            ripe.update(group.lanes)
            if notes.broken is not None:
                broken.append((*notes.broken, group.lanes))
        for lane in self._opened:
            if lane in ripe and not any(g.cut and g.cut.last >= lane.begin for g in lane.groups):
                del ripe[lane]
        cuts = {lane: Cut(lane, head) for lane in ripe}
        for place, reason, lanes in broken:
            for lane in lanes:
                if place >= lane.begin:
                    cuts[lane].broken = reason
        self._cut, self._touched = self._touched, []
        self._batches = {encoding: [] for encoding in self._batches}
        for lane in self._opened:
            lane.begin = 0
        self._opened.clear()
        return list(cuts.values())

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
            cuts.append(Cut.of(lane, log.head, parts, broken))
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
        batch = self._batches.setdefault(encoding, [])
        groups = []
        self._entries += len(lane.selection)
        for selector in lane.selection:
            by_encoding = self._groups.setdefault(selector, {})
            group = by_encoding.get(encoding)
            if group is None:
                group = by_encoding[encoding] = _Group()
            group.lanes[lane] = None
            groups.append(group)
        lane.groups = tuple(groups)
        if batch:
            lane.begin = len(batch)
            self._opened.append(lane)
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


def ordered(noted: Iterable[_Notes], begin: int = 0, *, once: bool = False) -> Sequence[Any]:
    """The parts that these have noted from the place `begin` in their batch on, in order; with
    `once` what several have noted only once."""
    places: list[int] = []
    batch: list[Any] = []
    for notes in noted:
        places += notes.places
        batch = notes.batch
    # Each one's are in order already, which sorting makes use of.
    places.sort()
    if begin:
        places = places[bisect_left(places, begin) :]
    if once:
        places = list(dict.fromkeys(places))
    return itemgetter(*places)(batch) if len(places) > 1 else [batch[p] for p in places]


def _keys_lost(lane: Lane, log: Log) -> dict[str, int]:
    """What the log has forgotten since the lane's cut, by selector; see `Log.keys_lost`."""
    return {s: seq for s in lane.selection if (seq := log.keys_lost(s)) > lane.position}
