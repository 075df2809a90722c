"""The websockets library and its `broadcast`, on uvloop, without compression."""

from __future__ import annotations

import sys
from collections import defaultdict
from urllib.parse import parse_qs, urlsplit

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

from bench.peers.door import open_door
from bench.peers.support import DOOR

channels: defaultdict[str, set[ServerConnection]] = defaultdict(set)


async def stream(connection: ServerConnection) -> None:
    assert connection.request is not None
    names = parse_qs(urlsplit(connection.request.path).query)["channel"]
    for name in names:
        channels[name].add(connection)
    try:
        await connection.wait_closed()
    finally:
        for name in names:
            channels[name].discard(connection)


def publish(channel: str, data: bytes) -> None:
    broadcast(channels[channel], data.decode())


async def main(port: int) -> None:
    await open_door(port + DOOR, publish)
    async with serve(stream, "127.0.0.1", port, compression=None, backlog=4096) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
