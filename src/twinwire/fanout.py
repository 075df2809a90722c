"""The fan-out: log → lanes → sinks. It decides who is written what and when; sinks do the I/O.

1. What is appended goes to the log and to the lanes in the same step.
2. A tick goes through the lanes: it cuts each and writes the cut to the lane's members. Then feeds
   that are behind read the log. All of it is cut into slices, between which the loop serves others.
3. The next tick starts when the last write of this one is out: under load the ticks space
   themselves out and the batches grow.
4. A sink that is full takes its feed out of its lane, with its position. When it has drained the
   feed reads the log from there. One that takes nothing for `write_timeout` is closed.
5. Nothing a sink does raises in here: a sink that fails is closed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple, Protocol

from twinwire.core.event import Event, Position
from twinwire.core.feed import Feed, Mode, Start
from twinwire.core.lane import Cut, Lanes
from twinwire.core.log import Log
from twinwire.core.recovery import Recovery, subscribe
from twinwire.core.replay import Replay
from twinwire.errors import Closed, CloseReason, Reason
from twinwire.wires.objects import OBJECTS

_log = logging.getLogger("twinwire")

_ANSWERED: Final = 4 * 1024
"""Bytes of missed events, about, that the answer to a subscription holds. What goes beyond is read
like everything else that a feed is behind with: shared with others who have missed the same."""


_STEP: Final = 8
"""Writes between two looks at the clock."""


class Sink(Protocol):
    """Where the bytes for one connection go."""

    full: bool
    """Whether it has no room. When it has again, it calls `Fanout.drained`."""

    def write(self, data: Any) -> None:
        """Take `data`, whole, even when that makes it full."""

    def waiting(self) -> int | None:
        """How much of what it took has not gone out yet, in bytes; None if it may take its time."""

    def dropped(self) -> None:
        """A gap has ended subscriptions of a feed that writes to it."""

    def close(self, reason: Reason) -> None:
        """Tell the client why, and end."""


class _Stall(NamedTuple):
    """Since when, in ms, the full sink of this feed has had so many bytes waiting."""

    feed: Feed
    since: int
    waiting: int


class Fanout:
    """All feeds over one log. Belongs to the event loop it was made in."""

    def __init__(
        self,
        log: Log,
        *,
        slice_ms: float,
        read_bytes: int,
        replay_bytes: int,
        write_timeout: float,
        buffered_bytes: int,
    ) -> None:
        """`slice_ms` is how long it may hold the loop at a stretch, `read_bytes` how much a feed
        that is behind reads from the log at once, `replay_bytes` how much of what they read is
        kept encoded for others who read the same. A sink that takes nothing for `write_timeout`
        seconds is closed, and the fullest ones when all together hold over `buffered_bytes`."""
        self.log = log
        self.lanes = Lanes()
        self.feeds: dict[Feed, int] = {}
        """All feeds, and what is reckoned for each in `memory`."""
        self.ahead = 0
        """Events appended since the last tick began. What came before that has been taken by all
        lanes when the tick is over."""
        self.ahead_bytes = 0
        """The bytes of their data."""
        self.cut = asyncio.Event()
        """Set by every tick, when it begins."""
        self._memory = 0
        self._slice = slice_ms / 1000
        self._read_bytes = read_bytes
        self._replay = Replay(log, limit=read_bytes, kept=replay_bytes)
        self._write_timeout = int(write_timeout * 1000)
        self._buffered_bytes = buffered_bytes
        self._behind: OrderedDict[Feed, None] = OrderedDict()
        self._awaiting_cut: list[Feed] = []
        self._full: dict[Sink, _Stall] = {}
        self._due: set[int] = set()
        self._pacing: dict[int, asyncio.TimerHandle] = {}
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._steps: Iterator[None] = iter(())

    def append(self, events: Sequence[Event]) -> None:
        """Take the next events of the log."""
        to_log, to_lanes = self.log.append, self.lanes.append
        for event in events:
            to_log(event)
            to_lanes(event)
            self.ahead_bytes += len(event.data)
        # Also when nobody gets them: a publisher in a tight loop must let the loop turn.
        self.ahead += len(events)
        self._wake()

    def restart(self, position: Position, latest: Iterable[Event]) -> None:
        """The log begins anew after `position`, with the newest events of keys from before it.

        Whoever is not there has a gap from where they are.
        """
        log = self.log
        # What has come so far is written first: it is part of what a gap begins after.
        for steps in (self._steps, self._round()):
            for _ in steps:
                pass
        self._steps = iter(())
        before = log.epoch
        for feed in self.feeds:
            if feed.lane is not None:
                self.lanes.leave(feed, log.head)
            if position.epoch != before:
                feed.restart(before)
        log.restart(*position)
        for event in latest:
            log.remember(event)
        self._replay.clear()
        for feed in self.feeds:
            self._read_on(feed)

    def expire(self, now: int) -> None:
        """Let go of what has become too old at `now`, in ms since 1970. To be called often."""
        self.log.expire(now)
        if not self._behind:
            self._replay.clear()
        self._check_full(now)

    def attach(self, feed: Feed) -> None:
        """Take in a feed that has been started; it reads the log and then joins its lane."""
        self.feeds[feed] = 0
        self._reckon(feed)
        self._read_on(feed)

    def detach(self, feed: Feed) -> None:
        """Let go of a feed. Done twice it does nothing."""
        if feed in self.feeds:
            self._memory -= self.feeds.pop(feed)
            self._behind.pop(feed, None)
            if feed.lane is not None:
                self.lanes.leave(feed, self.log.head)

    def close(self, feed: Feed, reason: Reason) -> None:
        """Detach the feed and end its connection."""
        self.detach(feed)
        try:
            feed.sink.close(reason)
        except Exception:  # noqa: BLE001 (rule 5)
            _log.exception("a sink failed to close")

    def drained(self, feed: Feed) -> None:
        """The feed's sink has room again."""
        self._full.pop(feed.sink, None)
        if feed in self.feeds and feed.lane is None:
            self._read_on(feed)

    def subscribe(
        self, feed: Feed, selector: str, mode: Mode, since: Position | Start | None
    ) -> Recovery:
        """Add a channel or pattern to an attached feed; see `twinwire.core.recovery`.

        What the result does not hold is written after the caller's next writes.
        """
        if feed.lane is not None:
            self.lanes.leave(feed, self.log.head)
        limit = min(self._read_bytes, _ANSWERED)
        recovery = subscribe(feed, selector, mode, since, self.log, limit)
        self._reckon(feed)
        self._read_on(feed)
        return recovery

    def unsubscribe(self, feed: Feed, selectors: Iterable[str]) -> None:
        """Take channels or patterns from an attached feed."""
        if feed.lane is not None:
            self.lanes.leave(feed, self.log.head)
        feed.drop(selectors)
        self._reckon(feed)
        self._read_on(feed)

    @property
    def memory(self) -> int:
        """About how many bytes of memory all feeds and their lanes take; sinks not counted."""
        return self._memory + self.lanes.memory

    def _reckon(self, feed: Feed) -> None:
        """Take what `feed` costs into account, after its channels have changed."""
        cost = feed.cost
        self._memory += cost - self.feeds[feed]
        self.feeds[feed] = cost

    def position(self, feed: Feed) -> Position:
        """The position up to which the feed has been written everything."""
        return Position(self.log.epoch, feed.reached(self.log.head))

    def _read_on(self, feed: Feed) -> None:
        if not feed.sink.full and feed.count:
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
            if not (self.lanes.dirty or self._behind or self._due):
                self._level()
                return
            self._steps = self._round()

    def _level(self) -> None:
        self.ahead = self.ahead_bytes = 0
        self.cut.set()

    def _round(self) -> Iterator[None]:
        """One tick, then as much time for the reading of those behind; in small steps."""
        begun = time.perf_counter()
        self._level()
        written = 0
        waiting, self._awaiting_cut = self._awaiting_cut, []
        for cut in chain(self.lanes.cuts(self.log), self._cuts_due()):
            for feed in cut.members:
                if cut.awaited_by(feed):
                    self._give(feed, cut.data, cut.position, cut.broken)
                written += 1
                if not written % _STEP:
                    yield
        for feed in waiting:
            if feed in self.feeds and feed.lane is None:
                self._read_on(feed)
        now = time.perf_counter()
        until = now + max(self._slice, now - begun)
        for _ in range(len(self._behind)):
            if self._behind:
                feed, _ = self._behind.popitem(last=False)
                self._advance(feed)
                yield
            if time.perf_counter() > until:
                break

    def _cuts_due(self) -> Iterator[Cut]:
        """Of the paced lanes whose time has come."""
        due, self._due = self._due, set()
        for pace in due:
            yield from self.lanes.cut_paced(pace, self.log)

    def _give(self, feed: Feed, data: Any, position: int, broken: Reason | None) -> None:
        sink = feed.sink
        if sink.full:
            # By something else than the fan-out: an answer, or another feed of this connection.
            self.lanes.leave(feed, self.log.head)
            return
        try:
            if data:
                sink.write(data)
        except Exception:  # noqa: BLE001 (rule 5)
            _log.exception("a sink failed")
            broken = CloseReason.WRITE_ERROR
        if feed not in self.feeds:
            return  # a sink that found its connection gone may have detached it
        feed.position = position
        if broken is not None:
            self.close(feed, broken)
        elif sink.full:
            self.lanes.leave(feed, self.log.head)

    def _check_full(self, now: int) -> None:
        """Close the connections that take nothing, and the fullest ones if there is too much.

        Of all that are full, whoever has filled them: the fan-out, answers or a stream.
        """
        before, self._full = self._full, {}
        total = 0
        for feed in list(self.feeds):
            sink = feed.sink
            if not sink.full or sink in self._full or (waiting := sink.waiting()) is None:
                continue
            stall = before.get(sink)
            if stall is None or waiting < stall.waiting:
                stall = _Stall(feed, now, waiting)
            elif now - stall.since >= self._write_timeout:
                self.close(feed, CloseReason.WRITE_ERROR)
                continue
            self._full[sink] = stall
            total += waiting
        if total > self._buffered_bytes:
            fullest = sorted(self._full.values(), key=lambda stall: stall.waiting)
            while fullest and total > self._buffered_bytes:
                stall = fullest.pop()
                total -= stall.waiting
                self.close(stall.feed, CloseReason.SLOW)

    def _pace(self) -> None:
        """See to it that each pace has its timer."""
        for pace in self.lanes.paces:
            if pace not in self._pacing:
                self._pacing[pace] = self._loop.call_later(pace / 1000, self._paced, pace)

    def _paced(self, pace: int) -> None:
        del self._pacing[pace]
        self._due.add(pace)
        self._pace()
        self._wake()

    def _advance(self, feed: Feed) -> None:
        before, count = feed.position, feed.count
        try:
            replay = None if feed.wire is OBJECTS else self._replay
            data = feed.advance(self.log, self.lanes, self._read_bytes, replay)
            if data:
                feed.sink.write(data)
        except Closed as closed:
            self.close(feed, closed.reason)
            return
        except Exception:  # noqa: BLE001 (rule 5)
            _log.exception("a sink failed")
            self.close(feed, CloseReason.WRITE_ERROR)
            return
        if feed not in self.feeds:
            return
        self._reckon(feed)
        if feed.count != count:
            feed.sink.dropped()
        if feed.lane is None:
            if data or feed.position != before:
                self._read_on(feed)
            elif feed.count:
                self._awaiting_cut.append(feed)
            return
        if feed.pace:
            self._pace()
        if feed.sink.full:
            self.lanes.leave(feed, self.log.head)
