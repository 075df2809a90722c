"""What can be measured: twinwire, builds of it elsewhere, the C servers, and others' servers.

All are described as a `Peer`. The names are those that --servers takes:

    twinwire          this working tree
    twinwire+LOOP     this working tree on another event loop: asyncio or uvloop
    twinwire@PATH     another one: its directory, its `src`, or a Python in which it is installed
    batch, paced, naive  the C server of floor.c
    NAME              one of bench/peers
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from bench import lib
from bench.peers import PEERS, Peer

WIRES = ("sse", "ws")


def find(name: str, settings: Mapping[str, object], *, tls: bool = False) -> Peer:
    """What is called so; `settings` are twinwire's. Raises `BenchError`."""
    program, _, place = name.partition("@")
    program, _, loop = program.partition("+")
    if program == "twinwire":
        return _twinwire(name, place, settings, tls, loop)
    if name in lib.FLOORS:
        return _floor(name, tls)
    if name in PEERS:
        return PEERS[name]
    known = ["twinwire", "twinwire+LOOP", "twinwire@PATH", *lib.FLOORS, *PEERS]
    raise lib.BenchError(f"there is no server {name}: {', '.join(known)}")


def _twinwire(name: str, place: str, settings: Mapping[str, object], tls: bool, loop: str) -> Peer:
    python, env = sys.executable, {"BENCH_LOOP": loop} if loop else {}
    path = Path(place).resolve()
    if place and path.is_dir():
        env["PYTHONPATH"] = str(path / "src" if (path / "src").is_dir() else path)
    elif place and os.access(place, os.X_OK):
        python = str(path)
    elif place:
        raise lib.BenchError(f"{name}: {place} is neither a directory nor a Python")
    wanted = dict(settings)
    if tls:
        wanted["tls_cert"], wanted["tls_key"] = lib.certificate()
    given = {"api_key": lib.API_KEY, "log_level": "warning", **wanted}
    env |= {f"TWINWIRE_{setting.upper()}": str(value) for setting, value in given.items()}
    argv = (python, "-m", "twinwire.cli", "serve", "--port", "{port}", "--app", "bench.app:hub")
    server = lib.Server(name, argv, env)

    def missing() -> str:
        if loop and importlib.util.find_spec(loop) is None:
            return f"the package {loop} is not installed"
        unknown = sorted(set(wanted) - _settings(python, env.get("PYTHONPATH", "")))
        return f"this twinwire has no setting {', '.join(unknown)}" if unknown else ""

    return Peer(name, WIRES, lambda: lib.serving(server), lib.target, lib.PUBLISH, missing)


@functools.cache
def _settings(python: str, path: str) -> frozenset[str]:
    """The names of all settings that this twinwire has."""
    code = "from twinwire.settings import Settings as s; print(*s.model_fields)"
    env = os.environ | ({"PYTHONPATH": path} if path else {})
    argv = [python, "-c", code]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise lib.BenchError(f"{python}, {path}: {done.stderr.strip()[-500:]}")
    return frozenset(done.stdout.split())


def _floor(mode: str, tls: bool) -> Peer:
    """The C server, which answers every command without a look at it and replays nothing."""

    def serve() -> AbstractContextManager[lib.Process]:
        argv = [str(lib.build("floor")), "{port}", mode]
        argv += map(str, lib.certificate()) if tls else ()
        return lib.serving(lib.Server(f"C, {mode}", tuple(argv)))

    return Peer(f"C, {mode}", WIRES, serve, lib.target, lib.PUBLISH)
