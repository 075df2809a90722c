"""Grants: what one connection may do, as patterns. Decided once, asked by every command."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Grants(NamedTuple):
    """Patterns of the channels that may be read and published to, and whose connection it is: a
    user's name, or "" for nobody in particular."""

    subscribe: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    user: str = ""
    info: Any = None
    """What others see of this connection beside its user, in presence and in what it publishes:
    anything that JSON can hold, `msgspec.Raw` for what is JSON already. None is nothing."""

    def may_subscribe(self, selector: str) -> bool:
        """Whether every channel that `selector` matches may be read, live and in the past."""
        return covered(selector, self.subscribe)

    def may_publish(self, channel: str) -> bool:
        """Whether `channel` may be published to."""
        return covered(channel, self.publish)


def covered(selector: str, patterns: Iterable[str]) -> bool:
    """Whether one of `patterns` matches all that `selector` (a name or a pattern) matches."""
    wanted = selector.split(".")
    return any(_covers(pattern.split("."), wanted) for pattern in patterns)


def _covers(pattern: list[str], wanted: list[str]) -> bool:
    for index, token in enumerate(pattern):
        if token == ">":
            return len(wanted) > index
        if index == len(wanted) or wanted[index] == ">" or token not in ("*", wanted[index]):
            return False
    return len(wanted) == len(pattern)
