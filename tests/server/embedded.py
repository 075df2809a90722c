"""A hub in an application that plain servers run: its streams go through `send()` alone.

The time to drain comes from the environment. `/inside` tells how many streams there are.
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from twinwire import Hub

hub = Hub()


async def inside(request: Request) -> JSONResponse:
    feeds = list(hub.fanout.feeds)
    return JSONResponse({"feeds": len(feeds), "full": sum(feed.sink.full for feed in feeds)})


app = Starlette(
    routes=[Route("/inside", inside), Mount("/", hub.app)],
    lifespan=hub.lifespan,
)
