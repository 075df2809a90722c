"""The contract between the hub and the place where its log lives.

What every broker guarantees:

1. One order: all events of a hub, on every node, get positions in one sequence. `seq` counts up;
   `epoch` changes only when the log has lost events it had acknowledged, and then to a later one.
2. Atomic: the events of one `append` get neighbouring positions in the order given, or none does.
3. Durable when `append` returns, as far as the broker's own page says.
4. Every event appended after `open` returned, by whomever, is delivered once, in order. A lost
   connection to the broker is taken up again where it broke: a node misses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from twinwire.core.event import Draft, Event, Position

Deliver = Callable[[Sequence[Event]], None]
"""Takes the next events of the log. It neither waits nor raises."""


class Broker(Protocol):
    """A log's home."""

    async def open(self, deliver: Deliver) -> Position:
        """Start the tail: events after the returned position are given to `deliver`.

        Raises `BrokerError` if the broker cannot be reached.
        """

    async def append(self, drafts: Sequence[Draft]) -> list[Position]:
        """Append the events and return their positions. Raises `BrokerError`."""

    async def close(self) -> None:
        """Stop the tail and let go of the broker."""
