"""Somebody who stays while others come and go: command round trips over a WebSocket, one by one.

It has a thread and a connection of its own: what it measures is the server, not the load client.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from types import TracebackType
from typing import NamedTuple, Self

_PAUSE = 0.002
_HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Trip(NamedTuple):
    """A round trip: when it began (monotonic, s) and how long it took (ms)."""

    began: float
    took: float


def _frame(text: bytes) -> bytes:
    """Masked with zeros, which leaves the text as it is."""
    return bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text


class Probe:
    """Calls `echo` again and again while the block runs."""

    def __init__(self, port: int, core: int) -> None:
        self.trips: list[Trip] = []
        self._core = core
        self._over = threading.Event()
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(_HANDSHAKE)
        self._until(b"\r\n\r\n")
        self._call(b'{"id":1,"connect":{}}', b'"id":1')
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _until(self, end: bytes) -> None:
        got = b""
        while end not in got:
            piece = self._socket.recv(65536)
            if not piece:
                raise OSError("the server has ended the probe's connection")
            got += piece

    def _call(self, command: bytes, answer: bytes) -> None:
        self._socket.sendall(_frame(command))
        self._until(answer)

    def _run(self) -> None:
        os.sched_setaffinity(0, {self._core})
        number = 1
        while not self._over.wait(_PAUSE):
            number += 1
            began = time.monotonic()
            try:
                self._call(
                    b'{"id":%d,"rpc":{"method":"echo","data":1}}' % number, b'"id":%d,' % number
                )
            except OSError:
                return
            self.trips.append(Trip(began, (time.monotonic() - began) * 1e3))

    def between(self, begin: float, end: float) -> list[float]:
        """How long the trips took that overlapped with this time, in order of duration."""
        return sorted(
            trip.took
            for trip in self.trips
            if trip.began <= end and trip.began + trip.took / 1e3 >= begin
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join(40)
        self._socket.close()
