"""uvicorn's protocol classes with a sink in them.

uvicorn takes protocol classes for `http=` and `ws=`; that is typed but undocumented, so
pyproject.toml holds uvicorn to a tested range. What we add here:

1. The application is wrapped, once per connection: it finds the connection's sink in its scope, and
   the sink sees the response begin.
2. The sink writes to the transport. It is open only after the response has really begun and while
   nothing between it and us recodes the body.
3. `pause_writing` makes the sink full, `resume_writing` drains it, `connection_lost` ends it and so
   wakes the task that waits for that. `shutdown` is told to the sink before uvicorn acts.
4. What connections begin and end goes through a gate: of thousands at once a turn of the loop takes
   a portion.
5. A lost connection is taken apart: what refers to itself in a circle stays until the garbage
   collector comes, and after thousands of connections that holds the loop.
6. What uvicorn gets wrong for us: a body of unknown length to an HTTP/1.0 client, pongs for one who
   does not read them, and who ends a TCP connection after the closing handshake.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
from functools import cache, partial
from typing import Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from twinwire.server.crowd import Gate
from twinwire.server.guard import GuardedProtocol, refusal
from twinwire.settings import Settings
from twinwire.web.sink import EXTENSION, LINGER, Sink

_FILES_KEPT = 64
"""Files that connections leave to everything else."""

_CROWDED = refusal(b"503 Service Unavailable", b"too many connections (connections), retry.\n")

# Not in the socket module of Python 3.11 for every platform.
_TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)


def _forget(data: bytes) -> None:
    """Writes to nobody."""


class _SocketSink(Sink):
    """Writes to a transport."""

    __slots__ = ("_transport", "write")

    def attach(self, transport: asyncio.Transport) -> None:
        """The connection's transport is known."""
        self._transport = transport
        # The fan-out calls this once for each member and tick: nothing stands in between.
        self.write = transport.write  # type: ignore[method-assign]

    def waiting(self) -> int:
        return self._transport.get_write_buffer_size()

    def died(self) -> None:
        """The connection is gone. `lost` follows, in a crowd some turns of the loop later."""
        self.gone = True
        self.write = _forget  # type: ignore[method-assign]

    def finish(self, data: bytes) -> None:
        if self.gone:
            return
        self._transport.write(data)
        self._transport.close()
        # A peer that reads nothing would keep a closing transport for ever.
        asyncio.get_running_loop().call_later(LINGER, self._cut_off)

    def _cut_off(self) -> None:
        if not self.gone:
            _cut_off(self._transport)


class _HttpSink(_SocketSink):
    """Writes chunks of a response body whose head uvicorn has written."""

    __slots__ = ("_chunked", "_cycle", "_started")

    def __init__(self, cycle: RequestResponseCycle, *, chunked: bool) -> None:
        super().__init__()
        self._cycle = cycle
        self._chunked = chunked
        self._started = False

    def see(self, message: Message) -> None:
        """A message goes out to the server."""
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            self._started = b"content-encoding" not in names

    def open(self) -> bool:
        return self._started and not self.gone

    def finish(self, data: bytes) -> None:
        super().finish(data + b"0\r\n\r\n" if self._chunked else data)

    def died(self) -> None:
        # If the client has sent further requests already, uvicorn tells only the last of them.
        self._cycle.disconnected = True
        super().died()

    def lost(self) -> None:
        self._cycle.message_event.set()
        del self._cycle
        super().lost()


class _WebSocketSink(_SocketSink):
    """Writes frames."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: WebSocketProtocol) -> None:
        super().__init__()
        self._protocol = protocol

    def finish(self, data: bytes) -> None:
        # `data` is a close frame.
        if self.gone:
            return
        self._transport.write(data)
        self._protocol.linger()

    def lost(self) -> None:
        del self._protocol
        super().lost()


class HttpProtocol(GuardedProtocol):
    """The guarded HTTP/1.1, with a sink."""

    sink: _HttpSink | None = None
    _lost = False
    _waiting = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        settings: Settings = self.app_state["twinwire.settings"]
        self._gate: Gate = self.app_state["twinwire.gate"]
        _tune(transport, settings)
        if len(self.connections) > (settings.connections or _files_left()):
            self.refuse(_CROWDED)
            return
        self.app = self._offering(self.app)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._gate.enter(partial(self._start, cycle, app))

    def _start(self, cycle: RequestResponseCycle, app: Any) -> None:
        if not self._lost:
            super()._start_asgi_task(cycle, app)

    def handle_websocket_upgrade(self) -> None:
        if not self._gate.enter(self._upgrade):
            self._waiting = True
            self.transport.pause_reading()

    def _upgrade(self) -> None:
        if self._lost:
            return
        if self._waiting:
            self.transport.resume_reading()
        super().handle_websocket_upgrade()
        self._let_go()

    def _let_go(self) -> None:
        """Let go of all that refers to us; see 5."""
        self.app = self.cycle = self.sink = self.parser = None  # type: ignore[assignment]
        self.pipeline.clear()

    def _offering(self, app: ASGIApp) -> ASGIApp:
        async def offer(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return await app(scope, receive, send)
            # `send` is a method of what uvicorn calls the cycle of this request.
            cycle = cast(Any, send).__self__
            chunked = scope["http_version"] != "1.0"
            sink = self.sink = _HttpSink(cycle, chunked=chunked)
            sink.attach(self.transport)
            if self._lost:
                sink.died()
            scope.setdefault("extensions", {})[EXTENSION] = sink
            if not chunked:
                send = _unchunked(cycle)

            async def seen(message: Message) -> None:
                sink.see(message)
                await send(message)

            try:
                await app(scope, receive, seen)
            finally:
                del scope["extensions"][EXTENSION]  # which refers to the scope; see 5

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
        self._lost = True
        if self.cycle is not None:
            self.cycle.disconnected = True
        if self.sink is not None:
            self.sink.died()
        self._gate.enter(partial(self._end, exc))

    def _end(self, exc: Exception | None) -> None:
        self._on_time()
        super().connection_lost(exc)
        if self.sink is not None:
            self.sink.lost()
        self._let_go()

    def shutdown(self) -> None:
        if self.sink is not None:
            self.sink.shutdown()
        super().shutdown()


@cache
def _files_left() -> int:
    """Connections that the limit of open files allows."""
    return max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _FILES_KEPT)


def _unchunked(cycle: RequestResponseCycle) -> Send:
    """uvicorn's `send` for a client of HTTP/1.0, which does not know chunks: where the length of a
    body is not known, the end of the connection ends it (RFC 9112, section 6.3)."""
    unknown = False

    async def send(message: Message) -> None:
        nonlocal unknown
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            unknown = b"content-length" not in names
            if unknown:
                cycle.chunked_encoding = False
        elif unknown:
            cycle.expected_content_length = len(message.get("body", b""))
        await cycle.send(cast(Any, message))

    return send


class _Connection(ServerProtocol):
    """websockets' protocol, which takes a close in the middle of a message for an error."""

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            # It may come there (RFC 6455, section 5.4), and nothing of the message follows it.
            self.current_size = None
        super().recv_frame(frame)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket over websockets' sans-I/O protocol, with a sink."""

    sink: _WebSocketSink | None = None
    _pongs = b""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.conn.__class__ = _Connection
        self.app = self._offering(self.app)

    def _offering(self, app: Any) -> Any:
        async def offer(scope: Scope, receive: Receive, send: Send) -> None:
            self.app = None  # that is, us: see 5
            sink = self.sink = _WebSocketSink(self)
            sink.attach(self.transport)
            if self.disconnected:
                sink.died()
            scope.setdefault("extensions", {})[EXTENSION] = sink
            await app(scope, receive, send)

        return offer

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.sink is not None:
            self.sink.full = True

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._pongs:
            self.transport.write(self._pongs)
            self._pongs = b""
        if self.sink is not None:
            self.sink.drained()

    def handle_ping(self) -> None:
        # The first of several pings that came together finds the pongs of all of them.
        pongs = b"".join(self.conn.data_to_send())
        if self.close_sent or not pongs:
            return
        if self.writable.is_set():
            self.transport.write(pongs)
        else:
            # One who pings and does not read gets the last answer (RFC 6455, section 5.5.3).
            self._pongs = pongs

    def handle_parser_exception(self) -> None:
        if self.close_sent:
            return  # and what still comes is thrown away
        closing = self.conn.close_sent
        assert closing is not None
        self.queue.put_nowait(
            {"type": "websocket.disconnect", "code": closing.code, "reason": closing.reason}
        )
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.write_eof()
        self.linger()

    def linger(self) -> None:
        """With a close frame sent, read on until the client has answered it and uvicorn ends the
        connection, or the client does; one that does neither is cut off.

        Ending it at once would answer what the client is still sending by a reset, and that takes
        our close frame away from it.
        """
        self.close_sent = True
        self.close_timer = self.loop.call_later(LINGER, self._cut_off)
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    def _cut_off(self) -> None:
        if not self.disconnected:
            _cut_off(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.disconnected = True
        if self.sink is not None:
            self.sink.died()
        gate: Gate = self.app_state["twinwire.gate"]
        gate.enter(partial(self._end, exc))

    def _end(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.sink is not None:
            self.sink.lost()
            self.sink = None
        self.conn.parser.close()

    def shutdown(self) -> None:
        if self.sink is not None:
            self.sink.shutdown()
        # With a close frame sent, the client has until the timer to answer it.
        if not self.close_sent:
            super().shutdown()


def _cut_off(transport: asyncio.Transport) -> None:
    """End it now, and if the peer does not read by a reset: what the kernel still has for it would
    be kept for long."""
    tcp = transport.get_extra_info("socket")
    if tcp is not None and transport.get_write_buffer_size():
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


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
