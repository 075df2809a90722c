"""What a session (`twinwire.core.session`) wants done: the effects of a client's commands."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Raw

from twinwire.core.event import Position
from twinwire.core.feed import Mode, Start
from twinwire.core.protocol import ConnectRequest, Reply
from twinwire.errors import Reason


class Send(NamedTuple):
    """Write `reply` to the client."""

    reply: Reply


class Close(NamedTuple):
    """End the connection."""

    reason: Reason


class Connect(NamedTuple):
    """Find out who this is and what it may do; then `connected` or `refused`."""

    id: int
    request: ConnectRequest


class Subscribe(NamedTuple):
    """Add the selector to the feed; then `subscribed`."""

    id: int
    selector: str
    mode: Mode
    since: Position | Start | None
    recovering: bool
    pace: int
    """The time in ms between what a subscription of mode `latest` is told; 0 is at once."""

    strict: bool
    """Whether a position that cannot be recovered is an error (112)."""

    join_leave: bool
    """Whether the client wants to hear who joins and leaves the channel."""


class Unsubscribe(NamedTuple):
    """Drop the selector from the feed; then `unsubscribed`."""

    id: int
    selector: str


class Publish(NamedTuple):
    """Publish; then `published` or `refused`."""

    id: int
    channel: str
    data: Raw


class Call(NamedTuple):
    """Call a command; then `answered` or `refused`."""

    id: int
    method: str
    data: Raw


class Notify(NamedTuple):
    """Give the application a message that wants no answer."""

    data: Raw


class History(NamedTuple):
    """Read a channel's past. A `limit` of 0 asks for the head alone, of -1 for as much as one
    answer may hold."""

    id: int
    channel: str
    limit: int
    since: Position | None
    reverse: bool


class Present(NamedTuple):
    """Say who is in a channel, or only how many they are: `stats`."""

    id: int
    channel: str
    stats: bool


Effect = (
    Send | Close | Connect | Subscribe | Unsubscribe | Publish | Call | Notify | History | Present
)
