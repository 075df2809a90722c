"""What the web tests serve with `twinwire serve --app tests.web.app:app`.

A hub with everything switched on, and beside it `/inside`, which tells what the outside cannot see.
"""

import asyncio
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from twinwire import Caller, CommandError, Hub

hub = Hub(
    echo=True,
    allow_subscribe=["open.>", "*", "forged.>"],
    allow_publish=["open.>"],
    channels=[{"pattern": "open.short.*", "log_events": 3}],
    retry=2.0,
    write_high=65536,
    request_max_bytes=65536,
    event_max_bytes=16384,
    publish_ahead=1024,
    commands_per_second=100_000,
)


@hub.command("add")
async def add(a: int, b: int) -> int:
    return a + b


@hub.command("text")
async def text(channel: str, text: str) -> str:
    """Publishes plain text, which the HTTP API cannot: there a string is JSON."""
    return str(await hub.publish(channel, text))


@hub.command("who")
async def who(caller: Caller) -> str:
    return caller.client


@hub.command("fail")
async def fail(code: int) -> None:
    raise CommandError(code, "as asked")


@hub.command("crash")
async def crash() -> None:
    raise RuntimeError("as asked")


@hub.command("hang")
async def hang(channel: str) -> None:
    """Says on the channel that it has begun, and that it was cancelled."""
    await hub.publish(channel, "begun")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await hub.publish(channel, "cancelled")
        raise


async def heard(caller: Caller, data: bytes) -> None:
    if data == b'"hang"':
        await asyncio.Event().wait()
    await hub.publish("open.heard", {"from": caller.client, "text": data.decode()})


hub.on_message = heard


async def inside(request: Request) -> JSONResponse:
    """How many streams there are, which are behind, and how much waits to be written to each."""
    feeds = list(hub.fanout.feeds)
    waiting: list[Any] = [feed.sink.waiting() for feed in feeds if feed.sink.waiting() is not None]
    return JSONResponse(
        {
            "feeds": len(feeds),
            "full": sum(feed.sink.full for feed in feeds),
            "lanes": len(hub.fanout.lanes),
            "waiting": waiting,
            "tasks": len(asyncio.all_tasks()),
        }
    )


app = Starlette(
    routes=[Route("/inside", inside), Mount("/", hub.app)],
    lifespan=hub.lifespan,
)
