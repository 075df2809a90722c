"""A subscriber in the process of the hub: a sink that is iterated over."""

from __future__ import annotations

import asyncio
from collections import deque

from twinwire.core.event import Event
from twinwire.core.feed import Feed, Gap
from twinwire.errors import Closed, Lost, Reason
from twinwire.fanout import Fanout

_EVENTS = 1024
"""Events that wait before it counts as full."""


class Iterator:
    """See `twinwire.fanout.Sink`."""

    def __init__(self, fanout: Fanout) -> None:
        self.full = False
        self.feed: Feed | None = None
        self._fanout = fanout
        self._waiting: deque[Event | Gap] = deque()
        self._arrived = asyncio.Event()
        self._closed: Reason | None = None

    def write(self, data: list[Event | Gap]) -> None:
        """See `Sink.write`."""
        self._waiting.extend(data)
        self.full = len(self._waiting) >= _EVENTS
        self._arrived.set()

    def waiting(self) -> None:
        """It may take its time."""

    def dropped(self) -> None:
        """No gap ends a subscription in the process."""

    def close(self, reason: Reason) -> None:
        """See `Sink.close`."""
        self._closed = reason
        self._arrived.set()

    async def next(self) -> Event:
        """The next event. Raises `Lost` for a gap, and `Closed` at the end."""
        while not self._waiting:
            if self._closed is not None:
                raise Closed(self._closed)
            self._arrived.clear()
            await self._arrived.wait()
        item = self._waiting.popleft()
        if self.full and not self._waiting:
            self.full = False
            assert self.feed is not None
            self._fanout.drained(self.feed)
        if isinstance(item, Gap):
            raise Lost(str(item.begin), str(item.end), item.why.value)
        return item
