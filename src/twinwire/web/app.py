"""The ASGI application of a hub: which path is served by whom."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from twinwire.hub import Hub
from twinwire.web.admission import Admission, why_later
from twinwire.web.answers import answer, later
from twinwire.web.api import Api
from twinwire.web.echo import echo
from twinwire.web.sse import SseEndpoint
from twinwire.web.websocket import WebSocketEndpoint


def build(hub: Hub) -> ASGIApp:
    """The application. It has no lifespan of its own: the hub is started by whoever runs it."""

    async def health(request: Request) -> Response:
        return answer({})

    async def ready(request: Request) -> Response:
        why = why_later(hub)
        return answer({}) if why is None else later(str(why))

    admission = Admission(hub)
    websocket = WebSocketEndpoint(hub, admission)
    routes: list[Route | WebSocketRoute] = [
        Route("/sse", SseEndpoint(hub, admission)),
        Route("/api/{method}", Api(hub)),
        Route("/health", health),
        Route("/ready", ready),
    ]
    for path in ("/ws", "/connection/websocket"):
        routes += [WebSocketRoute(path, websocket), Route(path, _no_websocket)]
    if hub.settings.echo:
        routes += [WebSocketRoute("/echo", _raw(echo)), Route("/echo", _no_websocket)]
    return Router(routes)


async def _no_websocket(request: Request) -> Response:
    return PlainTextResponse(
        f"{request.url.path} speaks WebSocket: open it with a WebSocket client, "
        "or listen over HTTP at /sse.\n",
        400,
    )


def _raw(app: ASGIApp) -> ASGIApp:
    """`app` as an object that the router takes for an ASGI application, not for an endpoint."""

    class Raw:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope, receive, send)

    return Raw()
