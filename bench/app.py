"""The hub that is measured: `twinwire serve --app bench.app:hub`.

With BENCH_STALLS=FILE in the environment it writes down how long the event loop was held: for every
turn of a 5 ms timer that came more than a millisecond late, a line with the time (monotonic, s),
how late (ms) and how much of the processor this thread used since the turn before (ms). What is
late without having used the processor has waited for other programs.
"""

import asyncio
import os
import time
from typing import Any

from twinwire import Hub

_PERIOD = 0.005
_LATE = 0.001


class _WatchedHub(Hub):
    async def start(self) -> None:
        await super().start()
        if path := os.environ.get("BENCH_STALLS"):
            _watch(asyncio.get_running_loop(), path)


def _watch(loop: asyncio.AbstractEventLoop, path: str) -> None:
    file = open(path, "w", buffering=1)  # noqa: SIM115 (until the process ends)

    def turn(due: float, used: float) -> None:
        now, cpu = time.monotonic(), time.thread_time()
        if now - due > _LATE:
            file.write(f"{now:.4f} {(now - due) * 1e3:.2f} {(cpu - used) * 1e3:.2f}\n")
        loop.call_later(_PERIOD, turn, time.monotonic() + _PERIOD, time.thread_time())

    turn(time.monotonic(), time.thread_time())


hub = _WatchedHub()


@hub.command("echo")
async def echo(value: Any) -> Any:
    return value
