"""Two nodes of one hub, served with `twinwire serve --app tests.web.nodes:app`.

They are at `/one` and `/two`; `/deep` is a hub by itself whose memory is short, but not its
broker's. A client is who it says: `?user=ada`. `/do/...` does what happens to
nodes: `cut`, `mend` and `forget` take `node`, `tell` takes `notice`.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from tests.brokers.deep import DeepBroker
from tests.together import Together
from twinwire import Grants, Hub, Position

together = Together()


async def authorize(connection: HTTPConnection) -> Grants | None:
    user = connection.query_params.get("user", "")
    if user == "nobody":
        return None
    info = connection.query_params.get("info")
    return Grants(
        subscribe=("rooms.>", "plain.>"),
        publish=("rooms.>",),
        user=user,
        info=None if info is None else json.loads(info),
    )


SETTINGS: dict[str, Any] = {
    "authorize": authorize,
    "presence_beat": 0.1,
    "presence_members": 20,
    "channels": [
        {"pattern": "rooms.closed.>"},
        {"pattern": "rooms.>", "presence": True},
    ],
}

hubs = {
    "one": together.hub(node_name="one", **SETTINGS),
    "two": together.hub(node_name="two", **SETTINGS),
    "deep": Hub(DeepBroker(), log_events=3, **SETTINGS),
}


def chosen(request: Request) -> Hub:
    return hubs[request.query_params["node"]]


async def cut(request: Request) -> Response:
    """The others do not hear of this node, nor this one of them."""
    together.cut(chosen(request))
    return Response()


async def mend(request: Request) -> Response:
    together.mend(chosen(request))
    return Response()


async def forget(request: Request) -> Response:
    """The node's broker says that the log is another one: whoever is connected has a gap."""
    hub = chosen(request)
    hub.fanout.restart(Position(hub.log.epoch + 1, 0), ())
    return Response()


async def tell(request: Request) -> Response:
    """Somebody else uses the same channel for notices."""
    together.tell(request.query_params["notice"].encode())
    return Response()


async def inside(request: Request) -> Response:
    """What the outside cannot see of a node: members and listeners."""
    hub = chosen(request)
    members: dict[str, Any] = hub.nodes._roster._me.members
    return JSONResponse(
        {
            "members": sum(map(len, members.values())),
            "listeners": sum(map(len, hub.nodes._listeners.values())),
            "feeds": len(hub.fanout.feeds),
            "version": hub.nodes._roster._me.version,
            "memory": hub.nodes.memory,
        }
    )


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with hubs["one"].lifespan(), hubs["two"].lifespan(), hubs["deep"].lifespan():
        yield


app = Starlette(
    routes=[
        Route("/do/cut", cut, methods=["POST"]),
        Route("/do/mend", mend, methods=["POST"]),
        Route("/do/forget", forget, methods=["POST"]),
        Route("/do/tell", tell, methods=["POST"]),
        Route("/inside", inside),
        Mount("/one", hubs["one"].app),
        Mount("/two", hubs["two"].app),
        Mount("/deep", hubs["deep"].app),
        Mount("/", hubs["one"].app),
    ],
    lifespan=lifespan,
)
