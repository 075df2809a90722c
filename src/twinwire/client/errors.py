"""What can go wrong between a client and its server, beside the exceptions of `twinwire.errors`.

::

    TwinwireError
    ├── Unreachable     no connection could be made
    ├── Refused         the server has answered, and the answer is no
    ├── InDoubt         the connection broke between a request and its answer
    └── MissingExtra    (also an ImportError) the package lacks what the client needs
"""

from __future__ import annotations

import os
import socket
from typing import Final

from twinwire.errors import Closed, CloseReason, TwinwireError


class Unreachable(TwinwireError):
    """No connection to `url` could be made; `why` says what stood in the way."""

    def __init__(self, url: str, why: str) -> None:
        self.url = url
        self.why = why
        super().__init__(url, why)

    def __str__(self) -> str:
        return f"no connection to {self.url}: {self.why}"


class Refused(TwinwireError):
    """The server said no, and asking again would not help.

    `code` is an HTTP status, a WebSocket close code or an unsubscribe code; `why` the server's
    reason.
    """

    def __init__(self, code: int, why: str) -> None:
        self.code = code
        self.why = why
        super().__init__(code, why)

    def __str__(self) -> str:
        return f"the server refuses: {self.why} ({self.code})"


class InDoubt(TwinwireError):
    """`count` events were sent, and whether they were published is not known: the connection broke
    before the answer came, or the server's broker failed.

    They are not sent again, since that could publish them twice and out of order, but by an
    idempotent `Publisher`, for which it is no risk.
    """

    def __init__(self, count: int, why: str) -> None:
        self.count = count
        self.why = why
        super().__init__(count, why)

    def __str__(self) -> str:
        events = "1 event" if self.count == 1 else f"{self.count} events"
        return f"{events} sent, but whether published is not known: {self.why}"


class MissingExtra(TwinwireError, ImportError):
    """A package that is optional for twinwire is needed here and not installed."""

    def __init__(self, package: str) -> None:
        self.package = package
        super().__init__(package)

    def __str__(self) -> str:
        return f"the client needs {self.package}: pip install 'twinwire[client]'"


class ComeBack(Exception):
    """A connection has ended and a new one is worth trying: the client's own signal to itself.

    `delay` is the time in seconds that the server asks for before that, if it does.
    """

    def __init__(self, why: str, delay: float | None = None) -> None:
        self.why = why
        self.delay = delay
        super().__init__(why, delay)


_REASONS: Final = {reason.code: reason for reason in CloseReason}

_TOO_BIG: Final = 1009
"""The one code of RFC 6455 after which the protocol's clients stay away."""


def farewell(code: int, text: str, delay: float | None = None) -> Closed | Refused | ComeBack:
    """The exception for the server's ending a stream: the code's range tells if it is final."""
    if not (3500 <= code <= 3999 or 4500 <= code <= 4999 or code == _TOO_BIG):
        return ComeBack(f"{text or 'closed by the server'} ({code})", delay)
    if reason := _REASONS.get(code):
        return Closed(reason)
    return Refused(code, text or "closed by the server")


def reason(error: BaseException) -> str:
    """What lies at the bottom of a failed connection, in the system's words."""
    found = str(error) or type(error).__name__
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, socket.gaierror):
            return (below.strerror or str(below)).lower()
        if isinstance(below, OSError) and below.errno:
            return os.strerror(below.errno).lower()
        below = below.__cause__ or below.__context__
    return found
