"""The load clients' sockets: dialling, and many who listen."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import sys
import time
from array import array
from collections.abc import Callable, Iterable
from typing import Final, Self, TypeVar, cast

from twinwire.client.errors import Unreachable, reason
from twinwire.compare import speak
from twinwire.compare.speak import NotOpened, SocketOpening, StreamOpening, Target

PATIENCE: Final = 10.0
"""Seconds for anything that should happen at once."""

_AT_ONCE: Final = 50
"""Connections that are being made at the same time."""

_DATA_SEGMENTS_IN: Final = 152
"""Where `tcpi_data_segs_in` stands in Linux's `struct tcp_info`."""

_PAUSE: Final = 0.05
"""Seconds of silence between two pieces that belong to different heartbeats."""

now_ns = time.perf_counter_ns


class Tally:
    """What a group of listeners has received: the ages of the events in ms, until there are
    `total` of them."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.ages = array("d")
        self.full = asyncio.Event()

    def take(self, age: float) -> None:
        """One event more."""
        self.ages.append(age)
        if len(self.ages) == self.total:
            self.full.set()

    async def wait(self, patience: float = PATIENCE) -> bool:
        """Wait until everything is there, or `patience` seconds; whether it is."""
        try:
            async with asyncio.timeout(patience):
                await self.full.wait()
        except TimeoutError:
            return False
        return True


class Listener(asyncio.Protocol):
    """A client that is live on one channel, and takes the time stamps out of what comes."""

    def __init__(self, opening: StreamOpening | SocketOpening, tally: Tally) -> None:
        self.tally = tally
        self.count = 0
        self.received = 0
        self.sent = 0
        self.pieces: list[int] = []
        """Bytes of what came without an event in it, together if they came together."""
        self._opening: StreamOpening | SocketOpening | None = opening
        self._live: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rest = b""
        self._last = 0
        self._quiet = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are transports in all but their class.
        self._transport = cast(asyncio.Transport, transport)
        if self._opening is not None:
            self._write(self._opening.first)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self._opening is None:
            self._take(data)
            return
        try:
            send, rest = self._opening.feed(data)
        except (NotOpened, ValueError) as error:
            self._fail(error)
            return
        if send:
            self._write(send)
        if rest is not None:
            self._opening = None
            if not self._live.done():
                self._live.set_result(None)
            self._take(rest, opening=True)

    def _take(self, data: bytes, *, opening: bool = False) -> None:
        now = now_ns()
        text = self._rest + data
        end = 0
        events = self.count
        for mark in speak.MARK.finditer(text):
            end = mark.end()
            if mark[1]:
                self.count += 1
                self.tally.take((now - int(mark[1])) / 1e6)
            else:
                self._write(speak.PONG)
        self._rest = text[max(end, len(text) - speak.TAIL) :]
        recent = now - self._last < _PAUSE * 1e9
        self._last = now
        if self.count > events or opening:
            self._quiet = False
        elif not recent:
            self._quiet = True
            self.pieces.append(len(data))
        elif self._quiet:
            self.pieces[-1] += len(data)

    def _write(self, data: bytes) -> None:
        self.sent += len(data)
        self._transport.write(data)

    def _fail(self, error: Exception) -> None:
        if not self._live.done():
            self._live.set_exception(error)
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._live.done():
            why = reason(error) if error else "the connection was closed"
            self._live.set_exception(NotOpened(0, why))

    async def live(self) -> None:
        """Wait until the client is live. Raises `NotOpened` and `TimeoutError`."""
        async with asyncio.timeout(PATIENCE):
            await self._live

    def segments(self) -> int | None:
        """TCP segments with data that have come; None where the system does not tell."""
        sock = self._transport.get_extra_info("socket")
        if not sys.platform.startswith("linux") or sock is None:
            return None
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        if len(info) < _DATA_SEGMENTS_IN + 4:
            return None
        (count,) = struct.unpack_from("I", info, _DATA_SEGMENTS_IN)
        return int(count)

    def close(self) -> None:
        """End the connection."""
        self._transport.abort()


_P = TypeVar("_P", bound=asyncio.Protocol)


class Dialer:
    """Makes connections to one target, whose name is looked up once."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._tls = ssl.create_default_context() if target.secure else None
        self._address = (target.host, target.port)

    async def look_up(self) -> None:
        """Find the address. Raises `Unreachable`."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(
                self.target.host, self.target.port, type=socket.SOCK_STREAM
            )
        except OSError as error:
            raise Unreachable(str(self.target.address), reason(error)) from None
        # `localhost` may be ::1 first, where nobody listens: the first that answers counts.
        for *_, address in found:
            self._address = (str(address[0]), self.target.port)
            try:
                (await self.dial(asyncio.Protocol)).close()
            except Unreachable:
                if address == found[-1][-1]:
                    raise
            else:
                return

    async def dial(self, factory: Callable[[], _P]) -> asyncio.Transport:
        """A connection with a protocol of `factory`. Raises `Unreachable`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE):
                transport, _ = await loop.create_connection(
                    factory,
                    *self._address,
                    ssl=self._tls,
                    server_hostname=self.target.host if self._tls else None,
                )
        except TimeoutError:
            raise Unreachable(str(self.target.address), "it does not answer") from None
        except OSError as error:
            raise Unreachable(str(self.target.address), reason(error)) from None
        return transport

    async def listen(self, opening: StreamOpening | SocketOpening, tally: Tally) -> Listener:
        """A listener that is live. Raises `Unreachable` and `NotOpened`."""
        listener = Listener(opening, tally)
        transport = await self.dial(lambda: listener)
        try:
            await listener.live()
        except TimeoutError:
            transport.abort()
            raise NotOpened(0, f"nothing came within {PATIENCE:g} s of asking") from None
        except BaseException:
            transport.abort()
            raise
        return listener


class Listeners:
    """A group of listeners, made together and ended together."""

    def __init__(self, dialer: Dialer, tally: Tally) -> None:
        self._dialer = dialer
        self._tally = tally
        self.all: list[Listener] = []

    async def connect(self, openings: Iterable[StreamOpening | SocketOpening]) -> None:
        """Make them live. Raises `Unreachable` and `NotOpened`, of any of them."""
        waiting = list(openings)
        while waiting:
            batch, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
            made = await asyncio.gather(
                *(self._dialer.listen(opening, self._tally) for opening in batch),
                return_exceptions=True,
            )
            self.all += [one for one in made if isinstance(one, Listener)]
            for one in made:
                if isinstance(one, BaseException):
                    raise one

    def expect(self, tally: Tally) -> None:
        """From here on what comes counts there."""
        for listener in self.all:
            listener.tally = tally
            listener.count = listener.received = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for listener in self.all:
            listener.close()
        # The transports report their end in the next turn.
        await asyncio.sleep(0)
