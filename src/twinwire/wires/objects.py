"""The wire of subscribers inside the process: events stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from twinwire.core.event import Event
from twinwire.core.feed import Gap


class _Encoding:
    per_selector = False
    separator = b""

    def event(self, event: Event, selector: str) -> Event:
        return event


class ObjectWire:
    """Events and gaps in lists."""

    encoding = _Encoding()
    resumes = True
    packs = False

    def join(self, parts: Sequence[Any], readers: int = 1) -> list[Any]:
        """A list of its own of `parts`."""
        return list(parts)

    def gap(self, gap: Gap) -> Gap:
        """The gap itself."""
        return gap


OBJECTS: Final = ObjectWire()
