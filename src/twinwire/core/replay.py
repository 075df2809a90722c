"""Replay: what feeds that are behind have in common is encoded and joined once.

After a network's hiccup thousands come back and read nearly the same stretch of the log, each from
a position of its own. A run is such a stretch for one selection in one encoding, with the places
where each event begins: whoever wants a part of it gets a slice.

1. A run holds all matching events after `begin` up to `end`.
2. It grows at its end until it is full. What comes after is a run of its own: readers who came from
   different positions meet at a run's end, and share the next one from there.
3. For wires that compress, a run is cut into sections, which are compressed once. A reader's slice
   is whole sections between two parts of one. Those are kept as well: readers who were cut off
   together begin at one position, and those who have caught up end at one.
4. Runs are for the moment: they are forgotten soon after nobody is behind any more, and all at
   once when there are too many bytes of them.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from twinwire.core.event import Selection
from twinwire.core.log import Log
from twinwire.core.wire import Encoding, Wire

SECTION: Final = 8 * 1024
"""Bytes in a section, about. Larger ones compress a little better; the part of one that a reader
from a position of its own begins with is compressed for it alone."""


class _Run:
    """One stretch. `offsets` has the place of each of `seqs` in `body`, `sections` the index of
    each that begins a section but the first, and `packed` what has been compressed of it, by the
    wire and the indexes where it begins and ends."""

    __slots__ = ("begin", "body", "end", "full", "offsets", "packed", "sections", "seqs")

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.end = begin
        self.full = False
        self.body = b""
        self.seqs: list[int] = []
        self.offsets: list[int] = []
        self.sections: list[int] = []
        self.packed: dict[tuple[Wire, int, int], bytes] = {}

    def slice(self, first: int, last: int, separator: bytes) -> bytes:
        """The parts from one index up to another. A separator follows each in `body`; a slice has
        them only between its parts."""
        start = self.offsets[first]
        stop = self.offsets[last] if last < len(self.offsets) else len(self.body)
        return self.body[start : stop - len(separator)]


class Replay:
    """The runs over one log."""

    def __init__(self, log: Log, *, limit: int, kept: int) -> None:
        """`limit` is about how many bytes a run has at most, `kept` how many all have."""
        self._log = log
        self._limit = limit
        self._kept = kept
        self._size = 0
        self._runs: dict[tuple[Encoding, Selection], list[_Run]] = {}

    def clear(self) -> None:
        """Forget all runs."""
        self._runs.clear()
        self._size = 0

    def read(
        self, encoding: Encoding, selection: Selection, after: int, upto: int
    ) -> tuple[bytes, int]:
        """The joined parts of the selection's events after `after`, up to and with `upto` or the
        run's end, and the `seq` reached with them. Raises `Closed` as the encoding does."""
        run, first, last, reached = self._reach(encoding, selection, after, upto)
        return run.slice(first, last, encoding.separator) if first < last else b"", reached

    def read_packed(
        self, wire: Wire, selection: Selection, after: int, upto: int
    ) -> tuple[bytes, int]:
        """As `read`, for a wire that packs, and joined by it already."""
        run, first, last, reached = self._reach(wire.encoding, selection, after, upto)
        pieces = []
        section = bisect_right(run.sections, first)
        while first < last:
            stop = last
            if section < len(run.sections):
                stop = min(last, run.sections[section])
                section += 1
            pieces.append(self._pack(run, wire, first, stop))
            first = stop
        return b"".join(pieces), reached

    def _pack(self, run: _Run, wire: Wire, first: int, last: int) -> bytes:
        piece = run.packed.get((wire, first, last))
        if piece is None:
            part = run.slice(first, last, wire.encoding.separator)
            piece = wire.join([part])
            if self._size <= self._kept:
                run.packed[wire, first, last] = piece
                self._size += len(piece)
        return piece

    def _reach(
        self, encoding: Encoding, selection: Selection, after: int, upto: int
    ) -> tuple[_Run, int, int, int]:
        """A run with what follows `after`: from and up to which index, and the `seq` reached."""
        run = self._find(encoding, selection, after)
        if run.end < upto and not run.full:
            self._grow(run, encoding, selection, upto)
        reached = min(run.end, upto)
        return run, bisect_right(run.seqs, after), bisect_right(run.seqs, reached), reached

    def _find(self, encoding: Encoding, selection: Selection, after: int) -> _Run:
        for run in self._runs.get((encoding, selection), ()):
            if run.begin <= after < run.end or (after == run.end and not run.full):
                return run
        if self._size > self._kept:
            self.clear()
        run = _Run(after)
        self._runs.setdefault((encoding, selection), []).append(run)
        return run

    def _grow(self, run: _Run, encoding: Encoding, selection: Selection, upto: int) -> None:
        events, end = self._log.read(selection, run.end, upto, self._limit - len(run.body))
        seqs: list[int] = []
        offsets: list[int] = []
        sections: list[int] = []
        parts = [run.body]
        place = len(run.body)
        section = run.offsets[run.sections[-1]] if run.sections else 0
        for event in events:
            for selector in selection.matching(event.channel):
                part = encoding.event(event, selector)
                parts += (part, encoding.separator)
                if place - section >= SECTION:
                    section = place
                    sections.append(len(run.seqs) + len(seqs))
                seqs.append(event.seq)
                offsets.append(place)
                place += len(part) + len(encoding.separator)
                if not encoding.per_selector:
                    break
        self._size += place - len(run.body)
        run.body = b"".join(parts)
        run.seqs += seqs
        run.offsets += offsets
        run.sections += sections
        run.end = end
        run.full = end < upto or place >= self._limit
