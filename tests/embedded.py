"""Applications with a hub in them, as users write them, for `tests/test_embedding.py`.

Served by our own server, uvicorn, hypercorn and granian.
"""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from twinwire import CommandError, Hub


class Order(BaseModel):
    symbol: str
    amount: Annotated[int, Field(gt=0)]


class Ticket(msgspec.Struct):
    symbol: str
    amount: Annotated[int, msgspec.Meta(gt=0)]


@dataclass
class Slip:
    symbol: str
    amount: int


def new_hub() -> Hub:
    hub = Hub("memory://", allow_publish=["chat.*"], heartbeat=0.2, drain_time=0.2)

    @hub.command("model")
    async def model(order: Order) -> Order:
        return order

    @hub.command("struct")
    async def struct(ticket: Ticket) -> Ticket:
        return ticket

    @hub.command("data")
    async def data(slip: Slip) -> Slip:
        return slip

    @hub.command("several")
    async def several(symbol: str, amount: int = 1) -> list[Any]:
        return [symbol, amount]

    @hub.command("plain")
    def plain(symbol: str) -> str:
        return symbol * 2

    @hub.command("refuse")
    async def refuse() -> None:
        raise CommandError(1001, "not today", temporary=True)

    @hub.command("crash")
    async def crash() -> None:
        raise RuntimeError("as asked")

    @hub.command("hang")
    async def hang() -> None:
        await hub.publish("hang", "begun")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await hub.publish("hang", "cancelled")
            raise

    @hub.command("count")
    async def count(up_to: int) -> Any:
        for n in range(up_to):
            yield n

    return hub


fast_hub = new_hub()
fast = FastAPI(lifespan=fast_hub.lifespan)
fast.mount("/live", fast_hub.app)


@fast.get("/ready")
async def ready() -> dict[str, bool]:
    return {"running": fast_hub.running}


@fast.post("/orders/{symbol}")
async def order(symbol: str) -> dict[str, str]:
    """A route of the application's own that publishes."""
    return {"position": str(await fast_hub.publish(f"orders.{symbol}", {"symbol": symbol}))}


def application(*middleware: Middleware) -> Starlette:
    hub = new_hub()

    async def ready(request: Request) -> Response:
        return PlainTextResponse("yes" if hub.running else "no")

    async def order(request: Request) -> Response:
        symbol = request.path_params["symbol"]
        return JSONResponse(
            {"position": str(await hub.publish(f"orders.{symbol}", {"symbol": symbol}))}
        )

    return Starlette(
        routes=[
            Route("/ready", ready),
            Route("/orders/{symbol}", order, methods=["POST"]),
            Mount("/live", hub.app),
        ],
        middleware=middleware,
        lifespan=hub.lifespan,
    )


star = application()
wrapped = application(
    Middleware(CORSMiddleware, allow_origins=["https://page.example"]),
    Middleware(GZipMiddleware, minimum_size=1, exclude_content_types=()),
)
bare = fast_hub.app
