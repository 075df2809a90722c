"""What can go wrong, as exceptions, and why a stream ends, as one table.

The exception tree::

    TwinwireError
    ├── BadInput (also a ValueError)      the caller's or the peer's fault
    │   ├── BadChannel                    a channel name or pattern breaks the rules
    │   ├── BadPosition                   not a position
    │   ├── BadEvent                      a key, type, tag or datum that cannot be published
    │   ├── BadFrame                      bytes that are not the protocol
    │   ├── BadSettings                   a setting is unknown or out of range
    │   └── TooLarge                      more than a limit allows; names the limit
    ├── CommandError                      what a command answers instead of a result
    ├── Closed                            a stream has ended; carries the reason
    ├── Lost                              a subscriber in the process has a gap; from where to where
    ├── NotRunning                        the hub is used before it was started or after its end
    └── BrokerError                       the log's home cannot be reached or refuses

An exception keeps its data in attributes; ``str()`` makes the sentence a user reads.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple


class TwinwireError(Exception):
    """The root of everything that twinwire raises on purpose."""


class BadInput(TwinwireError, ValueError):
    """Something was given that cannot be meant."""


class BadChannel(BadInput):
    """A channel name or pattern breaks the rules of `twinwire.core.event`."""

    def __init__(self, name: str, why: str) -> None:
        self.name = name
        self.why = why
        super().__init__(name, why)

    def __str__(self) -> str:
        return f"bad channel {_shown(self.name)}: {self.why}"


class BadPosition(BadInput):
    """A text that is not a position; a position looks like ``1763800000000-42``."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)

    def __str__(self) -> str:
        return (
            f"bad position {_shown(self.text)}: a position is two numbers joined by a dash, "
            "such as 1763800000000-42"
        )


class BadEvent(BadInput):
    """A field of an event cannot be published; `field` names it."""

    def __init__(self, field: str, why: str) -> None:
        self.field = field
        self.why = why
        super().__init__(field, why)

    def __str__(self) -> str:
        return f"bad {self.field}: {self.why}"


class BadFrame(BadInput):
    """Bytes from a peer that are not the protocol it has chosen."""


class BadSettings(BadInput):
    """A setting that is unknown, of the wrong type or out of range; says which and where."""


class TooLarge(BadInput):
    """More than a limit allows. `limit` is the setting's name, `allowed` its value."""

    def __init__(self, what: str, limit: str, allowed: int) -> None:
        self.what = what
        self.limit = limit
        self.allowed = allowed
        super().__init__(what, limit, allowed)

    def __str__(self) -> str:
        return f"{self.what} is over the limit of {self.allowed} ({self.limit})"


class CommandError(TwinwireError):
    """What a command answers instead of a result.

    Command handlers raise it with a `code` of their own from 400 to 1999; the codes below 400
    are the protocol's (see `Refusal`). `temporary` tells the client that trying again may help.
    """

    def __init__(self, code: int, message: str, *, temporary: bool = False) -> None:
        self.code = code
        self.message = message
        self.temporary = temporary
        super().__init__(code, message)

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class Closed(TwinwireError):
    """A stream has ended; `reason` is its row in the table of close reasons."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__(reason)

    def __str__(self) -> str:
        return f"closed: {self.reason.text} ({self.reason.code})"


class Lost(TwinwireError):
    """Events after `begin` up to and with `end` (positions as text) are gone from the log."""

    def __init__(self, begin: str, end: str, why: str) -> None:
        self.begin = begin
        self.end = end
        self.why = why
        super().__init__(begin, end, why)

    def __str__(self) -> str:
        return f"events from {self.begin} to {self.end} are lost to this subscriber: {self.why}"


class NotRunning(TwinwireError):
    """The hub is not running: its `lifespan` has not been entered or has ended."""

    def __str__(self) -> str:
        return (
            "the hub is not running: run the application with lifespan=hub.lifespan, "
            "or use 'async with hub:'"
        )


class BrokerError(TwinwireError):
    """The broker cannot be reached, or does not do what its contract says."""


class Refusal(Enum):
    """The errors that a command can be answered with: code, text, whether to try again.

    The codes are the Centrifuge client protocol's, so its SDKs know what to do with each: they
    repeat what is temporary, fetch a new token on 109, and give the rest to the application.
    """

    INTERNAL = (100, "internal server error", True)
    UNAUTHORIZED = (101, "unauthorized", False)
    UNKNOWN_CHANNEL = (102, "unknown channel", False)
    PERMISSION_DENIED = (103, "permission denied", False)
    METHOD_NOT_FOUND = (104, "method not found", False)
    ALREADY_SUBSCRIBED = (105, "already subscribed", False)
    LIMIT_EXCEEDED = (106, "limit exceeded", False)
    BAD_REQUEST = (107, "bad request", False)
    NOT_AVAILABLE = (108, "not available", False)
    TOKEN_EXPIRED = (109, "token expired", False)
    EXPIRED = (110, "expired", False)
    TOO_MANY_REQUESTS = (111, "too many requests", True)
    UNRECOVERABLE_POSITION = (112, "unrecoverable position", False)

    @property
    def code(self) -> int:
        return self.value[0]

    def error(self, detail: str = "") -> CommandError:
        """The exception for this refusal; `detail` takes the place of the standard text."""
        code, text, temporary = self.value
        return CommandError(code, detail or text, temporary=temporary)


class Unsubscribed(Enum):
    """Why the server ends one subscription: code and text. From 2500 up the client comes back."""

    SERVER = (2000, "server unsubscribe")
    INSUFFICIENT = (2500, "insufficient state")
    EXPIRED = (2501, "subscription expired")
    STREAM_END = (2001, "end of stream")
    STREAM_FAILED = (2002, "stream failed")

    @property
    def code(self) -> int:
        return self.value[0]

    @property
    def text(self) -> str:
        return self.value[1]


class CloseReason(Enum):
    """Why a whole stream ends: code, text, and whether the client should come back.

    One table for both wires, the clients and the docs. On the WebSocket it is the close frame's
    code and reason; on SSE the `reconnect` or `error` event carries both.
    """

    NORMAL = (3000, "connection closed", True)
    SHUTDOWN = (3001, "shutdown", True)
    SERVER_ERROR = (3004, "internal server error", True)
    EXPIRED = (3005, "connection expired", True)
    SLOW = (3008, "slow", True)
    WRITE_ERROR = (3009, "write error", True)
    INSUFFICIENT = (3010, "insufficient state", True)
    FORCE_RECONNECT = (3011, "force reconnect", True)
    NO_PONG = (3012, "no pong", True)
    TOO_MANY_REQUESTS = (3013, "too many requests", True)
    INVALID_TOKEN = (3500, "invalid token", False)
    BAD_REQUEST = (3501, "bad request", False)
    STALE = (3502, "stale", False)
    FORCE_NO_RECONNECT = (3503, "force disconnect", False)
    CONNECTION_LIMIT = (3504, "connection limit", False)
    CHANNEL_LIMIT = (3505, "channel limit", False)
    INAPPROPRIATE_PROTOCOL = (3506, "inappropriate protocol", False)
    DENIED = (3507, "permission denied", False)
    NOT_AVAILABLE = (3508, "not available", False)

    @property
    def code(self) -> int:
        return self.value[0]

    @property
    def text(self) -> str:
        return self.value[1]

    @property
    def reconnect(self) -> bool:
        """Whether a client should come back; the code's range says the same."""
        return self.value[2]


class OwnReason(NamedTuple):
    """A close reason that is not in the table: an application's own."""

    code: int
    text: str

    @property
    def reconnect(self) -> bool:
        """Whether a client should come back, as the code's range says."""
        return not (3500 <= self.code <= 3999 or 4500 <= self.code <= 4999)


Reason = CloseReason | OwnReason

_REASONS: Final = {reason.code: reason for reason in CloseReason}

_REASON_MAX: Final = 123
"""Bytes of text that a close frame holds besides its code (RFC 6455, section 5.5)."""


def close_reason(code: int, text: str = "") -> Reason:
    """The reason of this code: the table's row, unless `text` says something of its own.

    Raises `BadInput` for a code that clients would not understand, and for a text that does not
    fit into a close frame.
    """
    row = _REASONS.get(code)
    if row is not None and text in ("", row.text):
        return row
    if not 3000 <= code <= 4999:
        raise BadInput(f"{code} is no code for closing: an application's own are 4000 to 4999")
    if not text:
        raise BadInput(f"the code {code} has no reason in the table: say one")
    if len(text.encode()) > _REASON_MAX or not text.isprintable():
        raise BadInput(f"a reason has at most {_REASON_MAX} bytes, all of them printable")
    return OwnReason(code, text)


def _shown(text: str, most: int = 60) -> str:
    """`text` fit for a one-line message: quoted, without control characters, not too long."""
    return ascii(text if len(text) <= most else text[:most] + "…")
