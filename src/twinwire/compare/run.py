"""The run: which measurement when, and what becomes of its results. Decides nothing about them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import importlib.metadata
import os
import platform
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from twinwire.client.errors import Refused, Unreachable
from twinwire.client.sse import SILENCE
from twinwire.compare import own, stages
from twinwire.compare.connections import Dialer, Listeners, Tally
from twinwire.compare.figures import NAMES, WIRES, Figures, Options, Wire, curve, quantile
from twinwire.compare.proxies import HEARTBEAT, HOLD, RATE, passages
from twinwire.compare.speak import NotOpened, Target
from twinwire.compare.stages import Door
from twinwire.version import __version__

Note = Callable[[str, float], None]
"""Told what is being done and which part of the whole is done, from 0 to 1."""

_WARM: Final = 30
"""Connections that a server has seen before it is measured."""

_TURNS: Final = 4
"""Turns of each wire in a round, where one client at a time is measured."""

_HEARTBEAT: Final = 0.4
"""Seconds between the heartbeats of the server at which they are measured."""

_STEPS: Final = 3
"""Steps of one round."""

_NOT_VISIBLE: Final = "not visible from here"
_NO_PROC: Final = "this system does not tell (no /proc)"


class _Progress:
    def __init__(self, note: Note, total: int) -> None:
        self._note = note
        self._total = total
        self._done = 0

    def __call__(self, what: str) -> None:
        self._note(what, min(1.0, self._done / self._total))
        self._done += 1


class _Scene(NamedTuple):
    """A server to measure, and its process if it is ours."""

    door: Door
    process: own.Process | None


async def measure(options: Options, url: str | None, api_key: str | None, note: Note) -> Figures:
    """Measure everything, on a server of our own or on the deployment at `url`.

    Raises `BadInput`, `Unreachable`, and `Refused` if nothing can be published or read.
    """
    figures = Figures(url or "a server of its own", url is None, options, surroundings())
    cores = own.cores() if url is None else []
    core = cores[0] if len(cores) > 1 else None
    progress = _Progress(note, 3 + options.rounds * _STEPS)
    places = _Places(url, api_key, options.channel, core)
    try:
        with own.apart_from(core):
            await _measure(places, figures, progress)
    except NotOpened as error:
        if error.status:
            raise Refused(error.status, error.why) from None
        raise Unreachable(figures.target, error.why) from None
    note("done", 1.0)
    return figures


class _Places:
    """Where to measure: one server of our own after another, or always the same deployment."""

    def __init__(self, url: str | None, api_key: str | None, channel: str, core: int | None):
        self.own = url is None
        self.core = core
        self._url = url
        self._api_key = api_key
        self._channel = channel

    @contextlib.asynccontextmanager
    async def scene(self, **settings: object) -> AsyncGenerator[_Scene]:
        """A server; `settings` are for one of our own."""
        async with contextlib.AsyncExitStack() as stack:
            process = None
            if self._url is None:
                process = await stack.enter_async_context(own.serving(self.core, **settings))
            dialer = Dialer(Target.of(process.url if process else str(self._url)))
            await dialer.look_up()
            door = Door(dialer, self._channel, self._api_key)
            stack.callback(door.poster.close)
            yield _Scene(door, process)


async def _measure(places: _Places, figures: Figures, progress: _Progress) -> None:
    ages: dict[Wire, list[float]] = {wire: [] for wire in WIRES}
    enough = asyncio.Event()
    progress("trying both wires")
    async with places.scene() as scene:
        await _try_out(scene.door, figures)
    progress("heartbeats")
    if places.own:
        async with places.scene(heartbeat=_HEARTBEAT, ping=_HEARTBEAT) as scene:
            asyncio.get_running_loop().call_later(_HEARTBEAT * 6, enough.set)
            await _heartbeats(scene.door, figures, enough)
    async with contextlib.AsyncExitStack() as stack:
        if not places.own:
            # Theirs come when they come: somebody listens for them all the time.
            scene = await stack.enter_async_context(places.scene())
            beats = asyncio.create_task(_heartbeats(scene.door, figures, enough))
            stack.push_async_callback(_ended, beats)
        for turn in range(figures.options.rounds):
            await _round(places, figures, turn, ages, progress)
        progress("behind proxies")
        figures.hold, figures.hold_rate = HOLD, RATE
        # The same number of missed heartbeats, of a server that has quicker ones if it is ours.
        figures.silence = SILENCE * HEARTBEAT / 15 if places.own else SILENCE
        async with places.scene(heartbeat=HEARTBEAT, ping=HEARTBEAT) as scene:
            seconds = min(4.0, max(2.5, 2 * figures.options.seconds))
            figures.passages = await passages(scene.door, seconds, figures.silence)
        if not places.own:
            enough.set()
            await beats
    figures.curves = {wire: curve(found) for wire, found in ages.items() if found}


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def _try_out(door: Door, figures: Figures) -> None:
    """Find out which wires can be measured. Raises if it is none."""
    await door.publish()
    errors: list[NotOpened] = []
    for wire in WIRES:
        try:
            await stages.try_out(door, wire)
        except NotOpened as error:
            errors.append(error)
            figures.trouble[wire] = str(error)
    if len(errors) == len(WIRES):
        raise errors[0]


async def _heartbeats(door: Door, figures: Figures, enough: asyncio.Event) -> None:
    wires = [wire for wire in WIRES if wire not in figures.trouble]
    sizes = await asyncio.gather(*(stages.heartbeat(door, wire, enough) for wire in wires))
    for wire, size in zip(wires, sizes, strict=True):
        if size is None:
            figures.absent[f"bytes_heartbeat/{wire}"] = "none came during the run"
        else:
            figures.add("bytes_heartbeat", wire, size)


async def _round(
    places: _Places, figures: Figures, turn: int, ages: dict[Wire, list[float]], progress: _Progress
) -> None:
    """One round of everything; adds the latencies of the fan-out to `ages`."""
    # Whoever is first in one round is second in the next.
    wires = [w for w in (WIRES if turn % 2 == 0 else WIRES[::-1]) if w not in figures.trouble]
    head = f"round {turn + 1} of {figures.options.rounds}: "
    for wire in wires:
        async with places.scene() as scene:
            progress(f"{head}{figures.options.clients} clients over {NAMES[wire]}")
            ages[wire] += await _crowd(scene, wire, figures)
            if wire == wires[-1]:
                progress(f"{head}one client at a time")
                await _alone(scene.door, wires, figures)


async def _crowd(scene: _Scene, wire: Wire, figures: Figures) -> Sequence[float]:
    """What many clients on one wire cost and get; the latencies of their events."""
    door, process = scene
    options = figures.options
    # What the first clients make a server load stays with it, and is not theirs.
    await stages.connects(door, wire, _WARM)
    await door.publish()
    visible = process is not None and process.visible
    before = process.resident_bytes() if process and visible else 0
    async with Listeners(door.dialer, Tally(0)) as clients:
        await clients.connect(door.opening(wire) for _ in range(options.clients))
        if process and visible:
            await asyncio.sleep(0.2)  # for what is still being set up
            growth = process.resident_bytes() - before
            figures.add("memory", wire, growth / options.clients / 1024)
        load = await stages.fan_out(
            door, clients, process, rate=options.rate, seconds=options.seconds
        )
        batches = await stages.fan_out(
            door, clients, process,
            rate=options.rate, seconds=options.seconds / 2, batch=stages.BATCH,
        )  # fmt: skip
    figures.add("bytes_event", wire, load.size)
    if load.segments is not None:
        figures.add("segments", wire, load.segments)
    if load.ages:
        ordered = sorted(load.ages)
        figures.add("p50", wire, quantile(ordered, 0.5))
        figures.add("p99", wire, quantile(ordered, 0.99))
    for key, run in (("cpu", load), ("cpu_batch", batches)):
        if run.server_cpu is not None and run.ages:
            figures.add(key, wire, run.server_cpu / len(run.ages) * 1e6)
    if not visible:
        why = _NOT_VISIBLE if process is None else _NO_PROC
        figures.absent |= dict.fromkeys(("cpu", "cpu_batch", "memory"), why)
    came, expected = figures.received.get(wire, [0, 0])
    figures.received[wire] = [
        came + len(load.ages) + len(batches.ages), expected + load.expected + batches.expected,
    ]  # fmt: skip
    figures.busy.setdefault(wire, []).append(load.busy)
    return load.ages


async def _alone(door: Door, wires: Sequence[Wire], figures: Figures) -> None:
    """What one client at a time gets, the wires in short turns."""
    found: dict[tuple[str, Wire], list[float]] = {}

    def add(key: str, wire: Wire, values: Sequence[float]) -> None:
        found.setdefault((key, wire), []).extend(values)

    turns = [wire for n in range(_TURNS) for wire in (wires if n % 2 == 0 else wires[::-1])]
    after = await stages.missed(door)
    for wire in turns:
        replay = await stages.replay(door, wire, after)
        add("resume", wire, [replay.time])
        add("bytes_resume", wire, [replay.size])
    for wire in turns:
        connected = await stages.connects(door, wire, 5)
        add("connect", wire, connected.times)
        add("bytes_connect", wire, connected.sizes)
        add("snapshot", wire, await stages.snapshots(door, wire, 5))
        add("first", wire, await stages.singles(door, wire, 8))
        if wire == "sse":
            kept = await stages.posts(door, 20)
            add("publish", wire, kept)
            add("command", wire, kept)
            add("publish_fresh", wire, await stages.posts(door, 8, fresh=True))
            continue
        calls = await stages.calls(door, 20)
        add("command", wire, calls.commands)
        if calls.refused:
            refused = dict.fromkeys(("publish/ws", "publish_fresh/ws"), calls.refused)
            figures.absent |= refused
        else:
            add("publish", wire, calls.publishes)
            add("publish_fresh", wire, calls.publishes)
    for (key, wire), values in found.items():
        figures.add(key, wire, median(values))


def surroundings() -> dict[str, str]:
    """The machine and the versions: what a figure means little without."""
    found = {
        "twinwire": __version__,
        "time": datetime.datetime.now().astimezone().isoformat(" ", "minutes"),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        "Python": platform.python_version(),
    }
    for package in ("uvicorn", "uvloop", "httptools", "websockets", "httpx2"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    if hasattr(os, "getloadavg"):
        found["load average at the start"] = f"{os.getloadavg()[0]:.1f}"
    return found


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
