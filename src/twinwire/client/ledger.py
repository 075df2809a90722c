"""The ledger: whether what a subscriber got adds up to what was published.

A subscriber notes what it receives and the gaps that it is told of. Held against the log, for every
event of its channels between where it began and where it has got to:

1. In mode `every` it was received, or lies in a gap.
2. In mode `latest` it was received, or superseded by a newer event of its key, or lies in a gap. So
   the newest of each key must have been received or lie in a gap, unless it lies beyond where the
   subscriber got to.
3. Nothing was received twice, out of order, unasked for, or other than it was published.

A gap from one position to another covers the events after the first, up to and with the second.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

from twinwire.core.event import Event, Position, Selection
from twinwire.core.feed import Gap, Mode

_POSITION: Final = attrgetter("position")

_FAULTS_MOST: Final = 20
"""Faults that are kept in words; all are counted."""


class Entry(NamedTuple):
    """An event as the log or its publisher has it. Data that is None is not compared."""

    position: Position
    channel: str
    key: str | None = None
    data: bytes | None = None


class Verdict(NamedTuple):
    """How each of the `published` events is accounted for, and what does not add up.

    `unknown` received events lie outside of what the log could tell about.
    """

    published: int
    received: int
    superseded: int
    in_gaps: int
    unknown: int
    faults: tuple[str, ...]
    fault_count: int

    @property
    def adds_up(self) -> bool:
        return not self.fault_count

    def __str__(self) -> str:
        parts = [f"{self.published} events published", f"{self.received} received"]
        for count, what in ((self.superseded, "superseded"), (self.in_gaps, "in gaps")):
            if count:
                parts.append(f"{count} {what}")
        if self.unknown:
            parts.append(f"{self.unknown} received that the log does not hold any more")
        text = ", ".join(parts)
        if self.adds_up:
            return f"adds up: {text}"
        lines = [f"does not add up ({self.fault_count} faults): {text}", *self.faults]
        if self.fault_count > len(self.faults):
            lines.append("...")
        return "\n  ".join(lines)


class Ledger:
    """One subscriber's account."""

    def __init__(
        self,
        selectors: Iterable[str],
        mode: Mode,
        begin: Position | None = None,
        *,
        one_order: bool = True,
    ) -> None:
        """`begin` is the position that was asked for; without one the account begins with the
        first event that is received, or with `reached`. Without `one_order` only the events of
        each channel must come in order: over WebSocket each channel is a subscription of its own,
        and after a reconnect one may have been brought up to date before another."""
        self.selection = Selection(selectors)
        self.mode = mode
        self.begin = begin
        self.end = begin
        self.gaps: list[Gap] = []
        self._received: dict[Position, tuple[str, str | None, bytes]] = {}
        self._faults: list[str] = []
        self._fault_count = 0
        self._one_order = one_order
        self._last: dict[str, Position] = {}

    def __len__(self) -> int:
        return len(self._received)

    def add(self, item: Event | Gap) -> None:
        """Note what was received. An event is not kept, but what it says of itself is."""
        if isinstance(item, Gap):
            self.gaps.append(item)
            return
        position = item.position
        if position in self._received:
            self._fault(f"{position} on {item.channel} was received twice")
            return
        order = "" if self._one_order else item.channel
        last = self._last.get(order, position)
        if position < last:
            self._fault(f"{position} on {item.channel} was received after {last}")
        self._last[order] = max(position, last)
        if self.begin is None:
            self.begin = Position(position.epoch, position.seq - 1)
        self._received[position] = (item.channel, item.key, item.data)
        self.reached(position)

    def reached(self, position: Position) -> None:
        """Note that everything up to `position` has been received, or declared in a gap."""
        if self.begin is None:
            self.begin = position
        self.end = max(self.end or position, position)

    def check(
        self,
        entries: Iterable[Entry],
        known: Mapping[str, Position] | None = None,
        *,
        complete: bool = True,
    ) -> Verdict:
        """Hold the account against the log's entries, or the publisher's.

        With `known`, the entries of a channel are all that were published on it after the position
        there; of other channels nothing is known. Without, they are all there were. They are not
        `complete` if others may have been published too: then what is in none of them may be.
        """
        before, count_before = list(self._faults), self._fault_count
        try:
            return self._check(sorted(entries, key=_POSITION), known, complete)
        finally:
            self._faults, self._fault_count = before, count_before

    def _check(
        self, entries: Sequence[Entry], known: Mapping[str, Position] | None, complete: bool
    ) -> Verdict:
        published = received = superseded = in_gaps = 0
        listed = {entry.position for entry in entries}
        # Not every wire tells an event's key: what is the newest of its key, the entries say.
        latest = self.mode is Mode.LATEST
        newest: dict[tuple[str, str | None], Position] = {}
        gaps = self._covered()

        def lost(entry: Entry) -> bool:
            return any(_in(gaps[s], entry.position) for s in self._matching(entry.channel))

        for entry in entries:
            newest[entry.channel, entry.key] = entry.position
        for entry in entries:
            if not self._within(entry):
                continue
            published += 1
            if (got := self._received.get(entry.position)) is not None:
                received += 1
                self._compare(entry, got)
            elif latest and newest[entry.channel, entry.key] > entry.position:
                superseded += 1
            elif lost(entry):
                in_gaps += 1
            else:
                key = "" if entry.key is None else f" (key {entry.key})"
                self._fault(f"{entry.position} on {entry.channel}{key} is missing")
        unknown = 0
        for position, (channel, _, _) in self._received.items():
            if not self._matching(channel):
                self._fault(f"{position} is on {channel}, which was not asked for")
            elif position not in listed:
                if known is not None and not known.get(channel, position) < position:
                    unknown += 1
                elif complete:
                    self._fault(f"{position} on {channel} was received, and never published")
        return Verdict(
            published, received, superseded, in_gaps, unknown,
            tuple(self._faults), self._fault_count,
        )  # fmt: skip

    def _within(self, entry: Entry) -> bool:
        if self.begin is None or self.end is None:
            return False
        return self.begin < entry.position <= self.end and bool(self._matching(entry.channel))

    def _matching(self, channel: str) -> list[str]:
        return list(self.selection.matching(channel))

    def _compare(self, entry: Entry, got: tuple[str, str | None, bytes]) -> None:
        channel, key, data = got
        if channel != entry.channel:
            self._fault(f"{entry.position} on {entry.channel} was received on {channel}")
        elif key is not None and key != entry.key:
            self._fault(f"{entry.position} has the key {entry.key}, received as {key}")
        elif entry.data is not None and data != entry.data:
            self._fault(f"{entry.position} on {entry.channel} was received with other data")

    def _covered(self) -> dict[str, list[tuple[Position, Position]]]:
        """For each selector its gaps, in order, those that touch each other joined."""
        covered: dict[str, list[tuple[Position, Position]]] = {}
        for selector in self.selection:
            joined: list[tuple[Position, Position]] = []
            mine = (gap for gap in self.gaps if selector in gap.selectors)
            for begin, end in sorted((gap.begin, gap.end) for gap in mine):
                if joined and begin <= joined[-1][1]:
                    joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
                else:
                    joined.append((begin, end))
            covered[selector] = joined
        return covered

    def _fault(self, text: str) -> None:
        self._fault_count += 1
        if len(self._faults) < _FAULTS_MOST:
            self._faults.append(text)


def _in(stretches: Sequence[tuple[Position, Position]], position: Position) -> bool:
    """Whether `position` is after the begin of a stretch, and at its end at most."""
    index = bisect_right(stretches, position, key=lambda stretch: stretch[0])
    # The one before begins at or before it, and no other can reach it.
    return any(begin < position <= end for begin, end in stretches[max(0, index - 2) : index])
