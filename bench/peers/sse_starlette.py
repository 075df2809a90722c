"""sse-starlette under uvicorn: a queue and an endless generator for every client.

An event is encoded once and yielded as bytes, which the library passes on as they are.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.peers import asgi, door

channels: defaultdict[str, set[asyncio.Queue[bytes]]] = defaultdict(set)


async def stream(request: Request) -> EventSourceResponse:
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    names = request.query_params.getlist("channel")
    for name in names:
        channels[name].add(queue)

    async def blocks() -> AsyncIterator[bytes]:
        try:
            while True:
                yield await queue.get()
        finally:
            for name in names:
                channels[name].discard(queue)

    return EventSourceResponse(blocks())


async def publish(request: Request) -> Response:
    for channel, data in door.events(await request.body()):
        block = ServerSentEvent(data=data.decode(), sep="\n").encode()
        for queue in channels[channel]:
            queue.put_nowait(block)
    return Response(door.ANSWER, media_type="application/json")


app = Starlette(
    routes=[Route("/sse", stream), Route("/api/batch", publish, methods=["POST"])],
)

if __name__ == "__main__":
    asgi.serve(app)
