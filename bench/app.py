"""The hub that is measured: `twinwire serve --app bench.app:hub`.

With BENCH_STALLS=FILE in the environment it writes down how long the event loop was held: for every
turn of a 5 ms timer that came more than a millisecond late, a line with the time (monotonic, s),
how late (ms) and how much of the processor this thread used since the turn before (ms). What is
late without having used the processor has waited for other programs.

With BENCH_LOOP=NAME it runs on that package's event loop instead of uvicorn's choice.
"""

import asyncio
import importlib
import os
import time
from typing import Any

import uvicorn.config

from twinwire import Hub

_LOOPS = {
    "asyncio": "asyncio:SelectorEventLoop",
    "uvloop": "uvloop:new_event_loop",
}

if loop := os.environ.get("BENCH_LOOP"):
    # It asks for a function that makes the one that makes loops.
    uvicorn.config.LOOP_FACTORIES["auto"] = "bench.app:loop_factory"


def loop_factory(use_subprocess: bool = False) -> Any:
    """For uvicorn: what makes the event loop that BENCH_LOOP names."""
    module, _, name = _LOOPS[os.environ["BENCH_LOOP"]].partition(":")
    return getattr(importlib.import_module(module), name)


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
