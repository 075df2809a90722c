"""Who watches while the load client measures: memory, command round trips, the server's event loop.

Most are threads that live for one block, on the load client's core. What they saw they tell into
the load client's outcome.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from bench import lib

_HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Background(threading.Thread):
    """Calls `turn` every `pause` seconds while the block runs; OSError ends it."""

    pause: float

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()

    def turn(self) -> None:
        raise NotImplementedError

    def run(self) -> None:
        os.sched_setaffinity(0, {lib.CLIENT_CORE})  # of this thread
        with contextlib.suppress(OSError):
            while not self._over.wait(self.pause):
                self.turn()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self.join(40)


class Memory(Background):
    """The most memory that the server, and the kernel for its connections, use meanwhile."""

    pause = 0.25

    def __init__(self, process: lib.Process) -> None:
        super().__init__()
        self._process = process
        self._begin = self._rss = process.memory()
        self._kernel = 0

    def turn(self) -> None:
        self._rss = max(self._rss, self._process.memory())
        self._kernel = max(self._kernel, queued(self._process.port))

    def tell(self, outcome: lib.Outcome) -> None:
        outcome["memory"] = {"begin": self._begin, "rss": self._rss, "kernel": self._kernel}


def queued(port: int) -> int:
    """Bytes that the kernel has queued on the server's connections, to be sent or not acknowledged;
    read from /proc, which tells no overhead."""
    local = f":{port:04X}"
    total = 0
    with contextlib.suppress(OSError), open("/proc/net/tcp") as lines:
        for line in lines:
            fields = line.split()
            if fields[1].endswith(local) and fields[3] == "01":
                total += int(fields[4].partition(":")[0], 16)
    return total


def kernel_memory() -> dict[str, int]:
    """Bytes that the kernel uses: in all its slabs (for root only), and for the data of TCP."""
    found = {}
    with contextlib.suppress(OSError):
        rows = (line.split() for line in Path("/proc/slabinfo").read_text().splitlines()[2:])
        found["slabs"] = sum(int(row[1]) * int(row[3]) for row in rows)
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            found["tcp"] = int(line.split()[-1]) * os.sysconf("SC_PAGE_SIZE")
    return found


class Trip(NamedTuple):
    """A round trip: when it began (monotonic, s) and how long it took (ms)."""

    began: float
    took: float


def _frame(text: bytes) -> bytes:
    """Masked with zeros, which leaves the text as it is."""
    return bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text


class Probe(Background):
    """Somebody who stays while others come and go: calls `echo` over a WebSocket, one by one.

    It has a connection of its own: what it measures is the server, not the load client.
    """

    pause = 0.002

    def __init__(self, process: lib.Process) -> None:
        super().__init__()
        self.trips: list[Trip] = []
        self._number = 1
        self._socket = socket.create_connection(("127.0.0.1", process.port), 30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(_HANDSHAKE)
        self._until(b"\r\n\r\n")
        self._call(b'{"id":1,"connect":{}}', b'"id":1')

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

    def turn(self) -> None:
        self._number += 1
        began = time.monotonic()
        self._call(
            b'{"id":%d,"rpc":{"method":"echo","data":1}}' % self._number,
            b'"id":%d,' % self._number,
        )
        self.trips.append(Trip(began, (time.monotonic() - began) * 1e3))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        self._socket.close()

    def between(self, begin: float, end: float) -> list[float]:
        """How long the trips took that overlapped with this time, in order of duration."""
        return sorted(
            trip.took
            for trip in self.trips
            if trip.began <= end and trip.began + trip.took / 1e3 >= begin
        )

    def tell(self, outcome: lib.Outcome) -> None:
        for name, (begin, end) in storm_parts(outcome).items():
            trips = self.between(begin, end) or [0.0]
            outcome["storm"][name + "_trip_ms"] = {
                "p50": trips[len(trips) // 2],
                "p99": trips[int(len(trips) * 0.99)],
                "max": trips[-1],
            }


def tell_stalls(path: Path, outcome: lib.Outcome) -> None:
    """For how long the server's event loop was held in a storm, as it has written down (app.py).

    Of a stall that other programs have caused a part, the rest is the server's own.
    """
    rows = (line.split() for line in path.read_text().splitlines())
    stalls = [tuple(map(float, row)) for row in rows if len(row) == 3]
    storm = outcome["storm"]
    for name, (begin, end) in storm_parts(outcome).items():
        found = [(late, used) for at, late, used in stalls if begin <= at <= end]
        storm[name + "_stall_ms"] = max((late for late, _ in found), default=0.0)
        storm[name + "_own_stall_ms"] = max((min(pair) for pair in found), default=0.0)


def storm_parts(outcome: lib.Outcome) -> dict[str, tuple[float, float]]:
    """From when to when (monotonic, s) all were away, and until the last one was live again."""
    storm = outcome["storm"]
    dropped, back = storm["dropped_at"] / 1e6, storm["back_at"] / 1e6
    return {"drop": (dropped, back), "return": (back, back + storm["live_ms"]["max"] / 1e3)}
