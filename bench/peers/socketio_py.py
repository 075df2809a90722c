"""python-socketio under uvicorn: a room for every channel, WebSocket from the start."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import msgspec
import socketio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.peers import asgi, door

server = socketio.AsyncServer(async_mode="asgi", transports=["websocket"])


async def connect(sid: str, environ: dict[str, Any]) -> None:
    for name in parse_qs(environ["QUERY_STRING"])["channel"]:
        await server.enter_room(sid, name)


server.on("connect", connect)


async def publish(request: Request) -> Response:
    for channel, data in door.events(await request.body()):
        await server.emit("event", msgspec.json.decode(data), room=channel)
    return Response(door.ANSWER, media_type="application/json")


app = socketio.ASGIApp(server, Starlette(routes=[Route("/api/batch", publish, methods=["POST"])]))

if __name__ == "__main__":
    asgi.serve(app)
