"""Who may open a stream now: not while the hub ends, and not too many from one address."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Scope

from twinwire.errors import TwinwireError
from twinwire.hub import Hub


class Ending(TwinwireError):
    """The hub takes no new streams: it is about to end, or has ended."""

    def __str__(self) -> str:
        return "not available: this server is ending, come back in a moment"


class Crowded(TwinwireError):
    """There are too many streams from one address."""

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        super().__init__(allowed)

    def __str__(self) -> str:
        return (
            f"too many streams from your address, {self.allowed} are allowed "
            "(connections_per_address)"
        )


class Admission:
    """Counts the streams of one hub, on both wires."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._allowed = hub.settings.connections_per_address
        self._streams: Counter[str] = Counter()

    @contextmanager
    def admit(self, scope: Scope) -> Iterator[None]:
        """Holds a place for the stream of this connection. Raises `Ending` or `Crowded`."""
        if not self._hub.accepting:
            raise Ending
        if not self._allowed:
            yield
            return
        client = scope.get("client")
        address = client[0] if client else ""
        if self._streams[address] >= self._allowed:
            raise Crowded(self._allowed)
        self._streams[address] += 1
        try:
            yield
        finally:
            self._streams[address] -= 1
            if not self._streams[address]:
                del self._streams[address]
