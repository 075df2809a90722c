"""The publisher's door, for servers that are measured through libraries of other makers.

Events come as our own API takes them, `{"commands":[{"publish":{"channel":…,"data":…}},…]}`, so
that the load client publishes alike everywhere. A library without an HTTP server of its own gets a
small one beside it, on the same event loop.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import cast

import msgspec

Publish = Callable[[str, bytes], None]
"""Takes a channel and an event's data, as JSON."""

ANSWER = b'{"replies":[]}'
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER)

_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class _Publish(msgspec.Struct):
    channel: str
    data: msgspec.Raw


class _Command(msgspec.Struct):
    publish: _Publish


class _Batch(msgspec.Struct):
    commands: list[_Command]


_decoder = msgspec.json.Decoder(_Batch)


def events(body: bytes) -> list[tuple[str, bytes]]:
    """Channel and data of each event of a batch."""
    commands = _decoder.decode(body).commands
    return [(command.publish.channel, bytes(command.publish.data)) for command in commands]


class Door(asyncio.Protocol):
    """`POST`, one request after the other."""

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._read = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (body := self._next_body()) is not None:
            for channel, event in events(body):
                self._publish(channel, event)
            self._transport.write(RESPONSE)

    def _next_body(self) -> bytes | None:
        head = self._read.find(_HEAD_END)
        if head < 0:
            return None
        begin = head + len(_HEAD_END)
        length = _LENGTH.search(self._read, 0, head)
        end = begin + int(length[1]) if length else begin
        if len(self._read) < end:
            return None
        body = bytes(self._read[begin:end])
        del self._read[:end]
        return body


async def open_door(port: int, publish: Publish) -> None:
    """Take events on the port, on this event loop."""
    await asyncio.get_running_loop().create_server(lambda: Door(publish), "127.0.0.1", port)
