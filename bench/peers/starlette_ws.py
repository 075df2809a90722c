"""Starlette WebSockets under uvicorn: who publishes sends to each client of the channel in turn."""

from __future__ import annotations

from collections import defaultdict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from bench.peers import asgi, door

channels: defaultdict[str, set[WebSocket]] = defaultdict(set)


async def stream(websocket: WebSocket) -> None:
    names = websocket.query_params.getlist("channel")
    for name in names:
        channels[name].add(websocket)
    await websocket.accept()
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        pass
    finally:
        for name in names:
            channels[name].discard(websocket)


async def publish(request: Request) -> Response:
    for channel, data in door.events(await request.body()):
        text = data.decode()
        for websocket in list(channels[channel]):
            await websocket.send_text(text)
    return Response(door.ANSWER, media_type="application/json")


app = Starlette(
    routes=[WebSocketRoute("/ws", stream), Route("/api/batch", publish, methods=["POST"])],
)

if __name__ == "__main__":
    asgi.serve(app)
