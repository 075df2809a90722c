"""Bounds on what an HTTP client sends, and on the time that it takes.

uvicorn has none of them. The head of a request has a size and a time, each step of its body has a
time, and only so many requests may wait behind the one that is being answered: each would cost a
hundred times the bytes that asked for it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from twinwire.settings import KIB, Settings
from twinwire.web.sink import LINGER

_PIPELINED: Final = 64
"""Requests that may wait on one connection. Over it the connection is closed."""

_STEP: Final = 64 * KIB
"""Bytes of a body that renew the time for it."""


def refusal(status: bytes, text: bytes) -> bytes:
    """A whole response that says why there is no other."""
    return (
        b"HTTP/1.1 %b\r\ncontent-type: text/plain\r\nretry-after: 1\r\ncontent-length: %d\r\n"
        b"connection: close\r\n\r\n%b" % (status, len(text), text)
    )


_LONG_HEAD: Final = refusal(
    b"431 Request Header Fields Too Large", b"the request's head is too long (header_max_bytes).\n"
)


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 over httptools, guarded."""

    _late: asyncio.TimerHandle | None = None
    """Ends the connection if what the client has to send next is late."""

    _in_head = True
    _size = 0
    """Bytes of the head so far, or of the body since its time was renewed."""

    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._settings: Settings = self.app_state["twinwire.settings"]
        self._within(self._settings.header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        super().data_received(data)
        if self._in_head and self._late is not None:
            self._size += len(data)
            if self._size > self._settings.header_max_bytes:
                self.refuse(_LONG_HEAD)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._size = 0
        if self._late is None:
            # A further request on this connection.
            self._within(self._settings.header_timeout)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._size = 0
        self._within(self._settings.body_timeout)
        super().on_headers_complete()
        if len(self.pipeline) > _PIPELINED:
            self.transport.abort()
            raise OverflowError  # so that the parser goes no further

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._size += len(body)
        if self._size >= _STEP:
            self._size = 0
            self._within(self._settings.body_timeout)

    def on_message_complete(self) -> None:
        self._on_time()
        super().on_message_complete()

    def refuse(self, answer: bytes) -> None:
        """Write `answer` and end, throwing away what still comes.

        To end at once would answer what comes by a reset, which takes our answer away.
        """
        self._refused = True
        self.transport.write(answer)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._within(LINGER)

    def _within(self, seconds: float) -> None:
        """The client has so long for what it has to send next."""
        self._on_time()
        self._late = self.loop.call_later(seconds, self.transport.abort)

    def _on_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
