"""The plainest log that several processes can share: a server in the tests' own process.

Lines of JSON. A client is told where the log begins, all that it holds and then "warm"; what is
appended by anybody is told to everybody, and so are notices.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import msgspec


class LogServer:
    """Listens on `port` while the block lasts."""

    def __init__(self) -> None:
        self.port = 0
        self._epoch = time.time_ns() // 1_000_000
        self._records: list[list[Any]] = []
        self._clients: list[socket.socket] = []
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        self.waiting = 0
        """Clients that have come while the log was held back."""

    def hold(self) -> None:
        """Whoever comes now has to wait for the log."""
        self._open.clear()

    def release(self) -> None:
        """They get it."""
        self._open.set()

    def shut(self) -> None:
        """Whoever comes now is refused."""
        with suppress(OSError):  # it is shut already
            # Closing alone would not wake who waits for the next one.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def listen(self) -> None:
        """Whoever comes now is let in."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if not self._open.is_set():
            self.waiting += 1
            self._open.wait()
        with client, client.makefile("rb") as lines, suppress(OSError):
            with self._lock:
                _say(client, {"begin": self._epoch})
                _say(client, {"events": self._records})
                _say(client, {"warm": True})
                self._clients.append(client)
            for line in lines:
                with self._lock:
                    match msgspec.json.decode(line):
                        case {"append": records}:
                            self._append(client, records)
                        case notice:
                            self._say_all(notice)

    def _append(self, client: socket.socket, records: list[str]) -> None:
        seq, now = len(self._records), time.time_ns() // 1_000_000
        new = [[seq + n, now, record] for n, record in enumerate(records, 1)]
        self._records += new
        self._say_all({"events": new})
        _say(client, {"answer": [n for n, _, _ in new]})

    def _say_all(self, what: dict[str, Any]) -> None:
        for client in self._clients:
            with suppress(OSError):  # it has gone
                _say(client, what)

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shut()
        self.release()
        with self._lock:
            for client in self._clients:
                with suppress(OSError):  # it has gone
                    client.shutdown(socket.SHUT_RDWR)


def _say(client: socket.socket, what: dict[str, Any]) -> None:
    client.sendall(msgspec.json.encode(what) + b"\n")
