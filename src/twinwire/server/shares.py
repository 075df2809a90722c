"""How many connections each of several workers has, in memory that all of them see.

Workers accept from one socket, and the kernel wakes all of them for each connection: the same one
may be first again and again. Connections last, so who has had more than others stands back for a
moment and lets them have the next. After a worker was started anew, clients go to it until it has
as many as the others.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from typing import Final

_SLACK: Final = 8
"""Connections that a worker may have more than another, and a sixteenth: crowds are taken in
portions, and nobody is to wait for the other all the time."""

_ABSENT: Final = -1
_COUNT: Final = 8
"""Bytes of a count, which are written at once."""


def new_table(places: int) -> int:
    """A file in memory for the counts of so many workers; returns its descriptor."""
    if sys.platform == "linux":
        file = os.memfd_create("twinwire-shares")
    else:
        file, path = tempfile.mkstemp()
        os.unlink(path)
    os.write(file, _ABSENT.to_bytes(_COUNT, sys.byteorder, signed=True) * places)
    return file


class Shares:
    """One worker's share, beside the others'."""

    def __init__(self, file: int, place: int) -> None:
        """`file` is a table, in which `place` is this worker's."""
        self._counts = memoryview(mmap.mmap(file, 0)).cast("q")
        self._place = place

    def note(self, count: int) -> bool:
        """This worker accepts, and has so many; returns whether others are to have the next."""
        self._counts[self._place] = count
        least = min(other for other in self._counts if other != _ABSENT)
        return count > least + least // 16 + _SLACK

    def leave(self) -> None:
        """This worker accepts no more."""
        self._counts[self._place] = _ABSENT
