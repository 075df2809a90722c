"""uWebSockets through socketify: its topics and its `publish`; Python only hands events over."""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import parse_qs

from socketify import App, AppListenOptions, CompressOptions, OpCode

from bench.peers import door

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


async def publish(response: Any, request: Any) -> None:
    body = await response.get_data()
    for channel, data in door.events(body.getvalue()):
        app.publish(channel, data, OpCode.TEXT)
    response.end(door.ANSWER)


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
app.post("/api/batch", publish)

if __name__ == "__main__":
    app.listen(AppListenOptions(port=int(sys.argv[1]), host="127.0.0.1"))
    app.run()
