"""What was published under which idempotency key, for brokers that remember it in memory."""

from __future__ import annotations

from collections import OrderedDict

from twinwire.core.event import Position


class Window:
    """The positions of keys, for `seconds` and for `most` keys; the oldest go first."""

    def __init__(self, seconds: float, most: int) -> None:
        self._age = int(seconds * 1000)
        self._most = most
        self._noted: OrderedDict[tuple[str, str], tuple[Position, int]] = OrderedDict()

    def find(self, channel: str, key: str, now: int) -> Position | None:
        """The position of what was published so, if that is not too long ago; `now` is in ms."""
        found = self._noted.get((channel, key))
        return found[0] if found is not None and found[1] >= now - self._age else None

    def note(self, channel: str, key: str, position: Position, now: int) -> None:
        """Remember it, and forget what is too old or too much."""
        noted = self._noted
        noted.pop((channel, key), None)
        noted[channel, key] = (position, now)
        while len(noted) > self._most or next(iter(noted.values()))[1] < now - self._age:
            noted.popitem(last=False)
