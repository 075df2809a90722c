"""Replay: what feeds that are behind have in common is encoded and joined once.

After a network's hiccup thousands come back and read nearly the same stretch of the log, each from
a position of its own. A run is such a stretch for one selection in one encoding, with the places
where each event begins: whoever wants a part of it gets a slice.

1. A run holds all matching events after `begin` up to `end`.
2. It grows at its end until it is full. What comes after is a run of its own: readers who came from
   different positions meet at a run's end, and share the next one from there.
3. Runs are for the moment: they are forgotten soon after nobody is behind any more, and all at
   once when there are too many bytes of them.
"""

from __future__ import annotations

from bisect import bisect_right

from twinwire.core.event import Selection
from twinwire.core.lane import Encoding
from twinwire.core.log import Log


class _Run:
    """One stretch. `offsets` has the place of each of `seqs` in `body`."""

    __slots__ = ("begin", "body", "end", "full", "offsets", "seqs")

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.end = begin
        self.full = False
        self.body = b""
        self.seqs: list[int] = []
        self.offsets: list[int] = []


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
        run = self._find(encoding, selection, after)
        if run.end < upto and not run.full:
            self._grow(run, encoding, selection, upto)
        reached = min(run.end, upto)
        first, last = bisect_right(run.seqs, after), bisect_right(run.seqs, reached)
        if first == last:
            return b"", reached
        start = run.offsets[first]
        stop = run.offsets[last] if last < len(run.offsets) else len(run.body)
        # A separator follows each part; a slice has them only between its parts.
        return run.body[start : stop - len(encoding.separator)], reached

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
        seqs, offsets, parts = [], [], [run.body]
        place = len(run.body)
        for event in events:
            for selector in selection.matching(event.channel):
                part = encoding.event(event, selector)
                parts += (part, encoding.separator)
                seqs.append(event.seq)
                offsets.append(place)
                place += len(part) + len(encoding.separator)
                if not encoding.per_selector:
                    break
        self._size += place - len(run.body)
        run.body = b"".join(parts)
        run.seqs += seqs
        run.offsets += offsets
        run.end = end
        run.full = end < upto or place >= self._limit
