"""Lanes: live subscribers that share bytes, and what a tick writes to whom.

1. A lane is one set of channels on one wire. Whoever stands in it is live: it has been written
   everything up to the lane's position or is about to be.
2. An event is encoded once for each encoding that some lane of its channel uses, and noted once for
   each selector in use that matches it. A tick cuts every lane that has something pending: what
   its selectors have noted is put in order and joined once, and every member gets the same bytes
   in one write. Lanes for which only one selector has something share even the joining.
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
many lanes there are. The cost of a tick is a note for each lane and selector that has something,
putting each lane's parts in order and joining them, and one write for each member.

Appending each event to each of its lanes instead would touch hundreds of lists all over the memory
for every event, which costs more than all the rest.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from enum import Enum
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from twinwire.core.event import Event, Position, Selection, pattern
from twinwire.core.log import Log
from twinwire.errors import Closed, CloseReason

if TYPE_CHECKING:
    from twinwire.core.feed import Feed


_ALL: Final = 1 << 62
"""No limit, where bytes are limited."""

_COST: Final = 750
_COST_ENTRY: Final = 50
_COST_SELECTOR: Final = 480
"""Bytes of memory that a lane takes, each of its selectors, and each that any lane has at all."""

_CHANNELS_KEPT: Final = 100_000
"""Channels whose matching patterns are remembered, at most."""


class Why(Enum):
    """Why there is a gap."""

    EVICTED = "evicted"
    """The log no longer holds events that were after the position."""

    TOO_SLOW = "too_slow"
    """The same, while the subscriber was connected: it has read slower than the log forgets."""

    RESTARTED = "restarted"
    """The position belongs to another log: this one was begun anew since."""


class Gap(NamedTuple):
    """Events after `begin` up to and with `end` that this subscriber may have missed."""

    begin: Position
    end: Position
    why: Why
    selectors: tuple[str, ...]


class Encoding(Protocol):
    """How one event is written. Wires that write it alike share one `Encoding`."""

    @property
    def per_selector(self) -> bool:
        """Whether an event that several selectors match is written once for each of them."""

    @property
    def separator(self) -> bytes:
        """What stands between parts that are joined to one."""

    def event(self, event: Event, selector: str) -> Any:
        """The part that carries `event`, for whoever selected it by `selector`.

        Raises `Closed` if this encoding cannot carry it, which ends the streams that want it.
        """


class Wire(Protocol):
    """How a stream is written: an encoding, and how its parts are framed for one kind of socket."""

    @property
    def encoding(self) -> Encoding:
        """How its events are written."""

    @property
    def resumes(self) -> bool:
        """Whether the stream goes on after a gap; otherwise the gap ends what it concerns."""

    def join(self, parts: Sequence[Any]) -> Any:
        """The bytes that carry `parts`, in order. Writing two joins in a row is as good as one."""

    def gap(self, gap: Gap) -> Any:
        """The part that declares `gap`."""


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
    def dirty(self) -> bool:
        """Whether something is pending."""
        begin = self.begin
        return any(
            (group.places and group.places[-1] >= begin) or group.broken_since(begin)
            for group in self.groups
        )

    def parts(self, groups: Iterable[_Group]) -> Sequence[Any]:
        """What is pending, in order, of these of its groups: of one encoding, that is."""
        places: list[int] = []
        batch: list[Any] = []
        for group in groups:
            places += group.places
            batch = group.batch
        # Each group's are in order already, which sorting makes use of.
        places.sort()
        if self.begin:
            places = places[bisect_left(places, self.begin) :]
        if self.once:
            places = list(dict.fromkeys(places))
        return itemgetter(*places)(batch) if len(places) > 1 else [batch[p] for p in places]

    def __repr__(self) -> str:
        return f"<Lane {self.selection!r} members={len(self.members)} dirty={self.dirty}>"


class Cut(NamedTuple):
    """What one tick writes to the members of one lane, and with `broken` why they end then."""

    lane: Lane
    position: int
    data: Any
    members: list[Feed]
    broken: CloseReason | None

    def awaited_by(self, feed: Feed) -> bool:
        """Whether this member still has to be written the cut (rule 4).

        It may have left since, and even have come back, having read the same from the log.
        """
        return feed.lane is self.lane and feed.position < self.position


class _Group:
    """One selector in one encoding: the lanes that want it, and what they have pending of it.

    `places` are those of its parts in the encoding's batch.
    """

    __slots__ = ("batch", "broken", "joined", "lanes", "places", "touched")

    def __init__(self, batch: list[Any]) -> None:
        self.batch = batch
        self.places: list[int] = []
        self.lanes: dict[Lane, None] = {}
        self.joined: dict[Wire, Any] = {}
        self.broken: tuple[int, CloseReason] | None = None
        self.touched = False

    def broken_since(self, begin: int) -> CloseReason | None:
        """Why this encoding cannot carry what was published from this place in the batch on."""
        return self.broken[1] if self.broken is not None and self.broken[0] >= begin else None

    def clear(self) -> None:
        """What was pending has been cut."""
        self.places = []
        self.joined.clear()
        self.broken = None
        self.touched = False


class Lanes:
    """All lanes of a hub, found by what an event is published to."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[Wire, Selection, int], Lane] = {}
        self._paced: dict[int, dict[Lane, None]] = {}
        self._groups: dict[str, dict[Encoding, _Group]] = {}
        # Exact channels and patterns are indexed apart: `_patterns` holds the patterns in use, and
        # `_matching` which of them match a channel that has been published to.
        self._patterns: set[str] = set()
        self._matching: dict[str, tuple[str, ...]] = {}
        # Since the last cut: the parts of each encoding, the groups that have some, the new lanes.
        self._batches: dict[Encoding, list[Any]] = {}
        self._touched: list[_Group] = []
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
        selectors = (channel, *self._matches(channel))
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
            for selector in self._matches(event.channel):
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
            if not group.touched:
                group.touched = True
                self._touched.append(group)
            place = None if encoding.per_selector else places.get(encoding)
            if place is None:
                batch = group.batch
                place = len(batch)
                try:
                    batch.append(encoding.event(event, selector))
                except Closed as closed:
                    batch.append(None)
                    group.broken = (place, closed.reason)
                    continue
                places[encoding] = place
            group.places.append(place)

    def cut(self, head: int) -> list[Cut]:
        """Take what is pending in every lane; `head` is the log's head."""
        ripe: dict[Lane, list[_Group]] = {}
        for group in self._touched:
            for lane in group.lanes:
                groups = ripe.get(lane)
                if groups is None:
                    ripe[lane] = [group]
                else:
                    groups.append(group)
        cuts: list[Cut] = []
        for lane, groups in ripe.items():
            data, broken = _joined(lane, groups)
            if data or broken:
                lane.position = head
                cuts.append(Cut(lane, head, data, list(lane.members), broken))
        for group in self._touched:
            group.clear()
        self._touched.clear()
        for batch in self._batches.values():
            batch.clear()
        for lane in self._opened:
            lane.begin = 0
        self._opened.clear()
        return cuts

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
            wire, selection = lane.wire, lane.selection
            events = log.read_latest(selection, lane.position, log.head, _ALL).events
            lost = _keys_lost(lane, log)
            begin, lane.position = lane.position, log.head
            if not events and not lost:
                continue
            parts: list[Any] = []
            broken = None
            if lost:
                end = Position(log.epoch, max(lost.values()))
                gap = Gap(Position(log.epoch, begin), end, Why.EVICTED, tuple(lost))
                parts.append(wire.gap(gap))
                broken = None if wire.resumes else CloseReason.INSUFFICIENT
            try:
                parts += encoded(wire.encoding, events, selection)
            except Closed as closed:
                broken = closed.reason
            cuts.append(Cut(lane, log.head, wire.join(parts), list(lane.members), broken))
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
                group = by_encoding[encoding] = _Group(batch)
            group.lanes[lane] = None
            groups.append(group)
        lane.groups = tuple(groups)
        if batch:
            lane.begin = len(batch)
            self._opened.append(lane)
        if not lane.selection.patterns <= self._patterns:
            self._use(lane.selection.patterns)

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
                        self._unuse(selector)

    def _matches(self, channel: str) -> tuple[str, ...]:
        matches = self._matching.get(channel)
        if matches is None:
            # Bounded by forgetting all: it is made again at the next event of each channel.
            if len(self._matching) >= _CHANNELS_KEPT:
                self._matching.clear()
            found = (text for text in self._patterns if pattern(text).matches(channel))
            matches = self._matching[channel] = tuple(found)
        return matches

    def _use(self, patterns: Iterable[str]) -> None:
        for text in patterns:
            if text not in self._patterns:
                self._patterns.add(text)
                matches = pattern(text).matches
                for channel, found in self._matching.items():
                    if matches(channel):
                        self._matching[channel] = (*found, text)

    def _unuse(self, text: str) -> None:
        self._patterns.remove(text)
        for channel, found in self._matching.items():
            if text in found:
                self._matching[channel] = tuple(other for other in found if other != text)


def _joined(lane: Lane, groups: list[_Group]) -> tuple[Any, CloseReason | None]:
    """The bytes that carry what is pending in these of the lane's groups, and why it ends then."""
    begin, wire = lane.begin, lane.wire
    broken = None
    for group in groups:
        broken = broken or group.broken_since(begin)
    if len(groups) > 1 or begin:
        parts = lane.parts(groups)
        return wire.join(parts) if parts else None, broken
    (group,) = groups
    if wire not in group.joined:
        parts = lane.parts(groups)
        group.joined[wire] = wire.join(parts) if parts else None
    return group.joined[wire], broken


def _keys_lost(lane: Lane, log: Log) -> dict[str, int]:
    """What the log has forgotten since the lane's cut, by selector; see `Log.keys_lost`."""
    return {s: seq for s in lane.selection if (seq := log.keys_lost(s)) > lane.position}


def encoded(encoding: Encoding, events: Iterable[Event], selection: Selection) -> list[Any]:
    """The parts that carry `events` to a subscriber of `selection`. Raises `Closed` as the
    encoding does."""
    parts: list[Any] = []
    for event in events:
        for selector in selection.matching(event.channel):
            parts.append(encoding.event(event, selector))
            if not encoding.per_selector:
                break
    return parts
