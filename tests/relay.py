"""A TCP relay between a client and a server, whose connections a test can cut.

async with Relay(server.port) as relay:
    client.connect(relay.url)
    relay.cut()                  # every connection ends at once, by a reset
    async with relay.down():     # and here nobody gets through
        ...

With `heard` it tells what passes: `{"on": "client", "data": b"GET /sse…"}`, or "server".
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self, cast

from tests.seen import Seen


class Relay:
    """Passes bytes on between a port of its own and `port`, both on loopback."""

    def __init__(self, port: int, heard: Seen | None = None) -> None:
        self.to = port
        self.port = 0
        self.heard = heard
        self._legs: set[_Leg] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def open(self) -> None:
        """Listen, on the same port as before if there was one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Client(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listen no more, and cut."""
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)

    def cut(self, *, reset: bool = True) -> None:
        """End every connection, on both sides: by a reset, which also loses what is under way, or
        after that has arrived."""
        for leg in list(self._legs):
            if reset:
                leg.transport.abort()
            else:
                leg.transport.close()

    @asynccontextmanager
    async def down(self) -> AsyncIterator[None]:
        """Cut, and refuse connections until the end of the block."""
        await self.close()
        try:
            yield
        finally:
            await self.open()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def _accepted(self, client: "_Client") -> None:
        client.transport.pause_reading()
        task = asyncio.get_running_loop().create_task(self._connect(client))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self, client: "_Client") -> None:
        loop = asyncio.get_running_loop()
        try:
            _, server = await loop.create_connection(lambda: _Leg(self), "127.0.0.1", self.to)
        except OSError:
            client.transport.abort()
            return
        client.other, server.other = server, client
        if client.transport.is_closing():
            server.transport.abort()
        else:
            client.transport.resume_reading()


class _Leg(asyncio.Protocol):
    """One end of a relayed connection."""

    transport: asyncio.Transport
    side = "server"

    def __init__(self, relay: Relay) -> None:
        self.other: _Leg | None = None
        self._relay = relay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._relay._legs.add(self)

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        if self._relay.heard is not None:
            self._relay.heard.add({"on": self.side, "data": data})
        self.other.transport.write(data)

    # A relay without back pressure would hide a slow client from the server.
    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay._legs.discard(self)
        if self.other is not None:
            self.other.transport.close()


class _Client(_Leg):
    """The end that a client has opened."""

    side = "client"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._relay._accepted(self)
