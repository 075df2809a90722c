"""Crowds: what many connections want at once is begun in portions.

A turn of the loop runs everything that is ready, however much that is: after a network's hiccup
thousands of connections, and everybody else waits until the last of them has been served. So what
connections begin or end goes through here: a portion of it in each turn, the rest in the next.

How large a portion may be is found out: what it costs shows in the turn that follows it. While
these turns take longer than `_TURN` the portions shrink, else they grow.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

_TURN = 0.005
"""Seconds of work in a turn of the loop that the portions aim at."""

_FIRST = 8
_MOST = 64
"""The first portion of a crowd, and the largest."""


class Portions:
    """How much of a crowd to take in this turn of the loop."""

    def __init__(self) -> None:
        self._size = _FIRST
        self._used: float | None = None

    def next(self) -> int:
        """The size of this turn's portion. Ask once a turn while there is a crowd."""
        # The processor time of this thread: beside other programs a turn may take long without
        # doing much.
        used = time.thread_time()
        if self._used is None:
            self._size = _FIRST
        elif used - self._used > _TURN:
            self._size = max(1, self._size // 2)
        else:
            self._size = min(_MOST, self._size + 1)
        self._used = used
        return self._size

    def over(self) -> None:
        """The crowd is gone: the next one begins with a first portion."""
        self._used = None


class Gate:
    """Lets work in, in the order in which it came: at once, or in a crowd a portion a turn."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._portions = Portions()
        self._waiting: deque[Callable[[], None]] = deque()
        self._room = _FIRST
        self._turning = False

    def enter(self, work: Callable[[], None]) -> bool:
        """Do `work` now, or in its turn; returns whether it is done. It must not raise."""
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)
        if self._room:
            self._room -= 1
            work()
            return True
        self._waiting.append(work)
        return False

    def _turn(self) -> None:
        waiting = self._waiting
        if not waiting and self._room:
            # A turn without a crowd.
            self._portions.over()
            self._room = _FIRST
            self._turning = False
            return
        self._loop.call_soon(self._turn)
        room = self._portions.next()
        while room and waiting:
            room -= 1
            waiting.popleft()()
        self._room = room
