"""What a wire is for the core: how events, gaps and batches are written; see `twinwire.wires`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol

from twinwire.core.event import Event, Position, Selection


class Why(Enum):
    """Why there is a gap."""

    EVICTED = "evicted"
    """The log no longer holds events that were after the position."""

    TOO_SLOW = "too_slow"
    """The same, while the subscriber was connected: it has read slower than the log forgets."""

    RESTARTED = "restarted"
    """The position belongs to another log: this one was begun anew since."""


class Gap(NamedTuple):
    """Events after `begin` up to and with `end` that this subscriber may have missed."""

    begin: Position
    end: Position
    why: Why
    selectors: tuple[str, ...]


class Encoding(Protocol):
    """How one event is written. Wires that write it alike share one `Encoding`."""

    @property
    def per_selector(self) -> bool:
        """Whether an event that several selectors match is written once for each of them."""

    @property
    def separator(self) -> bytes:
        """What stands between parts that are joined to one."""

    def event(self, event: Event, selector: str) -> Any:
        """The part that carries `event`, for whoever selected it by `selector`.

        Raises `Closed` if this encoding cannot carry it, which ends the streams that want it.
        """


class Wire(Protocol):
    """How a stream is written: an encoding, and how its parts are framed for one kind of socket."""

    @property
    def encoding(self) -> Encoding:
        """How its events are written."""

    @property
    def resumes(self) -> bool:
        """Whether the stream goes on after a gap; otherwise the gap ends what it concerns."""

    @property
    def packs(self) -> bool:
        """Whether it compresses. Then its joins are worth keeping for others, and are bytes that
        can be put together."""

    def join(self, parts: Sequence[Any], readers: int = 1) -> Any:
        """The bytes that carry `parts`, in order, to so many readers. Writing two joins in a row
        is as good as one."""

    def gap(self, gap: Gap) -> Any:
        """The part that declares `gap`."""


def encoded(encoding: Encoding, events: Iterable[Event], selection: Selection) -> list[Any]:
    """The parts that carry `events` to a subscriber of `selection`. Raises `Closed` as the
    encoding does."""
    parts: list[Any] = []
    for event in events:
        for selector in selection.matching(event.channel):
            parts.append(encoding.event(event, selector))
            if not encoding.per_selector:
                break
    return parts
