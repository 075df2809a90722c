"""Sinks that write straight to a socket's transport.

1. Until it is taken, a sink writes beside uvicorn, which reads and tells it what becomes of the
   connection. Taken, it is the transport's protocol itself, and all there is of the connection:
   uvicorn's objects, the request and the task that answered it are gone.
2. `pause_writing` makes it full, `resume_writing` drains it, `connection_lost` ends it.
3. What connections end goes through a gate: of thousands at once a turn of the loop takes a
   portion.
4. Whoever is ended has `LINGER` to read the last bytes, while what it still sends is thrown away:
   ending at once would answer that by a reset, which takes our last bytes away from it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from starlette.types import Message

from twinwire.server.crowd import Gate
from twinwire.settings import KIB, Settings
from twinwire.web.sink import LINGER, Listener, NativeSink

_SAID = 64 * KIB
"""Bytes that may come from the client of an event stream, which has nothing to say."""

# Not in the socket module of Python 3.11 for every platform.
_TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)


class Surroundings(NamedTuple):
    """What the connections of one server share: the gate, and all of them as uvicorn counts them
    (and, at the end, tells them by `shutdown`)."""

    gate: Gate
    connections: set[Any]


def forget(data: bytes) -> None:
    """Writes to nobody."""


class SocketSink(NativeSink, asyncio.Protocol):
    """What both wires share."""

    __slots__ = ("_around", "_over", "_transport", "write")

    def __init__(self, transport: asyncio.Transport, around: Surroundings) -> None:
        super().__init__()
        self._around = around
        self._over = False
        self._transport = transport
        # The fan-out calls this once for each member and tick: nothing stands in between.
        self.write = transport.write  # type: ignore[method-assign]

    def waiting(self) -> int:
        return self._transport.get_write_buffer_size()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.drained()

    def eof_received(self) -> bool:
        if not self._transport.can_write_eof():
            return False  # over TLS it cannot be kept open
        # The client has gone. To close thousands of sockets in one turn holds the loop, too.
        self._mute()
        self._around.gate.enter(self._transport.close)
        return True

    def _mute(self) -> None:
        self.gone = True
        self.write = forget  # type: ignore[method-assign]

    def connection_lost(self, exc: Exception | None) -> None:
        self.died()
        self._around.gate.enter(self.end)

    def died(self) -> None:
        """The connection is gone. `end` follows, in a crowd some turns of the loop later."""
        self._over = True
        self._mute()

    def end(self) -> None:
        """Let go of it all."""
        self._around.connections.discard(self)
        self.lost()

    def linger(self) -> None:
        """The last bytes are written: cut the connection off if it has not ended by then."""
        asyncio.get_running_loop().call_later(LINGER, self._cut_off)

    def _cut_off(self) -> None:
        if not self._over:
            cut_off(self._transport)


class Head:
    """The transport that uvicorn writes a response to. It keeps the head back until the beginning
    of the body comes, within this turn of the loop: one packet, and half of the system calls."""

    __slots__ = ("_begun", "_held", "_loop", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._begun = False
        self._held = b""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Write this after what is held. The first write is held."""
        if self._begun:
            self._transport.write(self.take() + data if self._held else data)
        else:
            self._begun = True
            self._held = data
            self._loop.call_soon(self._flush)

    def take(self) -> bytes:
        """What is held, for whoever writes it now."""
        held, self._held = self._held, b""
        return held

    def _flush(self) -> None:
        if self._held:
            self._transport.write(self.take())

    def close(self) -> None:
        """Close the connection once everything is written."""
        self._flush()
        self._transport.close()


class StreamSink(SocketSink):
    """Writes a response body whose head uvicorn has written."""

    __slots__ = ("_chunked", "_hand_over", "_head", "_said", "_started")

    def __init__(
        self,
        transport: asyncio.Transport,
        around: Surroundings,
        hand_over: Callable[[StreamSink], None],
        head: Head,
        *,
        chunked: bool,
    ) -> None:
        """`hand_over` makes this sink the transport's protocol; `head` is what the response's head
        is written to."""
        super().__init__(transport, around)
        self._head: Head | None = head
        self._hand_over: Callable[[StreamSink], None] | None = hand_over
        self._chunked = chunked
        self._started = False
        self._said = 0

    def see(self, message: Message) -> None:
        """A message goes out to the server."""
        if message["type"] == "http.response.start":
            headers = message.get("headers", ())
            codings = [value for name, value in headers if name.lower() == b"content-encoding"]
            self._started = codings == ([] if self.coding is None else [self.coding])

    def open(self) -> bool:
        if not self._started or self.gone:
            return False
        self.write = self._begin  # type: ignore[method-assign]
        return True

    def _begin(self, data: bytes) -> None:
        """The first write."""
        head, self._head = self._head, None
        assert head is not None
        self.write = self._transport.write  # type: ignore[method-assign]
        self.write(head.take() + data)

    def take(self, listener: Listener | None = None, *, deflated: bool = False) -> None:
        hand_over, self._hand_over = self._hand_over, None
        assert hand_over is not None
        hand_over(self)

    def lost(self) -> None:
        self._hand_over = None
        super().lost()

    def data_received(self, data: bytes) -> None:
        self._said += len(data)
        if self._said > _SAID:
            self._transport.abort()

    def finish(self, data: bytes) -> None:
        if self.gone:
            return
        self.write(data + b"0\r\n\r\n" if self._chunked else data)
        self._transport.close()
        self.linger()


def cut_off(transport: asyncio.Transport) -> None:
    """End it now, and if the peer does not read by a reset: what the kernel still has for it would
    be kept for long."""
    tcp = transport.get_extra_info("socket")
    if tcp is not None and transport.get_write_buffer_size():
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def tune(transport: asyncio.Transport, settings: Settings) -> None:
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
