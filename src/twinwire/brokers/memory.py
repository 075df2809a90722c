"""The log in this process alone: nothing outlives it, and nothing is faster.

Durable while the process lives. `append` delivers before it returns, so a publisher that has its
position knows that the event is in the hub's log.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from twinwire.brokers.base import Config, Tail
from twinwire.brokers.idempotency import Window
from twinwire.core.event import Draft, Event, Position, Selection
from twinwire.core.feed import Earlier
from twinwire.errors import BrokerError


class MemoryBroker:
    """`memory://`"""

    shared = False

    def __init__(self, config: Config = Config()) -> None:  # noqa: B008 (an immutable tuple)
        self._position = Position(time.time_ns() // 1_000_000, 0)
        self._tail: Tail | None = None
        self._seen = Window(config.idempotency_window, config.idempotency_keys)

    async def open(self, tail: Tail) -> None:
        """See `Broker.open`."""
        self._tail = tail
        tail.begin(self._position, ())

    async def append(self, drafts: Sequence[Draft]) -> list[Position]:
        """See `Broker.append`."""
        if self._tail is None:
            raise BrokerError("the memory broker is not open")
        epoch, seq = self._position
        now = time.time_ns() // 1_000_000
        positions: list[Position] = []
        events: list[Event] = []
        for draft in drafts:
            key = draft.idempotency_key
            position = self._seen.find(draft.channel, key, now) if key else None
            if position is None:
                seq += 1
                position = Position(epoch, seq)
                events.append(Event.of(draft, position, now))
                if key:
                    self._seen.note(draft.channel, key, position, now)
            positions.append(position)
        if events:
            self._position = events[-1].position
            self._tail.deliver(events)
        return positions

    async def read(self, selection: Selection, after: int, upto: int, limit: int) -> Earlier:
        """See `Broker.read`: there is nothing that the hub's log does not have."""
        return Earlier(upto, [], upto)

    async def tell(self, notice: bytes) -> None:
        """See `Broker.tell`."""
        if self._tail is None:
            raise BrokerError("the memory broker is not open")
        self._tail.hear(notice)

    async def close(self) -> None:
        """See `Broker.close`."""
        self._tail = None
