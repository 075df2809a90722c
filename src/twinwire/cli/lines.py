"""Lines of a byte stream as they arrive, and standard input as such a stream."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Final

from twinwire.errors import BadInput

LINE_MAX: Final = 16 << 20
"""Bytes of a line, at most."""

_CHUNK: Final = 64 * 1024
_CHUNKS_AHEAD: Final = 4


class Lines:
    """Cuts pieces of any size into lines, without their ends."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[str]:
        """The lines that `piece` completes. Raises `BadInput` for one that is too long."""
        *whole, rest = piece.split(b"\n")
        for line in whole:
            yield _text(b"".join([*self._rest, line]))
            self._rest.clear()
            self._size = 0
        if rest:
            self._rest.append(rest)
            self._size += len(rest)
            if self._size > LINE_MAX:
                raise BadInput(f"a line of standard input is over {LINE_MAX} bytes")

    def end(self) -> Iterator[str]:
        """What is left when the input ends without a line end."""
        if self._rest:
            yield _text(b"".join(self._rest))


def _text(line: bytes) -> str:
    # One odd byte is no reason to end a feed that has run for days: it is shown as U+FFFD.
    return line.removesuffix(b"\r").decode(errors="replace")


async def arriving(descriptor: int) -> AsyncGenerator[bytes, None]:
    """What can be read from a file descriptor, as soon as it can be.

    A thread reads, since an event loop cannot wait for a file, and it is left behind when it waits
    for input that never comes.
    """
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes | OSError] = asyncio.Queue()
    room = threading.Semaphore(_CHUNKS_AHEAD)

    def read() -> None:
        piece: bytes | OSError = b"-"
        while piece and isinstance(piece, bytes):
            room.acquire()
            try:
                piece = os.read(descriptor, _CHUNK)
            except OSError as error:
                piece = error
            try:
                loop.call_soon_threadsafe(pieces.put_nowait, piece)
            except RuntimeError:
                return  # the loop is closed: nobody listens any more

    threading.Thread(target=read, daemon=True, name="standard input").start()
    while piece := await pieces.get():
        if isinstance(piece, OSError):
            raise BadInput(f"standard input: {(piece.strerror or str(piece)).lower()}")
        yield piece
        room.release()
