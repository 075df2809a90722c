"""What one event costs inside of the server, without sockets: `python -m bench.log`.

Memory is what a process has grown by with so many retained events, less their data. Times are
medians of repetitions in this process, of its CPU time, in microseconds an event.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from twinwire import Hub
from twinwire.core.event import Draft, Event, Position, draft
from twinwire.core.feed import Feed, Mode, Start
from twinwire.core.lane import Lanes
from twinwire.core.log import Log, Retention
from twinwire.core.wire import Wire
from twinwire.web.api import Api
from twinwire.wires import centrifuge_json, sse

EPOCH = 1_763_800_000_000
TICK = Raw(b'{"bid":1.08432,"ask":1.08441,"n":1234567,"at":"12:00:00.123"}')
CHANNELS = 500
MAX = 1 << 20
BATCH = 100
"""Events in one request to the HTTP API."""

WIRES: dict[str, Wire] = {
    "SSE, data": sse.wire(envelope=False, chunked=True),
    "SSE, envelope": sse.wire(envelope=True, chunked=True),
    "Centrifuge JSON": centrifuge_json.FRAMED,
}


# Memory


class _Command(msgspec.Struct):
    channel: str
    data: Raw
    key: str | None = None
    tags: dict[str, str] | None = None


def fill(count: int, channels: int, keys: int, tags: bool, size: int) -> Log:
    """A log of events as they come through the HTTP API, each with objects of its own."""
    log = Log(EPOCH, retention=Retention(2 * count))
    decode = msgspec.json.Decoder(_Command).decode
    data = Raw(b'"%b"' % (b"x" * (size - 2)))
    for seq in range(1, count + 1):
        command: dict[str, Any] = {"channel": name(seq % channels), "data": data}
        if keys:
            command["key"] = f"key{seq // channels % keys:04}"
        if tags:
            command["tags"] = {"source": "exchange", "currency": f"EUR{seq % 7}"}
        said = decode(msgspec.json.encode(command))
        made = draft(said.channel, said.data, key=said.key, tags=said.tags, max_bytes=MAX)
        log.append(Event.of(made, Position(EPOCH, seq), EPOCH + seq))
    return log


def grown(make: Callable[..., Any], *given: Any) -> float:
    """By how many bytes a process grows that makes this and keeps it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        gc.collect()
        before = resident()
        made = make(*given)
        gc.collect()
        os.write(writing, str(resident() - before).encode())
        del made
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = float(pipe.read())
    os.waitpid(child, 0)
    return told


def resident() -> int:
    """The memory of this process in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory(count: int) -> Iterable[Sequence[str]]:
    for size in (60, 1000):
        for title, *given in (
            ("one channel", 1, 0, False),
            (f"{CHANNELS} channels", CHANNELS, 0, False),
            (f"{CHANNELS} channels, 20 keys in each", CHANNELS, 20, False),
            (f"{CHANNELS} channels, two tags", CHANNELS, 0, True),
        ):
            each = grown(fill, count, *given, size) / count - size
            yield f"{title}, data of {size} bytes", f"{each:.0f} bytes"


# Time


def name(number: int) -> str:
    return f"prices.{number:06}"


def drafts(count: int) -> list[Draft]:
    return [draft(name(n % CHANNELS), TICK, key=f"key{n % 7}", max_bytes=MAX) for n in range(count)]


def events(count: int, after: int = 0) -> list[Event]:
    made = enumerate(drafts(count), after + 1)
    return [Event.of(each, Position(EPOCH, seq), EPOCH + seq) for seq, each in made]


class Clock:
    """Times the repetitions of something."""

    def __init__(self, reps: int, count: int) -> None:
        self.reps = reps
        self.count = count

    def time(self, run: Callable[[int], object]) -> str:
        """Of `run`, which is told the number of the repetition."""
        return self._median(self._once(run, number) for number in range(self.reps))

    def _once(self, run: Callable[[int], object], number: int) -> float:
        begun = time.process_time()
        run(number)
        return time.process_time() - begun

    async def wait(self, run: Callable[[], Awaitable[object]]) -> str:
        """The same of what has to be awaited."""
        times = []
        for _ in range(self.reps):
            begun = time.process_time()
            await run()
            times.append(time.process_time() - begun)
            await asyncio.sleep(0)
        return self._median(times)

    def _median(self, times: Iterable[float]) -> str:
        return f"{statistics.median(times) / self.count * 1e6:.2f} µs"


def steps(clock: Clock) -> Iterable[Sequence[str]]:
    """The parts of an event's way."""
    yield "draft, of raw JSON", clock.time(lambda _: drafts(clock.count))
    ready = drafts(clock.count)
    position = Position(EPOCH, 1)
    yield "Event.of", clock.time(lambda _: [Event.of(d, position, EPOCH) for d in ready])
    for title, keep in (("no eviction", 0), ("each evicts one", clock.count)):
        log = Log(EPOCH, retention=Retention(keep))
        made = [events(clock.count, clock.count * n) for n in range(clock.reps + 1)]

        def append(number: int, log: Log = log, made: list[list[Event]] = made) -> None:
            for event in made[number]:
                log.append(event)

        append(0)
        yield f"Log.append, {title}", clock.time(lambda number, do=append: do(number + 1))  # type: ignore[misc]


def encodings(clock: Clock) -> Iterable[Sequence[str]]:
    made = events(clock.count)
    for title, wire in WIRES.items():
        write = wire.encoding.event
        yield f"encode, {title}", clock.time(lambda _, w=write: [w(e, e.channel) for e in made])  # type: ignore[misc]


def lanes(clock: Clock) -> Iterable[Sequence[str]]:
    """Encoding and appending to the lanes; and joining them, for the cut is timed too."""
    made = [event for event in events(clock.count) if event.channel == name(0)] * CHANNELS
    made = made[: clock.count]
    log = Log(EPOCH)
    for count in (1, 20, 500):
        found = Lanes()
        for number in range(count):
            feed = Feed(WIRES["SSE, data"])
            feed.start([name(0), f"other.{number}"], Mode.EVERY, Start.NOW, log)
            found.join(feed)

        def append(_: int, found: Lanes = found) -> None:
            for begin in range(0, len(made), BATCH):
                for event in made[begin : begin + BATCH]:
                    found.append(event)
                for _cut in found.cuts(log):
                    pass

        yield f"append to {count} lanes, cut every {BATCH}", clock.time(append)


async def publishing(clock: Clock) -> Iterable[Sequence[str]]:
    """With nobody listening, through the hub and through the HTTP API."""
    rows: list[Sequence[str]] = []
    names = [name(n % CHANNELS) for n in range(clock.count)]
    async with Hub("memory://") as hub:

        async def one_by_one(data: Any) -> None:
            for channel in names:
                await hub.publish(channel, data, key="key")

        async def together() -> None:
            for begin in range(0, clock.count, BATCH):
                await hub.append(ready[begin : begin + BATCH])

        async def posts(method: str, body: bytes, times: int) -> None:
            for _ in range(times):
                await post(api, method, body)

        ready = drafts(clock.count)
        values = {"bid": 1.08432, "ask": 1.08441, "n": 1234567, "at": "12:00:00.123"}
        rows.append(("Hub.publish, a dict", await clock.wait(lambda: one_by_one(values))))
        rows.append(("Hub.publish, raw JSON", await clock.wait(lambda: one_by_one(TICK))))
        rows.append((f"Hub.append, {BATCH} drafts", await clock.wait(together)))
        api = Api(hub)
        said = [{"channel": name(n), "data": TICK, "key": "key"} for n in range(BATCH)]
        batch = msgspec.json.encode({"commands": [{"publish": each} for each in said]})
        many = clock.count // BATCH
        rows.append(
            (f"POST /api/batch of {BATCH}", await clock.wait(lambda: posts("batch", batch, many)))
        )
        broadcast = msgspec.json.encode({"channels": [name(n) for n in range(BATCH)], "data": TICK})
        rows.append(
            (
                f"POST /api/broadcast to {BATCH}",
                await clock.wait(lambda: posts("broadcast", broadcast, many)),
            )
        )
        single = msgspec.json.encode(said[0])
        rows.append(
            (
                "POST /api/publish",
                await clock.wait(lambda: posts("publish", single, clock.count)),
            )
        )
    return rows


async def post(api: Api, method: str, body: bytes) -> None:
    """A request to the ASGI endpoint. Raises `RuntimeError` unless it is answered with 200."""
    scope = {
        "type": "http",
        "method": "POST",
        "headers": [(b"content-length", b"%d" % len(body))],
        "path_params": {"method": method},
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message.get("status", 200) != 200:
            raise RuntimeError(f"/api/{method} answers {message['status']}")

    await api(scope, receive, send)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.log", description=__doc__)
    parser.add_argument("--events", type=int, default=100_000, help="retained, for the memory")
    parser.add_argument("--count", type=int, default=5_000, help="events in each repetition")
    parser.add_argument("--reps", type=int, default=15, help="repetitions; the median is told")
    parser.add_argument("--only", choices=("memory", "time"), help="one half of it")
    options = parser.parse_args(argv)
    clock = Clock(options.reps, options.count)
    rows: list[Sequence[str]] = []
    if options.only != "time":
        rows += memory(options.events)
    if options.only != "memory":
        rows += steps(clock)
        rows += encodings(clock)
        rows += lanes(clock)
        rows += asyncio.run(publishing(clock))
    print(f"Python {platform.python_version()}")
    width = max(len(title) for title, _ in rows)
    for title, figure in rows:
        print(f"{title:{width}}  {figure:>12}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
