"""Ending streams when the process is told to end.

Most servers end an application's lifespan only after all connections have ended, which streams
never do by themselves: the signal that ends the server must end the streams.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (int(signal.SIGINT), int(signal.SIGTERM))


@contextmanager
def at_end(end: Callable[[bool], Awaitable[None]]) -> Iterator[None]:
    """While this lasts, call `end` when a signal ends the server, after the server's own handler.

    `end` is told whether it is to be at once: at Ctrl-C, and at any second signal. Where the server
    has no handler of its own, or does not run in the main thread, nothing is done.
    """
    loop = asyncio.get_running_loop()
    before: dict[int, Callable[..., Any]] = {}
    tasks: list[asyncio.Future[None]] = []

    def begin(at_once: bool) -> None:
        tasks.append(asyncio.ensure_future(end(at_once or bool(tasks)), loop=loop))

    def handle(number: int, frame: FrameType | None) -> None:
        before[number](number, frame)
        loop.call_soon_threadsafe(begin, number == signal.SIGINT)

    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler) and handler is not signal.default_int_handler:
                before[number] = handler
                signal.signal(number, handle)
    try:
        yield
    finally:
        for number in before:
            signal.signal(number, before[number])
