"""Brokers: where the log lives. The contract is in `base`; `connect` finds one by its URL."""

from __future__ import annotations

from twinwire.brokers.base import Broker
from twinwire.errors import BadSettings


def connect(url: str) -> Broker:
    """The broker that `url` names, not yet open. Raises `BadSettings` for one that is unknown."""
    scheme = url.partition(":")[0]
    if scheme == "memory":
        from twinwire.brokers.memory import MemoryBroker

        return MemoryBroker()
    raise BadSettings(f"broker: {scheme or url!r} is not known; known are: memory://")
