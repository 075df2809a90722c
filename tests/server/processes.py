"""Which processes serve a port, and which of them a connection goes to: as Linux tells it."""

import os
import re
import socket
from contextlib import suppress
from pathlib import Path

from tests.servers import Command


def children(pid: int) -> set[int]:
    """The processes that `pid` has started and that have not ended."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return set()
    return {int(child) for child in listed.split() if _runs(int(child))}


def alive(pids: set[int]) -> set[int]:
    """Those of the processes that have not ended."""
    return {pid for pid in pids if _runs(pid)}


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def serving(server: Command) -> list[int]:
    """The workers that have said that they serve, in that order."""
    return [int(pid) for pid in re.findall(r"worker (\d+) serves", server.output)]


def owner(sock: socket.socket, pids: set[int]) -> int | None:
    """Which of the processes has the other end of this connection on loopback."""
    ours, theirs = sock.getsockname()[1], sock.getpeername()[1]
    pair = f"0100007F:{theirs:04X} 0100007F:{ours:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines():
        if pair in line:
            inode = f"socket:[{line.split()[9]}]"
            return next((pid for pid in pids if inode in _files(pid)), None)
    return None


def _files(pid: int) -> set[str]:
    found = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(os.readlink(file))
    return found
