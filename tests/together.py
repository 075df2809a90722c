"""Several nodes in one process: hubs whose brokers share one log and one room for notices.

together = Together()
one, two = together.hub(presence_beat=0.1), together.hub(presence_beat=0.1)

A node that is cut off hears no notice, and can tell none. The log it gets in full when it is back,
as from every broker.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from twinwire import Hub
from twinwire.brokers.base import Tail
from twinwire.core.event import Draft, Event, Position, Selection
from twinwire.core.feed import Earlier
from twinwire.errors import BrokerError


class Together:
    """One log and its notices."""

    def __init__(self) -> None:
        self.begin = Position(time.time_ns() // 1_000_000, 0)
        self.events: list[Event] = []
        self.brokers: list[SharedBroker] = []
        self.notices: list[bytes] = []
        """Everything that was told."""

    def hub(self, **settings: Any) -> Hub:
        """A new node, not yet started."""
        return Hub(SharedBroker(self), **settings)

    def cut(self, hub: Hub) -> None:
        """Cut a node off from the others."""
        broker_of(hub).cut = True

    def mend(self, hub: Hub) -> None:
        """Let it hear and tell again."""
        broker_of(hub).mend()

    def tell(self, notice: bytes) -> None:
        """Let every node hear `notice`, which may be anything."""
        self.notices.append(notice)
        for broker in self.brokers:
            if not broker.cut:
                broker.tail.hear(notice)


def broker_of(hub: Hub) -> SharedBroker:
    assert isinstance(hub._broker, SharedBroker)
    return hub._broker


class SharedBroker:
    """One node's way to what is shared."""

    shared = True

    def __init__(self, together: Together) -> None:
        self.cut = False
        self.tail: Tail
        self._together = together
        self._delivered = 0

    async def open(self, tail: Tail) -> None:
        self.tail = tail
        tail.begin(self._together.begin, ())
        self._together.brokers.append(self)
        self._deliver()

    async def append(self, drafts: Sequence[Draft]) -> list[Position]:
        self._check()
        events = self._together.events
        epoch = self._together.begin.epoch
        positions = []
        for draft in drafts:
            position = Position(epoch, len(events) + 1)
            events.append(Event.of(draft, position, time.time_ns() // 1_000_000))
            positions.append(position)
        for broker in self._together.brokers:
            broker._deliver()
        return positions

    def _deliver(self) -> None:
        new = self._together.events[self._delivered :]
        if new and not self.cut:
            self._delivered += len(new)
            self.tail.deliver(new)

    async def read(self, selection: Selection, after: int, upto: int, limit: int) -> Earlier:
        return Earlier(upto, [], upto)

    async def tell(self, notice: bytes) -> None:
        self._check()
        self._together.tell(notice)

    def _check(self) -> None:
        if self not in self._together.brokers:
            raise BrokerError("the broker is not open")
        if self.cut:
            raise BrokerError("the broker cannot be reached")

    def mend(self) -> None:
        self.cut = False
        self._deliver()

    async def close(self) -> None:
        if self in self._together.brokers:
            self._together.brokers.remove(self)
