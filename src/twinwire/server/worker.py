"""A worker's side of what it has with its supervisor (`twinwire.server.supervisor`).

1. A worker is the supervisor's command run once more. That it is one, and what it inherits, stands
   in an environment variable, which it takes away: what is started from here is no worker.
2. It takes its orders over a line from the supervisor. Signals it leaves alone: a terminal's Ctrl-C
   and a service manager's SIGTERM come to all processes of a group, and to the supervisor too.
3. When the line is cut the supervisor is gone, and the worker ends at once. Nobody is left behind
   that holds the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from enum import Enum
from types import FrameType
from typing import Final, Self

from twinwire.server.shares import Shares

VARIABLE: Final = "_TWINWIRE_WORKER"
"""Descriptors of the listening socket, the line and the table of shares; the place in the table;
whether to accept connections before the hub is warm."""

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What a worker leaves to its supervisor, which blocks them while it starts one."""

PATIENCE: Final = 10.0
"""Seconds after which a worker that should have ended at once is ended by force."""

READY: Final = b"r"
"""What a worker tells its supervisor: it serves."""


class Order(Enum):
    """What a supervisor tells its workers."""

    DRAIN = b"d"
    """Tell the clients to come back, over the time of the settings, and end."""

    LEAVE = b"l"
    """The same, but accept nobody any more: others do."""

    END = b"e"
    """End at once."""


class Worker:
    """What this process has from its supervisor."""

    def __init__(
        self, listener: socket.socket, line: socket.socket, shares: Shares, *, early: bool
    ) -> None:
        self.listener = listener
        self.shares = shares
        self.early = early
        """Whether to accept connections before the hub is warm, since nobody else does."""
        self._line = line

    @classmethod
    def inherited(cls) -> Self | None:
        """This process as a worker, if it is one. Asked again, it is none."""
        given = os.environ.pop(VARIABLE, None)
        if given is None:
            return None
        *descriptors, place, early = (int(number) for number in given.split())
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        listener, line, table = descriptors
        for number in SIGNALS:
            signal.signal(number, _leave_alone)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return cls(
            socket.socket(fileno=listener),
            socket.socket(fileno=line),
            Shares(table, place),
            early=bool(early),
        )

    def obey(self, follow: Callable[[Order], None]) -> None:
        """From now on call `follow` in the running loop with each order."""
        loop = asyncio.get_running_loop()
        # A thread, since a loop that hangs would not notice that the line is cut.
        threading.Thread(target=self._listen, args=(loop, follow), daemon=True).start()

    def _listen(self, loop: asyncio.AbstractEventLoop, follow: Callable[[Order], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: we have ended
            # A line that is cut with something unread on it is reset.
            with contextlib.suppress(ConnectionError):
                while order := self._line.recv(1):
                    loop.call_soon_threadsafe(follow, Order(order))
            loop.call_soon_threadsafe(follow, Order.END)
        time.sleep(PATIENCE)
        os._exit(1)

    def ready(self) -> None:
        """Tell the supervisor that this worker serves."""
        with contextlib.suppress(OSError):
            self._line.send(READY)


def _leave_alone(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN, which programs that are started from here would inherit."""
