"""The measurements, each on one wire against one server; each returns what it has found.

An event's age counts from when it was due. What the clock of this process itself is late by, up to
2 ms, is not charged to anybody: the timers of event loops are no better.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

import msgspec

from twinwire.compare import speak
from twinwire.compare.app import COMMAND
from twinwire.compare.asking import Caller, Poster
from twinwire.compare.connections import PATIENCE, Dialer, Listener, Listeners, Tally, now_ns
from twinwire.compare.figures import Wire
from twinwire.compare.own import Process
from twinwire.compare.speak import NotOpened, SocketOpening, StreamOpening
from twinwire.core.event import Position

MISSED: Final = 1_000
"""Events of a replay."""

BATCH: Final = 20
"""Events of one POST, where they come in batches."""

_HEARTBEATS: Final = 3

_LATE_NS: Final = 2_000_000


class Door:
    """A server, the channel to use there, and a connection to publish over."""

    def __init__(self, dialer: Dialer, channel: str, api_key: str | None) -> None:
        self.dialer = dialer
        self.channel = channel
        self.poster = Poster(dialer, api_key)
        self._api_key = api_key

    def opening(
        self, wire: Wire, *, after: Position | None = None, latest: bool = False
    ) -> StreamOpening | SocketOpening:
        """What a client begins with."""
        target = self.dialer.target
        if wire == "sse":
            request = speak.get_stream(target, self.channel, after=after, latest=latest)
            return StreamOpening(request)
        commands = speak.subscribing(self.channel, after=after, latest=latest)
        return SocketOpening(speak.get_socket(target), commands)

    async def publish(self, stamp: int | None = None) -> Position:
        """Publish one event. Raises `Unreachable`, `Refused` and `NotOpened`."""
        body = speak.publication(self.channel, now_ns() if stamp is None else stamp)
        return speak.position(await self.poster.post("publish", body))

    async def publish_many(self, count: int, stamp: int | None = None) -> Position:
        """Publish `count` events in one request; the position of the last."""
        body = speak.batch(self.channel, now_ns() if stamp is None else stamp, count)
        return speak.position(await self.poster.post("batch", body))

    def another_poster(self) -> Poster:
        """One more connection to publish over."""
        return Poster(self.dialer, self._api_key)


async def try_out(door: Door, wire: Wire, patience: float = 5.0) -> None:
    """Raises `NotOpened` if nothing comes over the wire; `Unreachable` and `Refused` if nothing can
    be published."""
    tally = Tally(1)
    listener = await door.dialer.listen(door.opening(wire), tally)
    try:
        await door.publish()
        if not await tally.wait(patience):
            raise NotOpened(
                0,
                f"an event that was published did not come within {patience:g} s: something on "
                "the way holds the stream back",
            )
    finally:
        listener.close()


class Connects(NamedTuple):
    """Of each connection the ms until it was live, and the bytes until then, both ways."""

    times: list[float]
    sizes: list[float]


async def connects(door: Door, wire: Wire, count: int) -> Connects:
    """Connect, one client after another."""
    times: list[float] = []
    sizes: list[float] = []
    for _ in range(count):
        begun = time.perf_counter()
        listener = await door.dialer.listen(door.opening(wire), Tally(0))
        times.append((time.perf_counter() - begun) * 1000)
        sizes.append(listener.received + listener.sent)
        await _gone(listener)
    return Connects(times, sizes)


async def _gone(listener: Listener) -> None:
    # The server takes note of the end before the next one comes.
    listener.close()
    await asyncio.sleep(0.002)


async def snapshots(door: Door, wire: Wire, count: int) -> list[float]:
    """Connect and take the latest event; the ms of each."""
    await door.publish()
    times = []
    for _ in range(count):
        tally = Tally(1)
        begun = time.perf_counter()
        listener = await door.dialer.listen(door.opening(wire, latest=True), tally)
        if not await tally.wait():
            raise NotOpened(0, "the latest event did not come")
        times.append((time.perf_counter() - begun) * 1000)
        await _gone(listener)
    return times


async def singles(door: Door, wire: Wire, count: int) -> list[float]:
    """Publish to one client, one event at a time; the ms of each."""
    tally = Tally(1)
    listener = await door.dialer.listen(door.opening(wire), tally)
    times: list[float] = []
    try:
        for _ in range(count):
            listener.tally = tally = Tally(1)
            await door.publish()
            if not await tally.wait():
                raise NotOpened(0, "a published event did not come")
            times.append(tally.ages[0])
            await asyncio.sleep(0.002)
    finally:
        listener.close()
    return times


class Replay(NamedTuple):
    """The ms that it took, and the bytes that came."""

    time: float
    size: float


async def missed(door: Door) -> Position:
    """Publish `MISSED` events; the position before them."""
    after = await door.publish()
    for _ in range(0, MISSED, BATCH):
        await door.publish_many(BATCH)
    return after


async def replay(door: Door, wire: Wire, after: Position) -> Replay:
    """Come back to a position since which `MISSED` events have come, or more."""
    tally = Tally(MISSED)
    begun = time.perf_counter()
    listener = await door.dialer.listen(door.opening(wire, after=after), tally)
    if not await tally.wait():
        raise NotOpened(0, f"of {MISSED} missed events {len(tally.ages)} were replayed")
    found = Replay((time.perf_counter() - begun) * 1000, listener.received)
    await _gone(listener)
    return found


class Load(NamedTuple):
    """A fan-out: latencies in ms, what should have come, and what it has cost."""

    ages: Sequence[float]
    expected: int
    size: float
    """Bytes per event, of the middle client."""
    segments: float | None
    server_cpu: float | None
    """Seconds."""
    busy: float
    """The part of a core that this process used."""


async def fan_out(
    door: Door,
    clients: Listeners,
    process: Process | None,
    *,
    rate: float,
    seconds: float,
    batch: int = 1,
) -> Load:
    """Publish `rate` times a second, `batch` events each time, to clients that are live."""
    count = max(1, round(rate * seconds))
    tally = Tally(count * batch * len(clients.all))
    clients.expect(tally)
    segments = [listener.segments() for listener in clients.all]
    server = process.cpu_seconds() if process and process.visible else None
    wall, own = time.perf_counter(), time.process_time()
    posters = [door.another_poster() for _ in range(4)]
    try:
        await _publish(posters, door.channel, count, 1 / rate, batch)
        await tally.wait()
        wall, own = time.perf_counter() - wall, time.process_time() - own
    finally:
        for poster in posters:
            poster.close()
    counted = [
        (now - before) / (count * batch)
        for before, listener in zip(segments, clients.all, strict=True)
        if before is not None and (now := listener.segments()) is not None
    ]
    return Load(
        ages=tally.ages,
        expected=tally.total,
        size=median(listener.received for listener in clients.all) / (count * batch),
        segments=median(counted) if counted else None,
        server_cpu=None if server is None or process is None else process.cpu_seconds() - server,
        busy=own / wall,
    )


async def _publish(
    posters: list[Poster], channel: str, count: int, period: float, batch: int
) -> None:
    """Publish at fixed times, over several connections: one slow answer must not delay the next."""
    waiting: set[asyncio.Task[bytes]] = set()
    free = list(posters)
    begun = now_ns()
    try:
        for n in range(count):
            due = begun + int(n * period * 1e9)
            if (wait := (due - now_ns()) / 1e9) > 0:
                await asyncio.sleep(wait)
            while not free:
                done, waiting = await asyncio.wait(
                    waiting, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE
                )
                for task in done:
                    speak.position(task.result())
            now = now_ns()
            born = now if now - due < _LATE_NS else due
            poster = free.pop()
            body = (
                speak.publication(channel, born)
                if batch == 1
                else speak.batch(channel, born, batch)
            )
            task = asyncio.create_task(poster.post("publish" if batch == 1 else "batch", body))
            task.add_done_callback(functools.partial(_freed, free, poster))
            waiting.add(task)
        for answer in await asyncio.gather(*waiting):
            speak.position(answer)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _freed(free: list[Poster], poster: Poster, _: object) -> None:
    free.append(poster)


async def posts(door: Door, count: int, *, fresh: bool = False) -> list[float]:
    """Publish by POST, one after another, on one connection or on a fresh one each; in ms."""
    times = []
    poster = door.another_poster()
    try:
        for _ in range(count):
            if fresh:
                poster.close()
                poster = door.another_poster()
            begun = time.perf_counter()
            speak.position(await poster.post("publish", speak.publication(door.channel, now_ns())))
            times.append((time.perf_counter() - begun) * 1000)
    finally:
        poster.close()
    return times


class Calls(NamedTuple):
    """Round trips in ms: a command, and a publish unless it is `refused`."""

    commands: list[float]
    publishes: list[float]
    refused: str


async def calls(door: Door, count: int) -> Calls:
    """Call a command and publish over a WebSocket, one after another.

    A server without our command answers that it has none, after the same way there and back.
    """
    call = b'"rpc":{"method":"%b","data":%b}' % (
        COMMAND.encode(), msgspec.json.encode({"text": "hello"}),
    )  # fmt: skip
    caller = await Caller.open(door.dialer)
    commands, publishes, refused = [], [], ""
    try:
        for _ in range(count):
            begun = time.perf_counter()
            await caller.call(call)
            commands.append((time.perf_counter() - begun) * 1000)
        for _ in range(count):
            publish = b'"publish":' + speak.publication(door.channel, now_ns())
            begun = time.perf_counter()
            answer = await caller.call(publish)
            publishes.append((time.perf_counter() - begun) * 1000)
            if b'"error"' in answer:
                refused = "clients may not publish here (allow_publish)"
                break
    finally:
        caller.close()
    return Calls(commands, publishes, refused)


async def heartbeat(door: Door, wire: Wire, enough: asyncio.Event) -> float | None:
    """Bytes of a heartbeat, both ways; None if there was none before there was `enough`."""
    listener = await door.dialer.listen(door.opening(wire), Tally(0))
    before = listener.sent
    try:
        while len(listener.pieces) < _HEARTBEATS and not enough.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await enough.wait()
        if not listener.pieces:
            return None
        return median(listener.pieces) + (listener.sent - before) / len(listener.pieces)
    finally:
        listener.close()
