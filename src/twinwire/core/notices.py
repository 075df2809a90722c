"""What the nodes of one hub tell each other, and how it is written: notices.

A notice is a prefix with a version, and MessagePack. A struct may get more fields at its end, with
defaults: older programs pass over them. What older programs would get wrong has a new version in
the prefix, and they do not read it.

Of one node's notices about presence a later one has a higher `number`, see
`twinwire.core.presence`.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from twinwire.errors import BadFrame

_PREFIX: Final = b"twinwire 1 "


class Entry(Struct, array_like=True, frozen=True):
    """A client in a channel. `conn_info` and `chan_info` are JSON."""

    channel: str
    client: str
    user: str = ""
    conn_info: bytes | None = None
    chan_info: bytes | None = None


class Figures(Struct, array_like=True, frozen=True):
    """What a node says of itself. Times are in seconds."""

    name: str = ""
    version: str = ""
    clients: int = 0
    channels: int = 0
    lanes: int = 0
    events: int = 0
    uptime: int = 0


class _Numbered(Struct, array_like=True, frozen=True):
    node: str
    """Who tells it."""

    number: int


class Beat(_Numbered, tag="beat", frozen=True):
    """The node lives, and tells so every `period` seconds. Its members are at `version`."""

    version: int
    period: float
    figures: Figures


class Changes(_Numbered, tag="changes", frozen=True):
    """What brings the node's members from the version before to `version`."""

    version: int
    joined: list[Entry]
    left: list[tuple[str, str]]
    """Channel and client of each."""


class Whole(_Numbered, tag="whole", frozen=True):
    """All members of the node at `version`, or so many of them: part `part` (from 0) of `parts`,
    which are told one after the other."""

    version: int
    part: int
    parts: int
    members: list[Entry]


class Ask(_Numbered, tag="ask", frozen=True):
    """These nodes are asked to tell all their members; if none is named, every node is."""

    nodes: list[str]


class Bye(_Numbered, tag="bye", frozen=True):
    """The node ends, and all its members have left."""


class _Order(Struct, array_like=True, frozen=True):
    node: str
    """Who has carried it out already, and tells the others."""

    user: str = ""
    client: str = ""
    """Whom it concerns: the connections of this user, or of this client, or with both given those
    that are both."""


class Disconnect(_Order, tag="disconnect", frozen=True):
    """End them, but not those of the clients in `spared`."""

    code: int = 0
    reason: str = ""
    spared: list[str] = []


class Unsubscribe(_Order, tag="unsubscribe", frozen=True):
    """End their subscriptions to `channel`, a name or a pattern."""

    channel: str = ""


class Refresh(_Order, tag="refresh", frozen=True):
    """They end at `expires`, in seconds since 1970; 0 is never."""

    expires: float = 0


Presence = Beat | Changes | Whole | Ask | Bye
Order = Disconnect | Unsubscribe | Refresh
Notice = Presence | Order

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Notice).decode


def pack(notice: Notice) -> bytes:
    """The bytes that `notice` is told as."""
    return _PREFIX + _encode(notice)


def unpack(data: bytes) -> Notice:
    """The notice that was told as `data`. Raises `BadFrame` for what is foreign or of another
    version."""
    if not data.startswith(_PREFIX):
        raise BadFrame(f"not a notice of this version: {data[:24]!r}")
    try:
        notice: Notice = _decode(data[len(_PREFIX) :])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadFrame(f"not a notice of this version: {error}") from None
    return notice
