"""Sinks: where the bytes for one connection go.

1. `write` takes all it is given and never waits. `full` tells that the next write should wait for
   `Fanout.drained`, which the sink calls when it has room again.
2. A sink has an owner, who says what is last. It ends once: by `close` from the hub's side, or by
   `lost` when the client is gone. That may be before anybody has begun to write.
3. A sink of our own server can be taken: from then on the connection is the sink's, and neither a
   task nor the request stays alive for it.

`Sink` is what both kinds share. `SendSink`, here, works under every ASGI server. Our own server
puts a kind into the scope that writes straight to the socket (`native`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from starlette.types import Scope

from twinwire.core.feed import Feed
from twinwire.errors import CloseReason, Reason
from twinwire.hub import Hub

LINGER = 1.0
"""Seconds that a connection which we end may take to read its last bytes."""

EXTENSION = "twinwire.sink"
"""The key in the scope's extensions under which a server offers its own sink."""


class Owner(Protocol):
    """Whose bytes a sink carries."""

    def dropped(self) -> None:
        """A gap has ended subscriptions."""

    def say_farewell(self, reason: Reason) -> None:
        """The hub ends the connection: give the last bytes to `finish`."""

    def lost(self) -> None:
        """The client is gone."""


class Listener(Protocol):
    """Who gets the messages of a WebSocket whose sink has been taken."""

    def hear(self, opcode: int, payload: bytes) -> bool:
        """Take a message; returns whether the next one may come. Else `go_on` is asked."""

    def go_on(self) -> bool:
        """There is room again; returns as `hear` does."""


class Sink:
    """One connection's outlet. A kind of it overrides `write`, `waiting` and `finish`."""

    __slots__ = ("_ending", "_room", "feeds", "full", "gone", "hub", "owner")

    def __init__(self) -> None:
        self.full = False
        self.gone = False
        self.hub: Hub | None = None
        self.feeds: Sequence[Feed] = ()
        self.owner: Owner | None = None
        self._ending = False
        self._room: asyncio.Future[None] | None = None

    def bind(self, hub: Hub, feeds: Sequence[Feed], owner: Owner | None = None) -> None:
        """Say whose outlet this is. Without an owner it only tells of the connection's end."""
        self.hub, self.feeds, self.owner = hub, feeds, owner

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

    def dropped(self) -> None:
        """A gap has ended subscriptions of one of the feeds."""
        if self.owner is not None:
            self.owner.dropped()

    def close(self, reason: Reason) -> None:
        """The hub ends this connection."""
        self._detach()
        if self.owner is not None and not self._ending:
            self._ending = True
            self.owner.say_farewell(reason)

    def shutdown(self) -> None:
        """The server ends. The application hears of it only when all connections have ended."""
        if self.hub is not None:
            for feed in self.feeds:
                self.hub.fanout.close(feed, CloseReason.SHUTDOWN)

    def drained(self) -> None:
        """There is room again."""
        self.full = False
        self._wake()
        if self.hub is not None:
            for feed in self.feeds:
                self.hub.fanout.drained(feed)

    def lost(self) -> None:
        """The client is gone. Done twice it does nothing."""
        self.gone = True
        self._detach()
        # The feeds and the owner refer to us.
        self.feeds = ()
        owner, self.owner = self.owner, None
        self._wake()
        if owner is not None:
            owner.lost()

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

    def _wake(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)


class NativeSink(Sink):
    """A sink of our own server, which can be taken (rule 3)."""

    __slots__ = ("coding",)

    def __init__(self) -> None:
        super().__init__()
        self.coding: bytes | None = None
        """The content coding of what we write. Any other is by somebody between us."""

    def take(self, listener: Listener | None = None, *, deflated: bool = False) -> None:
        """Take the connection over; a WebSocket's messages go to `listener` from now on. They may
        be compressed if that has been agreed on: `deflated`."""
        raise NotImplementedError


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


def native(scope: Scope) -> NativeSink | None:
    """The sink that our own server offers for this connection, if it is our own server."""
    sink = (scope.get("extensions") or {}).get(EXTENSION)
    return sink if isinstance(sink, NativeSink) else None
