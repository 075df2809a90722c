"""uvicorn's protocol classes with a sink in them.

uvicorn takes protocol classes for `http=` and `ws=`; that is typed but undocumented, so
pyproject.toml holds uvicorn to a tested range. What we add here:

1. The application is wrapped, once per connection: it finds the connection's sink in its scope, and
   the sink sees the response begin.
2. The sink writes to the transport. It is open only after the response has really begun and while
   nothing between it and us recodes the body.
3. `pause_writing` makes the sink full, `resume_writing` drains it, `connection_lost` ends it and so
   wakes the task that waits for that; `shutdown` is told to the sink's owner before uvicorn acts.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from twinwire.errors import CloseReason
from twinwire.settings import Settings
from twinwire.web.sink import EXTENSION, Sink

_LINGER = 1.0
"""Seconds that a connection which we end may take to read its last bytes."""

# Not in the socket module of Python 3.11 for every platform.
_TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)


class _SocketSink(Sink):
    """Writes to a transport."""

    __slots__ = ("_transport", "write")

    def attach(self, transport: asyncio.Transport) -> None:
        """The connection's transport is known."""
        self._transport = transport
        # The fan-out calls this once for each member and tick: nothing stands in between.
        self.write = transport.write  # type: ignore[method-assign]

    def finish(self, data: bytes) -> None:
        self._transport.write(data)
        self._transport.close()
        # A peer that reads nothing would keep a closing transport for ever.
        asyncio.get_running_loop().call_later(_LINGER, self._transport.abort)


class _HttpSink(_SocketSink):
    """Writes chunks of a response body whose head uvicorn has written."""

    __slots__ = ("_protocol", "_started")

    def __init__(self, protocol: HttpProtocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._started = False

    def see(self, message: Message) -> None:
        """A message goes out to the server."""
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            self._started = b"content-encoding" not in names

    def open(self) -> bool:
        return self._started

    def finish(self, data: bytes) -> None:
        if self._protocol.scope["http_version"] != "1.0":
            data += b"0\r\n\r\n"
        super().finish(data)


class _WebSocketSink(_SocketSink):
    """Writes frames."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: WebSocketProtocol) -> None:
        super().__init__()
        self._protocol = protocol

    def finish(self, data: bytes) -> None:
        # `data` is a close frame. The client answers it and the connection ends; one that does not
        # is cut off.
        self._transport.write(data)
        self._protocol.close_sent = True
        asyncio.get_running_loop().call_later(_LINGER, self._transport.abort)


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 over httptools, with a sink."""

    sink: _HttpSink | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _tune(transport, self.app_state["twinwire.settings"])
        self.app = self._offering(self.app)

    def _offering(self, app: ASGIApp) -> ASGIApp:
        async def offer(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return await app(scope, receive, send)
            sink = self.sink = _HttpSink(self)
            sink.attach(self.transport)
            scope.setdefault("extensions", {})[EXTENSION] = sink

            async def seen(message: Message) -> None:
                sink.see(message)
                await send(message)

            await app(scope, receive, seen)

        return offer

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.sink is not None:
            self.sink.full = True

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.sink is not None:
            self.sink.drained()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.sink is not None:
            self.sink.lost()

    def shutdown(self) -> None:
        if self.sink is not None:
            self.sink.close(CloseReason.SHUTDOWN)
        super().shutdown()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket over websockets' sans-I/O protocol, with a sink."""

    sink: _WebSocketSink | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.app = self._offering(self.app)

    def _offering(self, app: Any) -> Any:
        async def offer(scope: Scope, receive: Receive, send: Send) -> None:
            sink = self.sink = _WebSocketSink(self)
            sink.attach(self.transport)
            scope.setdefault("extensions", {})[EXTENSION] = sink
            await app(scope, receive, send)

        return offer

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.sink is not None:
            self.sink.full = True

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.sink is not None:
            self.sink.drained()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.sink is not None:
            self.sink.lost()

    def shutdown(self) -> None:
        if self.sink is not None and self.sink.on_close is not None:
            self.sink.close(CloseReason.SHUTDOWN)
        else:
            super().shutdown()


def _tune(transport: asyncio.Transport, settings: Settings) -> None:
    """Let a slow reader be noticed early, and a dead one at all."""
    # uvloop's own low mark would be 16 bytes; asyncio's is a quarter of the high one.
    transport.set_write_buffer_limits(high=settings.write_high, low=settings.write_high // 4)
    tcp = transport.get_extra_info("socket")
    if tcp is None or tcp.family not in (socket.AF_INET, socket.AF_INET6):
        return
    options = (
        # Without it the kernel takes megabytes before a slow reader shows.
        (_TCP_NOTSENT_LOWAT, settings.notsent_lowat),
        (getattr(socket, "TCP_USER_TIMEOUT", None), int(settings.user_timeout * 1000)),
    )
    for option, value in options:
        if option is not None and value:
            try:
                tcp.setsockopt(socket.IPPROTO_TCP, option, value)
            except OSError:
                # A platform without the option does without the early notice.
                continue
