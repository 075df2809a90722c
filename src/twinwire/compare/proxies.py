"""Proxies that do what proxies do to streams when nobody has told them otherwise, and our client
behind each.

nginx as it is installed buffers answers, but heeds `X-Accel-Buffering: no`, which the server sends,
and passes no `Upgrade`. Others buffer and heed nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import AsyncGenerator
from typing import Final, NamedTuple

import msgspec

from twinwire.client import Connected, Disconnected, Event, subscribe
from twinwire.compare.connections import now_ns
from twinwire.compare.figures import WIRES, Passage, Wire
from twinwire.compare.speak import Target
from twinwire.compare.stages import Door
from twinwire.errors import TwinwireError

HOLD: Final = 8 * 1024
"""Bytes that a buffering proxy waits for: two pages, as much as nginx takes for an answer's
beginning."""

RATE: Final = 40.0
"""Events a second that are published to those behind the proxies."""

HEARTBEAT: Final = 0.6
"""Seconds between the heartbeats of a server of our own behind the proxies: 15 and 25 as a rule,
and nobody would wait for a client that misses them."""

_CONNECTING: Final = 5.0

_HELD: Final = 0.5
"""Seconds of delay that no proxy makes by being one more station on the way."""

_PIECE: Final = 64 * 1024


class Kind(NamedTuple):
    """What a proxy does: hold answers back, unless the answer asks it not to; pass `Upgrade`."""

    name: str
    holds: bool
    heeds: bool
    upgrades: bool


KINDS: Final = (
    Kind("passes everything", holds=False, heeds=True, upgrades=True),
    Kind("buffers but heeds X-Accel-Buffering", holds=True, heeds=True, upgrades=True),
    Kind("buffers and heeds nothing", holds=True, heeds=False, upgrades=True),
    Kind("does not pass Upgrade", holds=False, heeds=True, upgrades=False),
)


class Proxy:
    """An HTTP/1.1 proxy before one target, on loopback."""

    def __init__(self, target: Target, kind: Kind) -> None:
        self._target = target
        self._kind = kind
        self._tls = ssl.create_default_context() if target.secure else None
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator[str]:
        """The URL to come in by, until the end of the block."""
        server = await asyncio.start_server(self._come_in, "127.0.0.1", 0)
        try:
            port = server.sockets[0].getsockname()[1]
            yield f"http://127.0.0.1:{port}{self._target.prefix}"
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _come_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._pass_on(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            question = await reader.readuntil(b"\r\n\r\n")
            upstream, upwriter = await asyncio.open_connection(
                self._target.host,
                self._target.port,
                ssl=self._tls,
                server_hostname=self._target.host if self._tls else None,
            )
            ends.append(upwriter)
            upwriter.write(asked(question, self._target.authority, self._kind))
            back = asyncio.create_task(self._answer(upstream, writer))
            forth = asyncio.create_task(_copy(reader, upwriter))
            # Whoever ends the connection ends it for both.
            await asyncio.wait((back, forth), return_when=asyncio.FIRST_COMPLETED)
            for task in (back, forth):
                task.cancel()
            await asyncio.gather(back, forth, return_exceptions=True)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            for end in ends:
                end.close()

    async def _answer(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await upstream.readuntil(b"\r\n\r\n")
        if not holds(head, self._kind):
            writer.write(head)
            return await _copy(upstream, writer)
        held = head
        while piece := await upstream.read(_PIECE):
            held += piece
            if len(held) >= HOLD:
                writer.write(held)
                held = b""
        writer.write(held)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()


def asked(question: bytes, authority: str, kind: Kind) -> bytes:
    """The head of a request as the proxy passes it on."""
    lines = question.split(b"\r\n")
    # Both are for one hop only (RFC 9110, section 7.6.1): a proxy that is not told drops them.
    dropped = {b"host"} if kind.upgrades else {b"host", b"upgrade", b"connection"}
    kept = [line for line in lines if line.partition(b":")[0].lower() not in dropped]
    kept.insert(1, b"Host: " + authority.encode())
    return b"\r\n".join(kept)


def holds(head: bytes, kind: Kind) -> bool:
    """Whether the proxy holds the answer with this head back."""
    # What has a length has an end, and is passed on then: only streams are at stake.
    ends = re.search(rb"\r\ncontent-length:", head, re.IGNORECASE)
    if not kind.holds or ends or re.match(rb"HTTP/1\.1 101", head):
        return False
    asks = re.search(rb"\r\nx-accel-buffering: *no", head, re.IGNORECASE)
    return not (kind.heeds and asks)


async def passages(door: Door, seconds: float, silence: float) -> list[Passage]:
    """Publish for a while to our client behind each proxy over each wire, all at the same time.

    `silence` is for how many seconds the clients wait for a sign of life.
    """
    found: list[Passage] = []
    async with contextlib.AsyncExitStack() as stack:
        places = [
            (kind, await stack.enter_async_context(Proxy(door.dialer.target, kind).open()))
            for kind in KINDS
        ]
        tasks, waiting = [], []
        for kind, url in places:
            for wire in WIRES:
                passage = Passage(kind.name, wire, "passed")
                found.append(passage)
                ready = asyncio.Event()
                if not (wire == "sse" and kind.holds and not kind.heeds):
                    # Of a stream that is held back, the beginning is too.
                    waiting.append(ready)
                work = _follow(url, door.channel, wire, passage, silence, ready)
                tasks.append(asyncio.create_task(work))
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CONNECTING):
                    await asyncio.gather(*(ready.wait() for ready in waiting))
            begun = now_ns()
            count = max(1, round(seconds * RATE))
            for n in range(count):
                due = begun + int(n / RATE * 1e9)
                await asyncio.sleep(max(0.0, (due - now_ns()) / 1e9))
                await door.publish()
            # What is held is held on, until the client has had enough.
            await asyncio.sleep(min(silence, 2.0) + 0.5)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    for passage in found:
        passage.published = count
        passage.points = [(when - begun / 1e9, delay) for when, delay in passage.points]
        if passage.outcome != "refused" and (
            len(passage.points) < count or passage.longest > _HELD
        ):
            passage.outcome = "held"
    return found


async def _follow(
    url: str, channel: str, wire: Wire, passage: Passage, silence: float, ready: asyncio.Event
) -> None:
    try:
        async with subscribe(url, [channel], wire=wire, silence=silence) as subscription:
            async for item in subscription:
                now = time.perf_counter_ns()
                if isinstance(item, Event):
                    born = int(msgspec.json.decode(item.data, type=dict[str, object])["t"])  # type: ignore[call-overload]
                    passage.points.append((born / 1e9, (now - born) / 1e9))
                elif isinstance(item, Disconnected):
                    passage.said.append(item.why)
                elif isinstance(item, Connected):
                    ready.set()
    except TwinwireError as error:
        passage.outcome = "refused"
        passage.said.append(re.sub(r"(http|ws)://127\.0\.0\.1:\d+", r"\1://proxy", str(error)))
    finally:
        ready.set()
