"""uvicorn's HTTP/1.1 with a sink in it.

uvicorn takes protocol classes for `http=` and `ws=`; that is typed but undocumented, so
pyproject.toml holds uvicorn to a tested range. What we add here:

1. The application is wrapped, once per connection: it finds the connection's sink in its scope, and
   the sink sees the response begin.
2. The sink is open only after the response has really begun and while nothing between it and us
   recodes the body. When it is taken it becomes the transport's protocol in our place.
3. What connections begin and end goes through a gate: of thousands at once a turn of the loop takes
   a portion.
4. A connection that we have done with is taken apart: what refers to itself in a circle stays until
   the garbage collector comes, and after thousands of connections that holds the loop.
5. What uvicorn gets wrong for us: a body of unknown length to an HTTP/1.0 client.
"""

from __future__ import annotations

import asyncio
import resource
from functools import cache, partial
from typing import Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from twinwire.server.guard import GuardedProtocol, refusal
from twinwire.server.sinks import Head, StreamSink, Surroundings, tune
from twinwire.server.websocket import AsgiSocket, WebSocketSink
from twinwire.settings import Settings
from twinwire.web.sink import EXTENSION
from twinwire.wires import handshake

_FILES_KEPT = 64
"""Files that connections leave to everything else."""

_CROWDED = refusal(b"503 Service Unavailable", b"too many connections (connections), retry.\n")


class HttpProtocol(GuardedProtocol):
    """The guarded HTTP/1.1, with a sink."""

    sink: StreamSink | None = None
    _answering: RequestResponseCycle | None = None
    """What the sink's answer is to. With further requests behind it uvicorn looks at the last of
    them alone."""

    _lost = False
    _waiting = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        settings: Settings = self.app_state["twinwire.settings"]
        self._around: Surroundings = self.app_state["twinwire.surroundings"]
        tune(transport, settings)
        if len(self.connections) > (settings.connections or _files_left()):
            self.refuse(_CROWDED)
            return
        self.app = self._offering(self.app)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._around.gate.enter(partial(self._start, cycle, app))

    def _start(self, cycle: RequestResponseCycle, app: Any) -> None:
        if not self._lost:
            super()._start_asgi_task(cycle, app)

    def handle_websocket_upgrade(self) -> None:
        self._on_time()
        if not self._around.gate.enter(self._upgrade):
            self._waiting = True
            self.transport.pause_reading()

    def _upgrade(self) -> None:
        if self._lost:
            return
        if self._waiting:
            self.transport.resume_reading()
        try:
            key = handshake.key_of(
                self.scope["method"], self.scope["http_version"], self.scope["headers"]
            )
        except handshake.BadHandshake as error:
            self.refuse(_no_websocket(error))
            return
        settings: Settings = self.app_state["twinwire.settings"]
        sink = WebSocketSink(self.transport, self._around, settings.message_max_bytes)
        self._replace_by(sink)
        AsgiSocket(sink, key, self).begin(self.loop)
        self._let_go()

    def _hand_over(self, sink: StreamSink) -> None:
        """A stream goes on without us."""
        # For uvicorn nobody waits for the rest of this answer.
        assert self._answering is not None
        self._answering.disconnected = True
        self._on_time()
        # Another request that waits behind the stream has stopped the reading.
        self.flow.resume_reading()
        self._replace_by(sink)
        self._let_go()

    def _replace_by(self, sink: StreamSink | WebSocketSink) -> None:
        self.connections.discard(self)
        self.connections.add(cast(Any, sink))
        self.transport.set_protocol(sink)

    def _let_go(self) -> None:
        """Let go of all that refers to us; see 4."""
        self.app = self.cycle = self.parser = None  # type: ignore[assignment]
        self.sink = self._answering = None
        self.pipeline.clear()

    def _offering(self, app: ASGIApp) -> ASGIApp:
        async def offer(scope: Scope, receive: Receive, send: Send) -> None:
            # `send` is a method of what uvicorn calls the cycle of this request.
            cycle = self._answering = cast(Any, send).__self__
            chunked = scope["http_version"] != "1.0"
            cycle.transport = head = Head(self.transport, self.loop)
            sink = self.sink = StreamSink(
                self.transport, self._around, self._hand_over, head, chunked=chunked
            )
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
                del scope["extensions"][EXTENSION]  # which refers to the scope; see 4

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
        for cycle in (self.cycle, self._answering):
            if cycle is not None:
                cycle.disconnected = True
        if self.sink is not None:
            self.sink.died()
        self._around.gate.enter(partial(self._end, exc))

    def _end(self, exc: Exception | None) -> None:
        self._on_time()
        super().connection_lost(exc)
        if self._answering is not None:
            self._answering.message_event.set()
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


def _no_websocket(error: handshake.BadHandshake) -> bytes:
    if error.status == 426:
        return refusal(b"426 Upgrade Required\r\nsec-websocket-version: 13", f"{error}.\n".encode())
    return refusal(b"400 Bad Request", f"{error}.\n".encode())


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
