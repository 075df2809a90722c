"""A server of our own in a process of its own, and what the system says of that process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Final

from twinwire.client.errors import Unreachable

START_TIME: Final = 20.0
"""Seconds that the server has to start."""


class Process:
    """A server on this machine: its URL, and what it uses."""

    def __init__(self, pid: int, url: str) -> None:
        self.url = url
        self._proc = Path("/proc", str(pid))

    @property
    def visible(self) -> bool:
        """Whether the system tells what a process uses."""
        return (self._proc / "stat").exists()

    def cpu_seconds(self) -> float:
        """Of all its threads, so far."""
        try:
            # In ns, where /proc/PID/stat counts in ticks of 10 ms.
            return sum(
                int((task / "schedstat").read_text().split()[0])
                for task in (self._proc / "task").iterdir()
            ) / 1e9  # fmt: skip
        except (OSError, ValueError, IndexError):
            fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        """Memory that it has in use."""
        pages = int((self._proc / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def cores() -> list[int]:
    """The cores that this process may use; none where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@contextlib.contextmanager
def apart_from(core: int | None) -> Generator[None]:
    """Keep this process off `core`, for as long as the block lasts."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before - {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.asynccontextmanager
async def serving(core: int | None = None, **settings: object) -> AsyncGenerator[Process]:
    """The server, up on a free port, on a core of its own if one is given.

    Raises `Unreachable` with what it has printed if it does not start.
    """
    port = _free_port()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("TWINWIRE_")
    }
    environment |= {f"TWINWIRE_{name.upper()}": str(value) for name, value in settings.items()}
    # -P: a file in the current folder must not stand in for a module of ours.
    argv = [sys.executable, "-P", "-m", "twinwire", "serve", "--app", "twinwire.compare.app:hub"]
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(  # noqa: ASYNC220 (a fork at a time when nothing is measured)
            [*argv, "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            # A Ctrl-C is for us; we end it.
            start_new_session=True,
        )
        try:
            if core is not None:
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(child.pid, {core})
            url = f"http://127.0.0.1:{port}"
            until = time.monotonic() + START_TIME
            while not _listens(port):
                if child.poll() is not None or time.monotonic() > until:
                    output.seek(0)
                    said = output.read()[-500:].decode(errors="replace").strip()
                    raise Unreachable(url, f"our server did not start: {said or 'no word of it'}")
                await asyncio.sleep(0.02)
            yield Process(child.pid, url)
        finally:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    # Its clients are ours and its log is memory: nothing is left to be done in order.
    child.kill()
    child.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
