"""The log as a stream's entries, followed by a node. Pure: entries in, what to tell out.

An entry's id is its position, `<epoch>-<seq>`, and it has one field: for an event the time in ms
and the record. What is no event is a mark, which has a number too:

    begin  ""      an epoch begins here; it has the seq of what came last
    resume <seq>   a server was started again, and its log reached so far; nothing is in between

Apart from that numbers follow each other without a hole, so whoever follows sees by them whether
something is missing, for whatever reason: trimmed before it was read, deleted, or lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from twinwire.brokers.record import unpack_at
from twinwire.core.event import Event, Position
from twinwire.errors import BrokerError

BEGIN: Final = b"begin"
RESUME: Final = b"resume"

Entry = Sequence[Any]
"""As the server answers: the id and the list of fields and values, as bytes."""


class Began(NamedTuple):
    """The log begins anew after `position`."""

    position: Position


class Lost(NamedTuple):
    """The log lacks what this node knows of: it has to be renewed."""

    why: str


class Read(NamedTuple):
    """An entry: its position, the `seq` that comes before it, and its event, if it is one."""

    position: Position
    before: int
    event: Event | None


def position_of(ident: bytes) -> Position:
    """The position that an entry's id is."""
    epoch, _, seq = ident.partition(b"-")
    return Position(int(epoch), int(seq))


def read(entry: Entry, epoch: int | None = None) -> Read:
    """Any entry. One that is not of twinwire's is nobody's event.

    An event from before `epoch` has its number in it too.
    """
    ident, fields = entry
    position = position_of(ident)
    name, value = (*(fields or ()), b"", b"")[:2]
    if name.isdigit():
        try:
            event = unpack_at(value, epoch or position.epoch, position.seq, int(name))
            return Read(position, position.seq - 1, event)
        except BrokerError:
            pass
    elif name == RESUME and value.isdigit():
        return Read(position, int(value), None)
    elif name == BEGIN:
        return Read(position, position.seq, None)
    return Read(position, position.seq - 1, None)


class Cursor:
    """How far a node has followed the log, and what it knows to lie beyond."""

    def __init__(self, position: Position) -> None:
        self.position = position
        self._acknowledged: deque[Position] = deque()
        self._lost: int | None = None
        """The epoch that is to be followed no further."""

    def acknowledge(self, position: Position) -> None:
        """An append of this node's has this position; later than those before."""
        acknowledged = self._acknowledged
        acknowledged.append(position)
        while acknowledged and acknowledged[0] <= self.position:
            acknowledged.popleft()

    @property
    def known(self) -> Position:
        """The newest position that the node knows of."""
        return max(self.position, *self._acknowledged) if self._acknowledged else self.position

    def take(self, entries: Sequence[Entry]) -> Iterator[list[Event] | Began | Lost]:
        """The entries that come next, at least one: what is to be told of them, in order.

        The cursor moves past what it has given when it is asked for more, so that what could not be
        told comes again. After a `Lost` nothing more of that epoch is told.
        """
        events = self._events(entries)
        if events is not None:
            yield events
            self.position = events[-1].position
            return
        events = []
        here = self.position
        for entry in entries:
            position, before, event = read(entry)
            if position <= here or position.epoch == self._lost:
                continue
            if position.epoch != here.epoch or before != here.seq or event is None:
                if events:
                    yield events
                    events = []
                self.position = here
                if position.epoch != here.epoch or before > here.seq:
                    began = Position(position.epoch, before if event else position.seq)
                    yield Began(began)
                    self.position = began
                elif missing := self._missing(before, position):
                    first = Position(here.epoch, before)
                    self._lost = here.epoch
                    yield Lost(f"it has lost the events from {first} to {missing}")
                    return
            if event is not None:
                events.append(event)
            here = position
        if events:
            yield events
        self.position = here

    def _events(self, entries: Sequence[Entry]) -> list[Event] | None:
        """The same if they are events and follow each other, as all but a few do."""
        epoch, seq = self.position
        # Ids rise. If so many entries reach only that far, no number is left out.
        if entries[-1][0] != b"%d-%d" % (epoch, seq + len(entries)):
            return None
        try:
            return [
                unpack_at(record, epoch, number, int(time))
                for number, (_, (time, record)) in enumerate(entries, seq + 1)
            ]
        except (ValueError, BrokerError):
            return None

    def _missing(self, before: int, here: Position) -> Position | None:
        """The newest event known of after `before`, of which `here` says that there is none."""
        first = Position(here.epoch, before)
        acknowledged = [p for p in self._acknowledged if first < p < here]
        if acknowledged or first < self.position:
            return max([self.position, *acknowledged])
        return None
