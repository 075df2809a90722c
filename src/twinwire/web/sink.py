"""Sinks: where the bytes for one connection go.

1. `write` takes all it is given and never waits. `full` tells that the next write should wait for
   `Hub.drained`, which the sink calls when it has room again.
2. A sink ends once: by `close` from the hub's side, or by `lost` when the connection is gone.

`Sink` is what both kinds share. `SendSink`, here, works under every ASGI server. Our own server
puts a kind into the scope that writes straight to the socket (`native`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import Scope

from twinwire.core.feed import Feed
from twinwire.errors import CloseReason
from twinwire.hub import Hub

EXTENSION = "twinwire.sink"
"""The key in the scope's extensions under which a server offers its own sink."""


class Sink:
    """One connection's outlet. A kind of it overrides `write` and `finish`."""

    __slots__ = ("_ended", "feed", "full", "hub", "on_close")

    def __init__(self) -> None:
        self.full = False
        self.hub: Hub | None = None
        self.feed: Feed | None = None
        self.on_close: Callable[[CloseReason], None] | None = None
        self._ended: asyncio.Future[None] | None = None

    def bind(self, hub: Hub, feed: Feed, on_close: Callable[[CloseReason], None]) -> None:
        """Say whose outlet this is, and who says farewell (by `finish`) when the hub ends it."""
        self.hub, self.feed, self.on_close = hub, feed, on_close

    def open(self) -> bool:
        """Whether writing may begin: the response has started, and nothing recodes it."""
        return True

    def write(self, data: Any) -> None:
        """Take `data`."""
        raise NotImplementedError

    def finish(self, data: Any) -> None:
        """Take the last bytes and end the connection once they are out."""
        raise NotImplementedError

    def close(self, reason: CloseReason) -> None:
        """The hub ends this connection."""
        if self.on_close is not None:
            self.on_close(reason)

    def drained(self) -> None:
        """There is room again."""
        self.full = False
        if self.hub is not None and self.feed is not None:
            self.hub.fanout.drained(self.feed)

    def lost(self) -> None:
        """The connection is gone."""
        if self.hub is not None and self.feed is not None:
            self.hub.fanout.detach(self.feed)
        self.on_close = None
        if self._ended is None:
            self._ended = asyncio.get_running_loop().create_future()
        if not self._ended.done():
            self._ended.set_result(None)

    async def ended(self) -> None:
        """Wait until the connection is gone."""
        if self._ended is None:
            self._ended = asyncio.get_running_loop().create_future()
        await self._ended


class SendSink(Sink):
    """Writes by awaiting a server's `send`, in a task of its own."""

    __slots__ = ("_arrived", "_finish", "_high", "_pending", "_send", "_size")

    def __init__(self, send: Callable[[bytes], Awaitable[None]], high: int) -> None:
        """`send` passes bytes on; the sink is full over `high` bytes."""
        super().__init__()
        self._send = send
        self._high = high
        self._pending: list[bytes] = []
        self._size = 0
        self._arrived = asyncio.Event()
        self._finish = False

    def write(self, data: bytes) -> None:
        self._pending.append(data)
        self._size += len(data)
        self.full = self._size > self._high
        self._arrived.set()

    def finish(self, data: bytes) -> None:
        if data:
            self._pending.append(data)
        self._finish = True
        self._arrived.set()

    async def run(self) -> None:
        """Pass on what is written until `finish`, or until `send` fails."""
        try:
            while True:
                while self._pending:
                    batch, self._pending, self._size = self._pending, [], 0
                    for data in batch:
                        await self._send(data)
                if self.full:
                    self.drained()
                if self._finish and not self._pending:
                    return
                if not self._pending:
                    self._arrived.clear()
                    await self._arrived.wait()
        finally:
            self.lost()


def native(scope: Scope) -> Sink | None:
    """The sink that our own server offers for this connection, if it is our own server."""
    sink = (scope.get("extensions") or {}).get(EXTENSION)
    return sink if isinstance(sink, Sink) else None
