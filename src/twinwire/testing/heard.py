"""A tail that takes down what a broker tells it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from twinwire.core.event import Event, Position


class Heard:
    """Everything a broker has told, in order; see `twinwire.brokers.base.Tail`."""

    def __init__(self) -> None:
        self.begins: list[tuple[Position, list[Event]]] = []
        """Where the log began, and the newest events of keys that came with it."""

        self.batches: list[list[Event]] = []
        """The events that were delivered, as they came together."""

        self.notices: list[bytes] = []
        self._told = asyncio.Event()

    def begin(self, position: Position, latest: Sequence[Event]) -> None:
        """See `Tail.begin`."""
        self.begins.append((position, list(latest)))
        self._told.set()

    def deliver(self, events: Sequence[Event]) -> None:
        """See `Tail.deliver`."""
        self.batches.append(list(events))
        self._told.set()

    def hear(self, notice: bytes) -> None:
        """See `Tail.hear`."""
        self.notices.append(notice)
        self._told.set()

    @property
    def events(self) -> list[Event]:
        """All events that were delivered."""
        return [event for batch in self.batches for event in batch]

    @property
    def position(self) -> Position:
        """How far it has been told of the log."""
        return self.batches[-1][-1].position if self.batches else self.begins[-1][0]

    async def until(self, done: Callable[[], bool], seconds: float = 15.0) -> None:
        """Wait until `done`, which is asked whenever something is told.

        Raises `TimeoutError` after `seconds`.
        """
        async with asyncio.timeout(seconds):
            while not done():
                self._told.clear()
                await self._told.wait()
