"""What the measurements share: C programs, servers on cores of their own, the load client, results.

Everything stays on 127.0.0.1 and is bounded in time; only processes started here are ended, by pid.
The server gets one core, the load client with the publisher the other.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BUILD = HERE / ".build"
RESULTS = HERE / "results"
CFLAGS = ("-O2", "-std=gnu17", "-Wall", "-Wextra")
API_KEY = "bench"

_cores = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = _cores[0], _cores[-1]

Outcome = dict[str, Any]
"""What the load client printed; what was seen of the server meanwhile, under "server"; and how many
cores' worth of time other programs took, under "others": where it is not near 0 the figures are
worth little."""


Run = dict[str, Any]
"""An outcome, under "outcome", beside what it is the outcome of."""


class BenchError(Exception):
    """A measurement that could not be made."""


# C programs


def build(name: str) -> Path:
    """Compile bench/NAME.c, unless that has been done with these very sources."""
    sources = [HERE / f"{name}.c", *sorted(HERE.glob("*.h"))]
    digest = hashlib.sha256(" ".join(CFLAGS).encode())
    for source in sources:
        digest.update(source.read_bytes())
    program = BUILD / f"{name}-{digest.hexdigest()[:12]}"
    if not program.exists():
        BUILD.mkdir(exist_ok=True)
        unfinished = program.with_suffix(f".{os.getpid()}")
        compiler = shlex.split(os.environ.get("CC", "cc"))
        subprocess.run([*compiler, *CFLAGS, "-o", unfinished, sources[0]], check=True, timeout=120)
        unfinished.rename(program)
    return program


def check_main(argv: Sequence[str]) -> int:
    """Compile everything and let the scanner check itself."""
    parser = argparse.ArgumentParser(prog="python -m bench check", description=check_main.__doc__)
    parser.parse_args(argv)
    for name in ("load", "floor", "scan_test"):
        program = build(name)
    subprocess.run([program], check=True, timeout=60)
    print("compiled; the scanner finds the same however its input is cut")
    return 0


# Processes


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Processes started in here run on that core alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@dataclasses.dataclass(frozen=True)
class Server:
    """How to start one; {port} in its arguments becomes the port."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = dataclasses.field(default_factory=dict)


def twinwire(*options: str, app: str | None = None, **settings: object) -> Server:
    """Our server; settings are those of `twinwire serve`, by name."""
    argv = [sys.executable, "-m", "twinwire.cli", "serve", "--port", "{port}", *options]
    if app:
        argv += ["--app", app]
    settings = {"api_key": API_KEY, "log_level": "warning", **settings}
    env = {f"TWINWIRE_{name.upper()}": str(value) for name, value in settings.items()}
    return Server("twinwire", tuple(argv), env)


def floor(mode: str) -> Server:
    """The C server of floor.c."""
    return Server(f"C, {mode}", (str(build("floor")), "{port}", mode))


@dataclasses.dataclass
class Process:
    """A server that runs."""

    server: Server
    pid: int
    port: int
    log: Path

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, field: str = "VmRSS") -> int:
        """Bytes; VmHWM is the most it has been."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        return 0


@contextlib.contextmanager
def serving(server: Server, *, start: float = 20, stop: float = 10) -> Iterator[Process]:
    """The server, up on a free port and on its core; ended when the block is left."""
    port = free_port()
    BUILD.mkdir(exist_ok=True)
    log = BUILD / f"{server.name.replace(', ', '-')}.log"
    env = {name: value for name, value in os.environ.items() if not name.startswith("TWINWIRE_")}
    with log.open("wb") as output, on_core(SERVER_CORE):
        child = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in server.argv],
            cwd=HERE.parent,
            env=env | server.env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + start
        while not _listens(port):
            if child.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{shlex.join(server.argv)} did not start:\n{_last(log)}")
            time.sleep(0.05)
        yield Process(server, child.pid, port, log)
        if child.poll() is not None:
            raise BenchError(f"{server.name} ended with {child.returncode}:\n{_last(log)}")
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(stop)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _last(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


# The load client


def sse_target(channels: Iterable[str]) -> str:
    return "/sse?" + "&".join(f"channel={channel}" for channel in channels)


def ws_target(channels: Iterable[str]) -> str:
    """The query is for the C server, the commands are for ours."""
    channels = list(channels)
    commands: list[object] = [{"id": 1, "connect": {}}]
    commands += [{"id": n, "subscribe": {"channel": c}} for n, c in enumerate(channels, 2)]
    texts = [json.dumps(command, separators=(",", ":")) for command in commands]
    return "\t".join([sse_target(channels).replace("/sse", "/ws"), *texts])


def target(wire: str, channels: Iterable[str]) -> str:
    return {"sse": sse_target, "ws": ws_target}[wire](channels)


def load(process: Process, *, cap: float = 30, **options: object) -> Outcome:
    """Run the load client (its options with _ for -) against the server."""
    argv = [str(build("load")), "--port", str(process.port)]
    argv += ["--publish-headers", f"X-API-Key: {API_KEY}\r\n"]
    for name, value in {"cap": cap, **options}.items():
        argv += ["--" + name.replace("_", "-"), str(value)]
    cpu, others, since = process.cpu_seconds(), _cpu_of_others(process), time.monotonic()
    with on_core(CLIENT_CORE):
        client = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        output, _ = client.communicate(timeout=cap + 120)  # a minute to connect is in it
    except BaseException:
        client.kill()
        client.wait()
        raise
    if client.returncode:
        raise BenchError(f"the load client ended with {client.returncode}: {shlex.join(argv)}")
    outcome: Outcome = json.loads(output)
    outcome["server"] = {
        "cpu_seconds": process.cpu_seconds() - cpu,
        "rss": process.memory(),
        "peak_rss": process.memory("VmHWM"),
    }
    outcome["others"] = (_cpu_of_others(process) - others) / (time.monotonic() - since)
    if outcome["live"] < outcome["clients"] and not outcome.get("storm"):
        raise BenchError(
            f"{process.server.name}: {outcome['live']} of {outcome['clients']} clients stayed live"
            f" (refused {outcome['refused']}, closed {outcome['closed']}): {outcome['trouble']}"
        )
    return outcome


def _cpu_of_others(process: Process) -> float:
    """CPU seconds so far of all that is not the server, the load clients or ourselves."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    ours = sum(os.times()[:4]) + process.cpu_seconds()
    # A process is charged for the interrupts that it was held up by: they belong to both sides.
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK") - ours


FAULTS = ("missing", "extra", "wrong", "duplicates", "out_of_order", "bad_positions", "gaps")


def faults(outcome: Outcome) -> dict[str, int]:
    """What should not have happened to any client."""
    found = {name: outcome[name] for name in FAULTS if outcome[name]}
    if unpublished := outcome.get("offered", 0) - outcome.get("published", 0):
        found["unpublished"] = unpublished
    return found


def describe_faults(outcomes: Iterable[Outcome]) -> str:
    """The worst of them in words."""
    worst = max(map(faults, outcomes), key=lambda found: sum(found.values()))
    return ", ".join(f"{count:,} {name}" for name, count in worst.items()) or "none"


def cpu_per_million(outcome: Outcome) -> float:
    """Seconds of the server's core for a million deliveries."""
    return float(outcome["server"]["cpu_seconds"]) / max(float(outcome["deliveries"]), 1) * 1e6


# Results


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float], form: str = "{:.1f}") -> str:
    """The median, and from where to where, if that is not one and the same."""
    texts = [form.format(value) for value in (median(values), min(values), max(values))]
    return texts[0] if len(set(texts)) == 1 else f"{texts[0]} ({texts[1]} to {texts[2]})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown, aligned for the terminal too."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def _output(*argv: str) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=20).stdout.strip()
    except OSError:
        return ""


def surroundings() -> dict[str, Any]:
    """The machine, the versions and the command: what a figure means nothing without."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    compiler, *_ = _output("cc", "--version").splitlines() or [""]
    versions = {"python": platform.python_version(), "cc": compiler}
    for package in ("twinwire", "uvicorn", "uvloop", "httptools", "websockets", "msgspec"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _output("git", "-C", str(HERE), "describe", "--always", "--dirty"),
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.machine(),
        "cores": len(_cores),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "versions": versions,
        "load_average": os.getloadavg(),
    }


def save(name: str, options: argparse.Namespace, runs: Sequence[Run], text: str) -> None:
    """Print the table; keep it with all that led to it in one JSON file."""
    RESULTS.mkdir(exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    path = RESULTS / f"{name}-{now:%Y%m%d-%H%M%S}.json"
    content = {"name": name, "options": vars(options), **surroundings(), "table": text}
    path.write_text(json.dumps({**content, "runs": runs}, indent=1) + "\n")
    print(f"\n{text}\n\n{os.path.relpath(path)}")
