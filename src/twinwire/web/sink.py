"""Sinks: where the bytes for one connection go.

1. `write` takes all it is given and never waits. `full` tells that the next write should wait for
   `Fanout.drained`, which the sink calls when it has room again.
2. A sink ends once: by `close` from the hub's side, or by `lost` when the connection is gone. That
   may be before anybody has begun to write.

`Sink` is what both kinds share. `SendSink`, here, works under every ASGI server. Our own server
puts a kind into the scope that writes straight to the socket (`native`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.types import Scope

from twinwire.core.feed import Feed
from twinwire.errors import CloseReason
from twinwire.hub import Hub

LINGER = 1.0
"""Seconds that a connection which we end may take to read its last bytes."""

EXTENSION = "twinwire.sink"
"""The key in the scope's extensions under which a server offers its own sink."""


class Sink:
    """One connection's outlet. A kind of it overrides `write` and `finish`."""

    __slots__ = ("_ended", "_room", "feeds", "full", "gone", "hub", "on_close")

    def __init__(self) -> None:
        self.full = False
        self.gone = False
        self.hub: Hub | None = None
        self.feeds: Sequence[Feed] = ()
        self.on_close: Callable[[CloseReason], None] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    def bind(
        self, hub: Hub, feeds: Sequence[Feed], on_close: Callable[[CloseReason], None]
    ) -> None:
        """Say whose outlet this is, and who says farewell (by `finish`) when the hub ends it."""
        self.hub, self.feeds, self.on_close = hub, feeds, on_close

    def open(self) -> bool:
        """Whether writing may begin: the response has started, and nothing recodes it."""
        return not self.gone

    def write(self, data: Any) -> None:
        """Take `data`."""
        raise NotImplementedError

    def finish(self, data: Any) -> None:
        """Take the last bytes and end the connection once they are out."""
        raise NotImplementedError

    def waiting(self) -> int | None:
        """How many bytes of what was written have not gone out yet."""
        raise NotImplementedError

    def close(self, reason: CloseReason) -> None:
        """The hub ends this connection."""
        self._detach()
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close(reason)

    def shutdown(self) -> None:
        """The server ends. The application hears of it only when all connections have ended."""
        if self.hub is not None:
            for feed in self.feeds:
                self.hub.fanout.close(feed, CloseReason.SHUTDOWN)

    def drained(self) -> None:
        """There is room again."""
        self.full = False
        _wake(self._room)
        if self.hub is not None:
            for feed in self.feeds:
                self.hub.fanout.drained(feed)

    def lost(self) -> None:
        """The connection is gone."""
        self.gone = True
        self._detach()
        # The feeds refer to us.
        self.feeds = ()
        self.on_close = None
        _wake(self._room)
        _wake(self._ended)

    def _detach(self) -> None:
        if self.hub is not None:
            for feed in self.feeds:
                self.hub.fanout.detach(feed)

    async def room(self) -> None:
        """Wait until there is room, or the connection is gone."""
        while self.full and not self.gone:
            if self._room is None or self._room.done():
                self._room = asyncio.get_running_loop().create_future()
            # Several may wait: one of them who is cancelled must not cancel the others.
            await asyncio.wait((self._room,))

    async def ended(self) -> None:
        """Wait until the connection is gone."""
        if not self.gone:
            self._ended = asyncio.get_running_loop().create_future()
            await self._ended


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


class SendSink(Sink):
    """Writes by awaiting a server's `send`, in a task of its own."""

    __slots__ = ("_arrived", "_finish", "_high", "_pending", "_send", "_size", "_task")

    def __init__(self, send: Callable[[bytes], Awaitable[None]], high: int) -> None:
        """`send` passes bytes on; the sink is full over `high` bytes."""
        super().__init__()
        self._send = send
        self._high = high
        self._pending: list[bytes] = []
        self._size = 0
        self._arrived = asyncio.Event()
        self._finish = False
        self._task: asyncio.Task[Any] | None = None

    def write(self, data: bytes) -> None:
        self._pending.append(data)
        self._size += len(data)
        # Only `run` finds that there is room again: a write while it is sending must not hide it.
        self.full = self.full or self._size > self._high
        self._arrived.set()

    def waiting(self) -> int:
        return self._size

    def finish(self, data: bytes) -> None:
        if data:
            self._pending.append(data)
            self._size += len(data)
        self._finish = True
        self._arrived.set()
        asyncio.get_running_loop().call_later(LINGER, self._give_up)

    def _give_up(self) -> None:
        """The client has not taken the last bytes, and would be waited for for ever."""
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> None:
        """Pass on what is written until `finish`, or until `send` fails.

        With what is last not taken soon after `finish`, the task that runs this is cancelled.
        """
        self._task = asyncio.current_task()
        try:
            while True:
                while self._pending:
                    batch, self._pending = self._pending, []
                    for data in batch:
                        await self._send(data)
                        self._size -= len(data)
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
