"""Accepting connections in portions.

asyncio and uvloop accept all who wait at the door in one turn of the loop, and what these then ask
for begins in the next one: after a network's hiccup thousands come back at once, and everybody else
waits until the last of them has been served. Here a turn of the loop takes in a portion, and the
rest waits in the kernel's queue. The listening socket is readable as long as somebody waits, so
each turn comes back to it, and serves all others in between.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Collection
from ssl import SSLContext
from typing import Any

from twinwire.server.crowd import Portions
from twinwire.server.shares import Shares

_log = logging.getLogger("twinwire")

_PAUSE = 0.5
"""Seconds without accepting after the system had no file or memory left for a connection."""

_STAND_BACK = 0.002
"""Seconds for which one of several workers lets the others have who waits, before it takes them."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Accepts from one listening socket. Stands where uvicorn keeps the servers of its loop."""

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        *,
        tls: SSLContext | None = None,
        tls_timeout: float | None = None,
        connections: Collection[object] = (),
        shares: Shares | None = None,
    ) -> None:
        """`tls_timeout` is the time in seconds for a TLS handshake. `connections` are all that
        there are; `shares` tells of other workers that accept from the same socket."""
        listener.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._protocol = protocol
        self._tls: dict[str, Any] = {}
        if tls is not None:
            self._tls = {"ssl": tls, "ssl_handshake_timeout": tls_timeout}
        self._opening: set[asyncio.Task[None]] = set()
        self._paused: asyncio.TimerHandle | None = None
        self._portions = Portions()
        self._connections = connections
        self._shares = shares
        self._stood_back = False
        if shares is not None:
            shares.note(len(connections))
        self._resume()

    def _resume(self) -> None:
        self._paused = None
        self._loop.add_reader(self._listener.fileno(), self._ready)

    def _ready(self) -> None:
        """Somebody waits: take in a portion."""
        if self._shares is not None and self._is_for_others(self._shares):
            return self._pause(_STAND_BACK)
        for _ in range(self._portions.next()):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return self._portions.over()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    _log.error("cannot accept connections for now: %s", error.strerror)
                    return self._pause(_PAUSE)
                continue  # the peer has given up already, which is no concern of the others
            connection.setblocking(False)
            task = self._loop.create_task(self._open(connection))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _is_for_others(self, shares: Shares) -> bool:
        """Whether other workers are to have who waits, once for each time that they had it."""
        fuller = shares.note(len(self._connections) + len(self._opening))
        self._stood_back = fuller and not self._stood_back
        return self._stood_back

    def _pause(self, seconds: float) -> None:
        self._portions.over()
        self._loop.remove_reader(self._listener.fileno())
        self._paused = self._loop.call_later(seconds, self._resume)

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection, **self._tls)
        except OSError:
            connection.close()  # the peer has gone, or failed in its TLS handshake

    def close(self) -> None:
        """Accept no more."""
        if self._shares is not None:
            self._shares.leave()
        if self._paused is not None:
            self._paused.cancel()
        self._loop.remove_reader(self._listener.fileno())

    async def wait_closed(self) -> None:
        """Return when no connection is being opened any more."""
        if self._opening:
            await asyncio.wait(self._opening)
