"""An HTTP server that does to each request what a test wants, which no good server would.

async with OddServer(answer(503), hang_up, answer(200, body)) as server:
    ...
    server.bodies  # what came, request by request
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import msgspec

Act: TypeAlias = Callable[[bytes, asyncio.StreamWriter], Awaitable[bool]]
"""Does something about a request's body; whether the connection goes on."""


def answer(status: int, body: bytes = b"", **headers: str) -> Act:
    """Answer with these; underscores in headers' names are dashes."""

    async def act(_: bytes, writer: asyncio.StreamWriter) -> bool:
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()
        return True

    return act


async def hang_up(_: bytes, writer: asyncio.StreamWriter) -> bool:
    """Say nothing and close."""
    return False


async def publish(body: bytes, writer: asyncio.StreamWriter) -> bool:
    """Answer a batch as a server would; an event whose data is "bad" is refused."""
    replies = [
        {"error": {"code": 107, "message": "bad event"}}
        if data == "bad"
        else {"publish": {"offset": 1 if data is None else data, "epoch": "7"}}
        for data in events(body)
    ]
    return await answer(200, msgspec.json.encode({"replies": replies}))(body, writer)


def after(gate: asyncio.Event, act: Act) -> Act:
    """`act`, once the gate is open."""

    async def waiting(body: bytes, writer: asyncio.StreamWriter) -> bool:
        await gate.wait()
        return await act(body, writer)

    return waiting


def only_up_to(size: int) -> Act:
    """Publish, but refuse a body of more than `size` bytes."""

    async def act(body: bytes, writer: asyncio.StreamWriter) -> bool:
        if len(body) > size:
            message = b'{"error":{"code":106,"message":"too large"}}'
            return await answer(413, message)(body, writer)
        return await publish(body, writer)

    return act


def events(body: bytes) -> list[object]:
    """The data of each event of a batch."""
    return [each["publish"]["data"] for each in msgspec.json.decode(body)["commands"]]


class OddServer:
    """Does each act once, in their order, and the last one to all further requests."""

    def __init__(self, *acts: Act) -> None:
        self.bodies: list[bytes] = []
        self._acts = list(acts)
        self._arrived = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def arrived(self, count: int) -> None:
        """Wait until so many requests have come."""
        while len(self.bodies) < count:
            self._arrived.clear()
            await self._arrived.wait()

    async def __aenter__(self) -> "OddServer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                fields = dict(
                    line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:-2]
                )
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                self.bodies.append(body)
                self._arrived.set()
                act = self._acts.pop(0) if len(self._acts) > 1 else self._acts[0]
                if not await act(body, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()
