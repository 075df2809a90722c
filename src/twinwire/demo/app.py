"""The demo's application, and an example: a hub in an application, in few lines.

What it shows: a hub mounted in Starlette, a task that publishes into it, a command, and a page.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from twinwire.demo.market import Tick
from twinwire.embed import Hub

_PAGE = Path(__file__).with_name("page")


def build(hub: Hub, ticks: Iterator[Tick], started: Callable[[], None] = lambda: None) -> Starlette:
    """An application that publishes `ticks` and shows them; calls `started` when it does."""

    @hub.command("echo")
    async def echo(text: str) -> str:
        return text

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with hub:
            market = asyncio.create_task(play(hub, ticks))
            started()
            try:
                yield
            finally:
                market.cancel()
                with suppress(asyncio.CancelledError):
                    await market

    async def page(request: Request) -> Response:
        # The page has all it needs from here, and the browser sees to it that it stays so.
        policy = {"Content-Security-Policy": "default-src 'self'"}
        return FileResponse(_PAGE / "index.html", headers=policy)

    routes = [
        Route("/", page),
        Mount("/page", StaticFiles(directory=_PAGE)),
        # Last, since it takes every path: /sse, /ws, /api/…
        Mount("/", hub.app),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


async def play(hub: Hub, ticks: Iterator[Tick]) -> None:
    """Publish each tick when it is due."""
    clock = asyncio.get_running_loop().time
    begun = clock()
    for tick in ticks:
        await asyncio.sleep(begun + tick.at - clock())
        quote = {"bid": tick.bid, "ask": tick.ask}
        await hub.publish(tick.channel, quote, key=tick.symbol, tags={"source": tick.source})
