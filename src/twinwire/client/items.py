"""What a subscription yields beside events: gaps, and the connection's coming and going."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

from twinwire.core.event import Event, Position
from twinwire.core.feed import Gap

EARLIEST: Final = "earliest"
"""Stands for the position before the oldest event that the server still has."""

Since: TypeAlias = Position | Literal["earliest"] | None
"""Where to begin: after a position, at the oldest event, or (None) with what is published next."""


class Connected(NamedTuple):
    """The server has accepted the subscription; `position` is where it was asked to go on."""

    position: Since


class Disconnected(NamedTuple):
    """The connection is lost, or could not be made; the next try is in `delay` seconds."""

    why: str
    delay: float


Item: TypeAlias = Event | Gap | Connected | Disconnected
"""What a subscription yields."""


def since_of(since: Position | str | None) -> Since:
    """`since` as given by a caller. Raises `BadPosition`."""
    if since is None or isinstance(since, Position):
        return since
    return EARLIEST if since == EARLIEST else Position.parse(since)
