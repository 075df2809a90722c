"""What has been published and not every lane has been cut with yet; see `twinwire.core.lane`.

The parts of an encoding are in one batch, and each selector notes the places of its own. A *place*
is an index of `Batch.parts`, for picking. A *count* goes from the first part that there ever was,
and lasts when those that all have taken are dropped.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from twinwire.core.event import Event
from twinwire.core.wire import Encoding, Wire
from twinwire.errors import Closed, Reason


class Batch:
    """The parts of one encoding."""

    __slots__ = ("base", "broken", "encoding", "joined", "joined_end", "mark", "parts")

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        self.parts: list[Any] = []
        self.base = 0
        """The count of the first of these."""
        self.mark = 0
        """What `end` was when the tick began."""
        self.broken = -1
        """The count of the newest that the encoding could not carry."""
        self.joined: dict[tuple[Wire, Notes, int], Any] = {}
        """What one selector has noted from one of its places on, up to `joined_end`."""
        self.joined_end = 0

    @property
    def end(self) -> int:
        """The count of the next part."""
        return self.base + len(self.parts)

    def drop(self) -> None:
        """Let go of what there was when the tick began; all notes have done so already."""
        del self.parts[: self.mark - self.base]
        self.base = self.mark
        self.joined.clear()


class Notes:
    """What has been published to one selector, in one encoding."""

    __slots__ = ("batch", "broken", "last", "places")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.places: list[int] = []
        """In order."""
        self.last = -1
        """The count of the newest, also if the encoding could not carry it."""
        self.broken: tuple[int, Reason] | None = None
        """The count of the newest that it could not carry, and why."""

    def add(self, event: Event, selector: str, place: int | None) -> int | None:
        """Note `event`, which may have its part already; gives the place of that."""
        batch = self.batch
        if place is None:
            place = len(batch.parts)
            try:
                batch.parts.append(batch.encoding.event(event, selector))
            except Closed as closed:
                batch.parts.append(None)
                batch.broken = self.last = batch.base + place
                self.broken = (self.last, closed.reason)
                return None
        self.places.append(place)
        self.last = batch.base + place
        return place

    def broken_since(self, begin: int) -> Reason | None:
        """Why one from the count `begin` on could not be carried, if there is such a one."""
        return self.broken[1] if self.broken is not None and self.broken[0] >= begin else None

    def joined(self, wire: Wire, begin: int, readers: int) -> Any:
        """What it has from the count `begin` on, joined. Whoever asks for the same before more is
        published gets the same bytes."""
        batch = self.batch
        if batch.joined_end != batch.end:
            batch.joined.clear()
            batch.joined_end = batch.end
        key = (wire, self, bisect_left(self.places, begin - batch.base))
        data = batch.joined.get(key)
        if data is None:
            data = batch.joined[key] = wire.join(ordered([self], begin), readers)
        return data

    def drop(self) -> None:
        """Let go of what the batch is about to."""
        batch, places = self.batch, self.places
        if self.last < batch.mark:
            places.clear()
        elif gone := batch.mark - batch.base:
            self.places = [place - gone for place in places[bisect_left(places, gone) :]]


def ordered(noted: Sequence[Notes], begin: int, *, once: bool = False) -> Sequence[Any]:
    """The parts that these, of one batch, have from the count `begin` on, in order; with `once`
    what several have only once."""
    if not noted:
        return []
    places: list[int] = []
    for notes in noted:
        places += notes.places
    # Each one's are in order already, which sorting makes use of.
    places.sort()
    batch = noted[0].batch
    if begin > batch.base:
        del places[: bisect_left(places, begin - batch.base)]
    if once:
        places = list(dict.fromkeys(places))
    parts = batch.parts
    return itemgetter(*places)(parts) if len(places) > 1 else [parts[p] for p in places]
