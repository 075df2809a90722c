"""The hubs of this process, for a server of applications that have hubs in them."""

from __future__ import annotations

import asyncio
import weakref
from typing import Protocol


class _Hub(Protocol):
    shared: bool

    async def end(self, *, at_once: bool) -> None:
        """Drain, if it runs."""


known: weakref.WeakSet[_Hub] = weakref.WeakSet()
"""All hubs that have been made; each enters itself."""


async def drain_all(*, at_once: bool) -> None:
    """Drain every hub that runs, each over its time."""
    await asyncio.gather(*(hub.end(at_once=at_once) for hub in list(known)))


def all_shared() -> bool:
    """Whether other processes can have the logs of all of them."""
    return all(hub.shared for hub in known)
