"""An application with WebSockets of its own beside a hub that lets in whom it knows."""

import asyncio

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from twinwire import Caller, Grants, Hub

heard: list[object] = []
_go = asyncio.Event()


async def authorize(connection: HTTPConnection) -> Grants | None:
    """Users are known by their names, which is for tests alone."""
    user = connection.query_params.get("user")
    if user is None:
        return None
    return Grants(subscribe=(f"user.{user}.>", "news"), publish=("news",), user=user)


hub = Hub(authorize=authorize, connections_per_user=2)


@hub.command("who")
async def who(caller: Caller) -> str:
    return caller.user


async def polite(socket: WebSocket) -> None:
    await socket.accept("two", headers=[(b"x-mood", b"good")])
    try:
        async for text in socket.iter_text():
            await socket.send_text(text)
    except WebSocketDisconnect as gone:
        heard.append([gone.code, gone.reason])
    heard.append("over")


async def count(socket: WebSocket) -> None:
    """Takes one message when it is told to, and says how many bytes have come."""
    await socket.accept()
    await _go.wait()
    size = 0
    while size < 1 << 20:
        size += len(await socket.receive_bytes())
    await socket.send_text(str(size))
    await socket.close(4001, "enough")


async def refuse(socket: WebSocket) -> None:
    await socket.close()


async def respond(socket: WebSocket) -> None:
    response = PlainTextResponse("no, thank you", 418, {"x-mood": "bad"})
    await socket.send_denial_response(response)


async def fail_early(socket: WebSocket) -> None:
    raise RuntimeError("as asked")


async def fail_late(socket: WebSocket) -> None:
    await socket.accept()
    raise RuntimeError("as asked")


async def silent(socket: WebSocket) -> None:
    """Neither opens nor refuses."""


async def leave(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_bytes(b"bye")


async def forge(socket: WebSocket) -> None:
    await socket.accept(headers=[(b"x-a", b"b\r\nx-forged: c")])


async def inside(request: Request) -> JSONResponse:
    return JSONResponse({"heard": heard, "tasks": len(asyncio.all_tasks())})


async def go(request: Request) -> PlainTextResponse:
    _go.set()
    return PlainTextResponse("gone")


app = Starlette(
    routes=[
        *(
            WebSocketRoute(f"/{endpoint.__name__}", endpoint)
            for endpoint in (
                polite, count, refuse, respond, fail_early, fail_late, silent, leave, forge,
            )
        ),
        Route("/inside", inside),
        Route("/go", go),
        Mount("/", hub.app),
    ],
    lifespan=hub.lifespan,
)  # fmt: skip
