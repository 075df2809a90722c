"""WebSockets: the connection, and how an ASGI application sees it.

1. `WebSocketSink` is the connection: what comes are messages for its listener, what is written are
   frames already. It answers pings and close frames by itself.
2. While the listener has enough to do, nothing more is read from the client.
3. The first owner and listener is an `AsgiSocket`, for any ASGI application. One that takes the
   sink puts its own in that place, and may return.
4. Once a close frame is out, all that still comes is thrown away but the client's close frame,
   which ends the connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import unquote

import httptools
from starlette.types import ASGIApp, Message, Scope
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

# Wherever websockets has it from: in C, where it has been built with that, or in Python.
from websockets.frames import apply_mask  # type: ignore[attr-defined]

from twinwire.errors import Reason
from twinwire.server.guard import refusal
from twinwire.server.sinks import SocketSink, Surroundings, forget
from twinwire.web.sink import EXTENSION, Listener
from twinwire.wires import frame, handshake
from twinwire.wires.deflate import inflate
from twinwire.wires.frame_reader import Broken, FrameReader, close_of

_log = logging.getLogger("twinwire")

_unmask: Final[Callable[[bytes, bytes], bytes]] = apply_mask

_ABNORMAL: Final = 1006
_SERVER_ERROR: Final = 1011
_RESTART: Final = 1012
"""Codes of RFC 6455, section 7.4.1, and of IANA's registry."""

_ENDING: Final = refusal(b"503 Service Unavailable", b"this server is ending.\n")
_FAILED: Final = refusal(b"500 Internal Server Error", b"Internal Server Error\n")


class ClientGone(OSError):
    """There is nobody any more to send to."""


class WebSocketSink(SocketSink):
    """The connection of one WebSocket."""

    __slots__ = ("_closing", "_held", "_opened", "_pong", "_reader", "left", "listener")

    def __init__(self, transport: asyncio.Transport, around: Surroundings, max_bytes: int) -> None:
        """`max_bytes` bounds a message."""
        super().__init__(transport, around)
        self.listener: Listener | None = None
        self.left = (_ABNORMAL, "")
        """With which code and reason the client has gone."""
        self._reader: FrameReader | None = FrameReader(max_bytes, unmask=_unmask)
        self._opened = False
        self._closing = False
        self._held = False
        self._pong = b""

    def accept(self, head: bytes) -> None:
        """Open the WebSocket by this response."""
        self.write(head)
        self._opened = True

    def refuse(self, response: bytes) -> None:
        """Answer by this response instead of opening the WebSocket, and end."""
        self._closing = True
        self.write(response)
        self._transport.close()
        self.linger()
        self._leave(_ABNORMAL, "")

    def open(self) -> bool:
        return self._opened and not self.gone

    def take(self, listener: Listener | None = None, *, deflated: bool = False) -> None:
        self.listener = listener
        if deflated and self._reader is not None:
            self._reader.inflate = inflate
        self.release()

    def hold(self) -> None:
        """Read nothing for now."""
        # The transport is paused when something comes: until then it notices that the client goes.
        self._held = not self._closing

    def release(self) -> None:
        """Read on."""
        if self._held:
            self._held = False
            if not self._over:
                self._transport.resume_reading()
            self._read()

    def data_received(self, data: bytes) -> None:
        if self._reader is not None:
            self._reader.feed(data)
            if self._held:
                self._transport.pause_reading()
            self._read()

    def _read(self) -> None:
        while not self._held and self._reader is not None:
            try:
                message = self._reader.next()
            except Broken as broken:
                return self._fail(broken)
            if message is None:
                return
            opcode, payload = message
            if opcode == frame.CLOSE:
                self._closed_by_client(payload)
            elif self._closing or opcode == frame.PONG:
                continue
            elif opcode == frame.PING:
                self._answer(payload)
            elif self.listener is not None and not self.listener.hear(opcode, payload):
                self.hold()

    def _answer(self, ping: bytes) -> None:
        pong = frame.frame(frame.PONG, ping)
        if self.full:
            # One who pings and does not read gets the last answer (RFC 6455, section 5.5.3).
            self._pong = pong
        else:
            self.write(pong)

    def _closed_by_client(self, payload: bytes) -> None:
        self._reader = None
        if not self._closing:
            self._closing = True
            self.write(frame.frame(frame.CLOSE, payload[:2]))
            self.linger()
            self._leave(*close_of(payload))
        self._transport.close()

    def _fail(self, broken: Broken) -> None:
        """The client has broken the protocol."""
        self._reader = None
        if self._closing:
            return
        self._closing = True
        self.write(frame.close(broken.code, str(broken)))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self.linger()
        self._leave(broken.code, str(broken))

    def _leave(self, code: int, reason: str) -> None:
        """For its owner the client is gone, although the connection is still about to end."""
        self.left = (code, reason)
        self.write = forget  # type: ignore[method-assign]
        self.lost()

    def finish(self, data: bytes) -> None:
        # `data` is a close frame.
        if self.gone or self._closing:
            return
        self._closing = True
        self.write(data)
        self.write = forget  # type: ignore[method-assign]
        self.linger()
        self.release()

    def resume_writing(self) -> None:
        if self._pong:
            self.write(self._pong)
            self._pong = b""
        super().resume_writing()
        if self._held and self.listener is not None and self.listener.go_on():
            self.release()

    def lost(self) -> None:
        self.listener = None
        super().lost()

    def end(self) -> None:
        self._reader = None
        super().end()

    def shutdown(self) -> None:
        if self.hub is not None:
            super().shutdown()
        elif not self._opened:
            self.refuse(_ENDING)
        elif not self._closing:
            self.finish(frame.close(_RESTART, ""))
            self._leave(_RESTART, "")


class Request(Protocol):
    """A request to upgrade: uvicorn's HTTP protocol that has read it."""

    url: bytes
    scope: Any
    root_path: str
    config: Any
    loop: asyncio.AbstractEventLoop
    server_state: Any


class AsgiSocket:
    """A WebSocket for an ASGI application (the WebSocket part of the ASGI specification, 2.4)."""

    def __init__(self, sink: WebSocketSink, key: bytes, request: Request) -> None:
        self.scope = _scope(sink, request)
        self._sink = sink
        self._key = key
        self._app: ASGIApp = request.config.loaded_app
        self._state = request.server_state
        self._access_log: bool = request.config.access_log
        self._messages: deque[Message] = deque(({"type": "websocket.connect"},))
        self._arrived = asyncio.Event()
        self._arrived.set()
        self._response: Message | None = None
        self._accepted = False
        sink.owner = sink.listener = self
        sink.hold()

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the application answer."""
        task = loop.create_task(self._run())
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    async def _run(self) -> None:
        sink = self._sink
        try:
            await self._app(self.scope, self.receive, self.send)
        except ClientGone:
            pass
        except Exception:  # noqa: BLE001 (the application is not ours)
            _log.exception("an application failed")
            if self._accepted:
                self._close(_SERVER_ERROR, "")
        else:
            if not (self._accepted or sink.gone):
                _log.error("an application has neither opened nor refused a WebSocket")
            elif sink.owner is self:
                self._close(1000, "")
        finally:
            if not (self._accepted or sink.gone):
                sink.refuse(_FAILED)
            # It refers to the scope, and the scope to it.
            del self.scope["extensions"][EXTENSION]

    # The sink's owner and listener

    def hear(self, opcode: int, payload: bytes) -> bool:
        key, data = ("text", payload.decode()) if opcode == frame.TEXT else ("bytes", payload)
        self._put({"type": "websocket.receive", key: data})
        return False

    def go_on(self) -> bool:
        return not self._messages

    def dropped(self) -> None:
        """It has no subscriptions."""

    def say_farewell(self, reason: Reason) -> None:
        """No hub ends this connection."""

    def lost(self) -> None:
        code, reason = self._sink.left
        self._put({"type": "websocket.disconnect", "code": code, "reason": reason})

    def _put(self, message: Message) -> None:
        self._messages.append(message)
        self._arrived.set()

    # What the application is given

    async def receive(self) -> Message:
        while not self._messages:
            self._arrived.clear()
            self._sink.release()
            # That may have brought the next message at once.
            await self._arrived.wait()
        return self._messages.popleft()

    async def send(self, message: Message) -> None:
        sink = self._sink
        await sink.room()
        if sink.gone:
            raise ClientGone
        kind = message["type"]
        if self._accepted:
            if kind == "websocket.close":
                self._close(message.get("code", 1000), message.get("reason") or "")
            elif kind == "websocket.send":
                text = message.get("text")
                if message.get("bytes") is not None:
                    sink.write(frame.frame(frame.BINARY, message["bytes"]))
                elif text is not None:
                    sink.write(frame.frame(frame.TEXT, text.encode()))
            else:
                raise _unexpected(kind, "websocket.send", "websocket.close")
        elif self._response is not None:
            if kind != "websocket.http.response.body":
                raise _unexpected(kind, "websocket.http.response.body")
            self._response["body"] += message.get("body", b"")
            if not message.get("more_body", False):
                self._refuse(self._response)
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self._refuse({"status": 403, "headers": (), "body": b""})
        elif kind == "websocket.http.response.start":
            self._response = {**message, "body": b""}
        else:
            raise _unexpected(
                kind, "websocket.accept", "websocket.close", "websocket.http.response.start"
            )

    def _accept(self, message: Message) -> None:
        headers = [*self._state.default_headers, *message.get("headers", ())]
        if subprotocol := message.get("subprotocol"):
            headers.append((b"sec-websocket-protocol", subprotocol.encode()))
        _check(headers)
        self._accepted = True
        self._log(101)
        self._sink.accept(handshake.accepted(self._key, headers))

    def _refuse(self, response: Message) -> None:
        status, body = response["status"], response["body"]
        headers = [*self._state.default_headers, *response.get("headers", ())]
        names = {name.lower() for name, _ in headers}
        if b"content-length" not in names:
            headers.append((b"content-length", b"%d" % len(body)))
        headers.append((b"connection", b"close"))
        _check(headers)
        self._log(status)
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
        lines += [b"%b: %b" % header for header in headers]
        self._sink.refuse(b"\r\n".join(lines) + b"\r\n\r\n" + body)

    def _close(self, code: int, reason: str) -> None:
        self._sink.left = (code, reason)
        self._sink.finish(frame.close(code, reason))
        self.lost()

    def _log(self, status: int) -> None:
        if self._access_log:
            logging.getLogger("uvicorn.access").info(
                '%s - "%s %s HTTP/%s" %d',
                get_client_addr(self.scope),  # type: ignore[arg-type]
                "GET",
                get_path_with_query_string(self.scope),  # type: ignore[arg-type]
                self.scope["http_version"],
                status,
            )


def _scope(sink: WebSocketSink, request: Request) -> Scope:
    url = httptools.parse_url(request.url)
    headers = request.scope["headers"]
    scope: Scope = {
        **request.scope,
        "type": "websocket",
        "asgi": {**request.scope["asgi"], "spec_version": "2.4"},
        "scheme": "wss" if request.scope["scheme"] == "https" else "ws",
        "path": request.root_path + unquote(url.path.decode("ascii")),
        "raw_path": request.root_path.encode("ascii") + url.path,
        "query_string": url.query or b"",
        "subprotocols": handshake.offered(headers),
        "extensions": {"websocket.http.response": {}, EXTENSION: sink},
    }
    del scope["method"]
    return scope


def _unexpected(kind: str, *expected: str) -> RuntimeError:
    return RuntimeError(f"expected the ASGI message {' or '.join(expected)}, but got {kind}")


def _check(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises `RuntimeError` if an application's headers would end a line of the response."""
    for name, value in headers:
        if any(byte in part for part in (name, value) for byte in (b"\r", b"\n", b"\0")):
            raise RuntimeError(f"a header with a line break or NUL: {name!r}")
