"""The fan-out: log → lanes → sinks. It decides who is written what and when; sinks do the I/O.

1. What is appended goes to the log and to the lanes in the same step.
2. A tick cuts the lanes and writes each cut to the lane's members; feeds that are behind read the
   log in between. All of it is cut into slices, between which the loop serves others.
3. The next tick starts when the last write of this one is out: under load the ticks space
   themselves out and the batches grow.
4. A sink that is full takes its feed out of its lane, with its position. When it has drained the
   feed reads the log from there.
5. Nothing a sink does raises in here: a sink that fails is closed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from twinwire.core.event import Event, Position
from twinwire.core.feed import Feed, Mode, Recovery, subscribe
from twinwire.core.lane import Lanes
from twinwire.core.log import Log
from twinwire.errors import Closed, CloseReason

_log = logging.getLogger("twinwire")


class Sink(Protocol):
    """Where the bytes for one connection go."""

    full: bool
    """Whether it has no room. When it has again, it calls `Fanout.drained`."""

    def write(self, data: Any) -> None:
        """Take `data`, whole, even when that makes it full."""

    def close(self, reason: CloseReason) -> None:
        """Tell the client why, and end."""


class Fanout:
    """All feeds over one log. Belongs to the event loop it was made in."""

    def __init__(self, log: Log, *, slice_ms: float, read_bytes: int) -> None:
        """`slice_ms` is how long it may hold the loop at a stretch, `read_bytes` how much a feed
        that is behind reads from the log at once."""
        self.log = log
        self.lanes = Lanes()
        self.feeds: dict[Feed, None] = {}
        self.ahead = 0
        """Events appended since the last cut that somebody is to get."""
        self.cut = asyncio.Event()
        """Set by every cut."""
        self._slice = slice_ms / 1000
        self._read_bytes = read_bytes
        self._behind: OrderedDict[Feed, None] = OrderedDict()
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._steps: Iterator[None] = iter(())

    def append(self, events: Sequence[Event]) -> None:
        """Take the next events of the log."""
        to_log, to_lanes = self.log.append, self.lanes.append
        for event in events:
            to_log(event)
            to_lanes(event)
        if self.lanes.dirty:
            self.ahead += len(events)
            self._wake()

    def attach(self, feed: Feed) -> None:
        """Take in a feed that has been started; it reads the log and then joins its lane."""
        self.feeds[feed] = None
        self._read_on(feed)

    def detach(self, feed: Feed) -> None:
        """Let go of a feed. Done twice it does nothing."""
        if feed in self.feeds:
            del self.feeds[feed]
            self._behind.pop(feed, None)
            if feed.lane is not None:
                self.lanes.leave(feed, self.log.head)

    def close(self, feed: Feed, reason: CloseReason) -> None:
        """Detach the feed and end its connection."""
        self.detach(feed)
        try:
            feed.sink.close(reason)
        except Exception:  # noqa: BLE001 (rule 5)
            _log.exception("a sink failed to close")

    def drained(self, feed: Feed) -> None:
        """The feed's sink has room again."""
        if feed in self.feeds and feed.lane is None:
            self._read_on(feed)

    def subscribe(self, feed: Feed, selector: str, mode: Mode, since: Position | None) -> Recovery:
        """Add a channel or pattern to an attached feed; see `twinwire.core.feed.subscribe`.

        What the result does not hold is written after the caller's next writes.
        """
        if feed.lane is not None:
            self.lanes.leave(feed, self.log.head)
        recovery = subscribe(feed, selector, mode, since, self.log, self._read_bytes)
        self._read_on(feed)
        return recovery

    def unsubscribe(self, feed: Feed, selectors: Iterable[str]) -> None:
        """Take channels or patterns from an attached feed."""
        if feed.lane is not None:
            self.lanes.leave(feed, self.log.head)
        feed.drop(selectors)
        self._read_on(feed)

    def position(self, feed: Feed) -> Position:
        """The position up to which the feed has been written everything."""
        lane = feed.lane
        served = lane is not None and not lane.pending and feed.position >= lane.position
        return Position(self.log.epoch, self.log.head if served else feed.position)

    def _read_on(self, feed: Feed) -> None:
        if not feed.sink.full and feed.selection:
            self._behind[feed] = None
            self._wake()

    def _wake(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """One slice."""
        self._scheduled = False
        until = time.perf_counter() + self._slice
        while True:
            for _ in self._steps:
                if time.perf_counter() > until:
                    self._wake()
                    return
            if not self.lanes.dirty and not self._behind:
                return
            self._steps = self._round()

    def _round(self) -> Iterator[None]:
        """One tick, then what fits into a slice of the reading of those behind; in small steps."""
        cuts = self.lanes.cut(self.log.head)
        self.ahead = 0
        self.cut.set()
        for cut in cuts:
            for feed in cut.members:
                if feed.lane is cut.lane:
                    self._give(feed, cut.data, cut.position, cut.broken)
                yield
        until = time.perf_counter() + self._slice
        for _ in range(len(self._behind)):
            if self._behind:
                feed, _ = self._behind.popitem(last=False)
                self._advance(feed)
                yield
            if time.perf_counter() > until:
                break

    def _give(self, feed: Feed, data: Any, position: int, broken: CloseReason | None) -> None:
        sink = feed.sink
        try:
            if data:
                sink.write(data)
        except Exception:  # noqa: BLE001 (rule 5)
            _log.exception("a sink failed")
            broken = CloseReason.WRITE_ERROR
        feed.position = position
        if broken is not None:
            self.close(feed, broken)
        elif sink.full:
            self.lanes.leave(feed, self.log.head)

    def _advance(self, feed: Feed) -> None:
        try:
            parts = feed.advance(self.log, self.lanes, self._read_bytes)
            if parts:
                feed.sink.write(feed.wire.join(parts))
        except Closed as closed:
            self.close(feed, closed.reason)
            return
        except Exception:  # noqa: BLE001 (rule 5)
            _log.exception("a sink failed")
            self.close(feed, CloseReason.WRITE_ERROR)
            return
        if feed.lane is None:
            self._read_on(feed)
        elif feed.sink.full:
            self.lanes.leave(feed, self.log.head)
