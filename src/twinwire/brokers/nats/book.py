"""What has to be kept when the log is trimmed, and how far it may be; nothing but deciding.

1. The book is told of every message once, in order.
2. `changed` holds the newest event of each key whose change is not on the server yet. What is up to
   the position `covered` is: it was written there with everything before it, by whichever node.
3. Only what is covered may be trimmed, and only what is more than the limits ask for. How much lies
   after a message is known at `points`, so trimming is as exact as these are close: about 64 to
   what is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple

from twinwire.brokers.nats.message import end, message_of
from twinwire.core.event import Event
from twinwire.core.log import Retention

_GRAIN: Final = 64


class Point(NamedTuple):
    """How much the log had seen up to and with a message, and the time of its newest event."""

    message: int
    events: int
    bytes: int
    time: int


class Page(NamedTuple):
    """A part of what has changed; with it everything up to the `seq` that it says is covered."""

    events: list[Event]
    covers: int


class Book:
    """See the rules above."""

    def __init__(self, keep: Retention, keys_max: int) -> None:
        self._keep = keep
        self._keys_max = keys_max
        self.begin(0, ())

    def begin(self, covered: int, points: Sequence[Point]) -> None:
        """Forget everything. `points` are what was known of the log up to what is covered."""
        self.covered = covered
        self.noted = max(0, message_of(covered + 1) - 1)
        """The newest message that the book was told of."""

        self.points = [point for point in points if point.message <= self.noted]
        if not self.points:
            self.points.append(Point(self.noted, 0, 0, 0))
        self.total = self.points[-1]._replace(message=self.noted)
        """All that it was told of."""

        self._before = self.total
        self._changed: dict[tuple[str, str | None], Event] = {}

    def note(self, message: int, events: Sequence[Event]) -> None:
        """Take the next message; one that it was told of already is nothing new."""
        if message <= self.noted:
            return
        self.noted = message
        changed = self._changed
        size = 0
        time = self.total.time
        for event in events:
            size += len(event.data)
            if event.seq > self.covered:
                key = (event.channel, event.key)
                changed.pop(key, None)
                changed[key] = event
        if events:
            time = max(time, events[-1].time)
        while len(changed) > self._keys_max:
            del changed[next(iter(changed))]
        total = Point(message, self.total.events + len(events), self.total.bytes + size, time)
        self.total = total
        last, keep = self.points[-1], self._keep
        if (
            (keep.events and total.events - last.events >= keep.events / _GRAIN)
            or (keep.bytes and total.bytes - last.bytes >= keep.bytes / _GRAIN)
            or (keep.age and total.time - last.time >= keep.age / _GRAIN)
        ):
            self.points.append(total)

    def cover(self, seq: int) -> None:
        """On the server everything up to and with `seq` is covered."""
        if seq <= self.covered:
            return
        self.covered = seq
        self._before = self.total
        changed = self._changed
        while changed and changed[key := next(iter(changed))].seq <= seq:
            del changed[key]

    @property
    def pressing(self) -> bool:
        """Whether so much has come since that what is kept would be more by an eighth soon."""
        keep, total, before = self._keep, self.total, self._before
        return bool(
            (keep.events and 8 * (total.events - before.events) >= keep.events)
            or (keep.bytes and 8 * (total.bytes - before.bytes) >= keep.bytes)
        )

    def page(self, most: int) -> Page | None:
        """The oldest of what has changed, at most so many, or None if nothing has."""
        events = list(islice(self._changed.values(), most))
        if not events:
            return None
        return Page(events, events[-1].seq if len(self._changed) > most else end(self.noted))

    def trim(self, now: int) -> int:
        """The newest message that need not be kept any longer at `now`, in ms; 0 for none.

        It is not told again.
        """
        keep, total = self._keep, self.total
        found = 0
        for index, point in enumerate(self.points[1:], 1):
            if end(point.message) > self.covered:
                break
            if (
                (keep.events and total.events - point.events >= keep.events)
                or (keep.bytes and total.bytes - point.bytes >= keep.bytes)
                or (keep.age and point.time < now - keep.age)
            ):
                found = index
        if not found:
            return 0
        del self.points[:found]
        return self.points[0].message
