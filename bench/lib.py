"""What the measurements share: C programs, servers on cores of their own, the load client.

Everything stays on 127.0.0.1 and is bounded in time; only processes started here are ended, by pid.
The server gets one core, the load client with the publisher the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import resource
import shlex
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BUILD = HERE / ".build"
RESULTS = HERE / "results"
CFLAGS = ("-O2", "-std=gnu17", "-Wall", "-Wextra")
API_KEY = "bench"
FLOORS = ("batch", "paced", "naive")
"""The ways of the C server, floor.c."""

_cores = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = _cores[0], _cores[-1]

Outcome = dict[str, Any]
"""What the load client printed; what was seen of the server meanwhile, under "server"; and how many
cores' worth of time other programs took, under "others": where it is not near 0 the figures are
worth little."""


class BenchError(Exception):
    """A measurement that could not be made."""


# C programs


@functools.cache
def libraries() -> tuple[str, ...]:
    """Flags for what is there of OpenSSL and zlib; a program without one says so when asked."""
    flags: tuple[str, ...] = ()
    for header, found in (
        ("openssl/ssl.h", ("-DWITH_TLS", "-lssl", "-lcrypto")),
        ("zlib.h", ("-DWITH_ZLIB", "-lz")),
    ):
        tried = subprocess.run(
            [*compiler(), "-E", "-x", "c", "-"],
            input=f"#include <{header}>\n",
            capture_output=True,
            text=True,
            timeout=60,
        )
        flags += () if tried.returncode else found
    return flags


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "cc"))


def build(name: str) -> Path:
    """Compile bench/NAME.c, unless that has been done with these very sources."""
    sources = [HERE / f"{name}.c", *sorted(HERE.glob("*.h"))]
    digest = hashlib.sha256(" ".join([*CFLAGS, *libraries()]).encode())
    for source in sources:
        digest.update(source.read_bytes())
    program = BUILD / f"{name}-{digest.hexdigest()[:12]}"
    if not program.exists():
        BUILD.mkdir(exist_ok=True)
        unfinished = program.with_suffix(f".{os.getpid()}")
        argv = [*compiler(), *CFLAGS, "-o", str(unfinished), str(sources[0]), *libraries()]
        if subprocess.run(argv, timeout=120).returncode:
            raise BenchError(f"{name}.c does not compile")
        unfinished.rename(program)
    return program


def check() -> None:
    """Compile everything and let the scanner check itself."""
    for name in ("load", "floor", "scan_test"):
        program = build(name)
    if subprocess.run([program], timeout=60).returncode:
        raise BenchError("the scanner is wrong")
    print("compiled; the scanner finds the same however its input is cut")


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


@dataclasses.dataclass
class Process:
    """A server that runs."""

    server: Server
    pid: int
    port: int
    log: Path

    def pids(self) -> list[int]:
        """Its own and those of its children, workers of a master."""
        found = [self.pid]
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    found += map(int, children.read_text().split())
        return found

    def cpu_seconds(self) -> float:
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self, field: str = "VmRSS") -> int:
        """Bytes, of all its processes; VmHWM is the most it has been."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith(field + ":"):
                        total += int(line.split()[1]) * 1024
        return total


@contextlib.contextmanager
def serving(server: Server, *, start: float = 20, stop: float = 10) -> Iterator[Process]:
    """The server, up on a free port and on its core; ended when the block is left."""
    port = free_port()
    BUILD.mkdir(exist_ok=True)
    log = BUILD / (re.sub(r"[^\w.-]+", "-", server.name) + ".log")
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


PUBLISH = ("--publish-headers", f"X-API-Key: {API_KEY}\r\n")
"""How the load client publishes to our server and to the C ones."""


def certificate() -> tuple[Path, Path]:
    """One for 127.0.0.1 and its key, made here and good for a month."""
    paths = BUILD / "certificate.pem", BUILD / "key.pem"
    fresh = time.time() - 20 * 86400
    if not all(path.exists() and path.stat().st_mtime > fresh for path in paths):
        BUILD.mkdir(exist_ok=True)
        argv = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30"
        argv += " -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
        try:
            subprocess.run(
                [*argv.split(), "-out", str(paths[0]), "-keyout", str(paths[1])],
                check=True,
                capture_output=True,
                timeout=30,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise BenchError(f"openssl could not make a certificate: {error}") from None
    return paths


def load(
    process: Process,
    *,
    targets: Iterable[str],
    publish: Sequence[str] = (),
    cap: float = 30,
    meanwhile: Callable[[], None] | None = None,
    **options: object,
) -> Outcome:
    """Run the load client (its options with _ for -) against the server.

    `publish` are more of its options as they are. `meanwhile` is called when all clients are live,
    and they stay for no longer than it takes. Raises `BenchError` if a client did not stay live.
    """
    argv = [str(build("load")), "--port", str(process.port), *publish]
    for name, value in {"cap": cap, **options}.items():
        argv += ["--" + name.replace("_", "-"), str(value)]
    with tempfile.NamedTemporaryFile("w", prefix="targets-") as file:
        file.writelines(line + "\n" for line in targets)
        file.flush()
        argv += ["--targets", file.name]
        cpu, others, since = process.cpu_seconds(), _cpu_of_others(process), time.monotonic()
        with on_core(CLIENT_CORE):
            pipe = subprocess.PIPE
            client = subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True)
        try:
            if meanwhile and client.stderr and client.stderr.readline().startswith("live"):
                meanwhile()
                client.send_signal(signal.SIGTERM)
            output, said = client.communicate(timeout=cap + 120)  # a minute to connect is in it
        except BaseException:
            client.kill()
            client.wait()
            raise
    if client.returncode:
        raise BenchError(f"the load client ended with {client.returncode}: {said.strip()[-500:]}")
    outcome: Outcome = json.loads(output)
    outcome["server"] = {
        "cpu_seconds": process.cpu_seconds() - cpu,
        "rss": process.memory(),
        "peak_rss": process.memory("VmHWM"),
    }
    outcome["others"] = (_cpu_of_others(process) - others) / (time.monotonic() - since)
    if outcome["live"] < outcome["clients"] and not outcome.get("storm"):
        raise BenchError(
            f"{outcome['live']} of {outcome['clients']} clients stayed live"
            f" (refused {outcome['refused']}, closed {outcome['closed']}): {outcome['trouble']}"
        )
    return outcome


def _cpu_of_others(process: Process) -> float:
    """CPU seconds so far of all that is not the server, the load clients or ourselves."""
    fields = Path("/proc/stat").read_text().split()[1:8]
    user, nice, system, _idle, _wait, irq, softirq = map(int, fields)
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


def median(values: Iterable[float]) -> float:
    return statistics.median(values)
