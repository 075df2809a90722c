"""What the tests of streamed answers serve with `twinwire serve --app tests.web.streams:app`.

Beside the hub there is `/inside`: how many handlers run and have ended, and the memory we take.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from twinwire import CommandError, Hub

hub = Hub()

begun = ended = yielded = 0


@hub.command("count")
async def count(upto: int, size: int = 0) -> AsyncIterator[list[Any]]:
    """Yields numbers with so many bytes beside them, and waits for nothing."""
    global begun, ended, yielded
    begun += 1
    beside = "x" * size
    try:
        for number in range(upto):
            yielded += 1
            yield [number, beside]
    finally:
        ended += 1


@hub.command("wait")
async def wait() -> AsyncIterator[str]:
    """Yields once and then waits for ever."""
    global begun, ended
    begun += 1
    try:
        yield "waiting"
        await asyncio.Event().wait()
    finally:
        ended += 1


@hub.command("break")
async def break_(code: int) -> AsyncIterator[str]:
    """Yields once and fails: with a code of its own, or by accident with 0."""
    yield "so far so good"
    if code:
        raise CommandError(code, "as asked")
    raise RuntimeError("a secret")


@hub.command("add")
async def add(a: int, b: int) -> int:
    return a + b


def memory() -> int:
    """The memory of this process, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def inside(request: Request) -> JSONResponse:
    feeds = list(hub.fanout.feeds)
    return JSONResponse(
        {
            "feeds": len(feeds),
            "full": sum(feed.sink.full for feed in feeds),
            "lanes": len(hub.fanout.lanes),
            "waiting": [feed.sink.waiting() for feed in feeds],
            "begun": begun,
            "ended": ended,
            "yielded": yielded,
            "memory": memory(),
        }
    )


app = Starlette(
    routes=[Route("/inside", inside), Mount("/", hub.app)],
    lifespan=hub.lifespan,
)
