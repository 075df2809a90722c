"""uWebSockets through socketify: its topics and its `publish`; Python only hands events over."""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import parse_qs

from socketify import App, AppListenOptions, CompressOptions, OpCode

from bench.peers.door import open_door
from bench.peers.support import DOOR

app = App()


def upgrade(response: Any, request: Any, context: Any) -> None:
    response.upgrade(
        request.get_header("sec-websocket-key"),
        request.get_header("sec-websocket-protocol"),
        request.get_header("sec-websocket-extensions"),
        context,
        parse_qs(request.get_full_url().partition("?")[2])["channel"],
    )


def opened(socket: Any) -> None:
    for name in socket.get_user_data():
        socket.subscribe(name)


def publish(channel: str, data: bytes) -> None:
    app.publish(channel, data, OpCode.TEXT)


app.ws(
    "/ws",
    {
        "compression": CompressOptions.DISABLED,
        "max_backpressure": 64 << 20,
        "idle_timeout": 120,
        "upgrade": upgrade,
        "open": opened,
    },
)

if __name__ == "__main__":
    # socketify's own HTTP loses the response while it waits for a body.
    app.loop.loop.run_until_complete(open_door(int(sys.argv[1]) + DOOR, publish))
    app.listen(AppListenOptions(port=int(sys.argv[1]), host="127.0.0.1"))
    app.run()
