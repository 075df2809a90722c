"""A TCP proxy that does to its connections what networks do, by a plan from a seed.

What happens to the nth connection is decided by the seed and n: how long until something does, and
what. Which client the nth connection belongs to, and what it is doing then, is the machine's own.
"""

import asyncio
import random
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from tests.relay import Relay, _Client, _Leg

_BUFFER = 4 * 1024
"""Bytes that wait in the proxy, and as many in its socket, before it stops to read: a slow client
must show at the server."""

_HELPING = 256
"""Bytes that pass in each tenth of a second when a line is throttled."""


class Proxy(Relay):
    """A relay with mishaps, until `heal`."""

    def __init__(self, port: int, seed: str) -> None:
        super().__init__(port)
        self.seed = seed
        self.count = 0
        self.happened: Counter[str] = Counter()
        """How often each mishap came about."""
        self._lines: set[Line] = set()
        self._healed = False

    def heal(self) -> None:
        """From here on nothing happens; what was held back goes on."""
        self._healed = True
        for line in list(self._lines):
            line.heal()

    async def _connect(self, client: _Client) -> None:
        await super()._connect(client)
        if isinstance(client.other, _Leg) and not self._healed:
            self.count += 1
            line = Line(self, client, client.other, random.Random(f"{self.seed}:{self.count}"))
            self._lines.add(line)


class Line:
    """One connection and what happens to it."""

    def __init__(self, proxy: Proxy, client: _Leg, server: _Leg, dice: random.Random) -> None:
        self.client = client
        self.server = server
        self._proxy = proxy
        self._dice = dice
        self._loop = asyncio.get_running_loop()
        self._mishaps: list[tuple[str, Callable[[], None]]] = [
            ("cut", self._cut),
            ("ended", self._end),
            ("client half-closed", self._half_close_client),
            ("server half-closed", self._half_close_server),
            ("delayed", self._delay),
            ("delayed", self._delay),
            ("throttled", self._throttle),
        ]
        client.transport.set_write_buffer_limits(high=_BUFFER)
        kernel = server.transport.get_extra_info("socket")
        kernel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._half_closed = False
        self._timer = self._loop.call_later(self._soon(), self._happen)

    def _soon(self) -> float:
        return self._dice.choice([0.005, 0.1, 0.5, 1, 1, 2, 4]) * (0.5 + self._dice.random())

    def _happen(self) -> None:
        if self.client.transport.is_closing() or self.server.transport.is_closing():
            self._proxy._lines.discard(self)
            return
        name, mishap = self._dice.choice(self._mishaps)
        self._proxy.happened[name] += 1
        mishap()

    def _next(self) -> None:
        self._timer = self._loop.call_later(self._soon(), self._happen)

    def _cut(self) -> None:
        """By resets, on both sides: what was under way is lost."""
        self.client.transport.abort()
        self.server.transport.abort()

    def _end(self) -> None:
        """After what was under way has arrived."""
        self.client.transport.close()

    def _half_close_client(self) -> None:
        """The client reads the end, and could go on sending."""
        self._half_close(self.client, self.server)

    def _half_close_server(self) -> None:
        """The server reads the end, and could go on sending."""
        self._half_close(self.server, self.client)

    def _half_close(self, at: _Leg, other: _Leg) -> None:
        self._half_closed = True
        other.transport.pause_reading()
        try:
            at.transport.write_eof()
        except OSError:
            pass  # the connection has just been lost
        self._timer = self._loop.call_later(1, self._cut)

    def _delay(self) -> None:
        """Nothing passes to the client for a while, sometimes for so long that it is too slow."""
        self.server.transport.pause_reading()
        self._timer = self._loop.call_later(
            self._dice.choice([0.05, 0.5, 1, 3, 6]) * (0.5 + self._dice.random()), self._resume
        )

    def _resume(self) -> None:
        self.server.transport.resume_reading()
        self._next()

    def _throttle(self) -> None:
        """For a while what passes comes in small helpings."""
        self._help(20)

    def _help(self, helpings: int) -> None:
        transport = cast(Any, self.server.transport)
        if not helpings:
            transport.max_size = type(transport).max_size
            transport.resume_reading()
            return self._next()
        # What asyncio's transport reads at once, and then it is stopped.
        transport.max_size = _HELPING
        transport.resume_reading()
        self._loop.call_soon(self._loop.call_soon, transport.pause_reading)
        self._timer = self._loop.call_later(0.1, self._help, helpings - 1)

    def heal(self) -> None:
        """Let everything through; what is half closed ends."""
        self._timer.cancel()
        if self.client.transport.is_closing() or self.server.transport.is_closing():
            return
        if self._half_closed:
            return self._cut()
        transport = cast(Any, self.server.transport)
        transport.max_size = type(transport).max_size
        transport.resume_reading()
        self.client.transport.resume_reading()
