"""Applications with a hub mounted in them, behind middleware of different kinds."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from twinwire import Hub
from twinwire.errors import BrokerError


def ready(request: Request) -> Response:
    return PlainTextResponse("yes")


def application(
    *middleware: Middleware, routes: tuple[Route, ...] = (), **settings: Any
) -> Starlette:
    hub = Hub(allow_publish=[">"], **settings)
    return Starlette(
        routes=[Route("/ready", ready), Mount("/live", hub.app), *routes],
        middleware=middleware,
        lifespan=hub.lifespan,
    )


plain = application()
hub = Hub()

# By default it leaves event streams alone.
recoding = application(
    Middleware(GZipMiddleware, exclude_content_types=(), minimum_size=1), compression=False
)


async def dispatch(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    return await call_next(request)


tasks = application(Middleware(BaseHTTPMiddleware, dispatch=dispatch))

_go = asyncio.Event()
_waiting = 0


class Slow:
    """Lets event streams wait until it is told to go on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        global _waiting
        if scope.get("path") == "/live/sse":
            _waiting += 1
            await _go.wait()
            try:
                await self.app(scope, receive, send)
            finally:
                _waiting -= 1
        else:
            await self.app(scope, receive, send)


async def go(request: Request) -> Response:
    _go.set()
    return PlainTextResponse("gone")


async def waiting(request: Request) -> Response:
    return PlainTextResponse(str(_waiting))


slow = application(Middleware(Slow), routes=(Route("/go", go), Route("/waiting", waiting)))


class Unstartable(Hub):
    """Has no broker."""

    async def start(self) -> None:
        raise BrokerError("no broker far and wide")


unstartable = Unstartable()
