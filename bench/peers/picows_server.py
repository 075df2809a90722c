"""picows with its core API, on uvloop: one `send` for every client of the channel."""

from __future__ import annotations

import sys
from collections import defaultdict
from urllib.parse import parse_qs, urlsplit

import uvloop
from picows import WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from bench.peers.door import open_door
from bench.peers.support import DOOR

channels: defaultdict[str, set[WSTransport]] = defaultdict(set)


class Stream(WSListener):  # type: ignore[misc]
    def __init__(self, request: WSUpgradeRequest) -> None:
        self._names = parse_qs(urlsplit(request.path.decode()).query)["channel"]

    def on_ws_connected(self, transport: WSTransport) -> None:
        for name in self._names:
            channels[name].add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        for name in self._names:
            channels[name].discard(transport)


def publish(channel: str, data: bytes) -> None:
    for transport in channels[channel]:
        transport.send(WSMsgType.TEXT, data)


async def main(port: int) -> None:
    await open_door(port + DOOR, publish)
    server = await ws_create_server(Stream, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
