"""The log in this process alone: nothing outlives it, and nothing is faster.

Durable while the process lives. `append` delivers before it returns, so a publisher that has its
position knows that the event is in the hub's log.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from twinwire.brokers.base import Deliver
from twinwire.core.event import Draft, Event, Position
from twinwire.errors import BrokerError


class MemoryBroker:
    """`memory://`"""

    def __init__(self) -> None:
        self._position = Position(time.time_ns() // 1_000_000, 0)
        self._deliver: Deliver | None = None

    async def open(self, deliver: Deliver) -> Position:
        """See `Broker.open`."""
        self._deliver = deliver
        return self._position

    async def append(self, drafts: Sequence[Draft]) -> list[Position]:
        """See `Broker.append`."""
        if self._deliver is None:
            raise BrokerError("the memory broker is not open")
        epoch, seq = self._position
        now = time.time_ns() // 1_000_000
        positions = [Position(epoch, seq + n) for n in range(1, len(drafts) + 1)]
        if positions:
            self._position = positions[-1]
            self._deliver([Event.of(d, p, now) for d, p in zip(drafts, positions, strict=True)])
        return positions

    async def close(self) -> None:
        """See `Broker.close`."""
        self._deliver = None
