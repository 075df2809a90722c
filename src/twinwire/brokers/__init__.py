"""Brokers: where the log lives. The contract is in `base`; `connect` finds one by its URL."""

from __future__ import annotations

from twinwire.brokers import redis
from twinwire.brokers.base import Broker as Broker
from twinwire.brokers.base import Config as Config
from twinwire.errors import BadSettings


def connect(url: str, config: Config = Config()) -> Broker:  # noqa: B008 (an immutable tuple)
    """The broker that `url` names, not yet open. Raises `BadSettings` for one that is unknown."""
    scheme = url.partition(":")[0]
    if scheme == "memory":
        from twinwire.brokers.memory import MemoryBroker

        return MemoryBroker(config)
    if scheme == "sqlite":
        from twinwire.brokers.sqlite import SqliteBroker, path_of

        return SqliteBroker(path_of(url), config)
    if scheme in redis.SCHEMES:
        return redis.connect(url, config)
    if scheme in ("nats", "tls", "nats+tls"):
        try:
            from twinwire.brokers import nats
        except ImportError:
            raise BadSettings(
                "broker: nats:// needs the package nats-py: pip install 'twinwire[nats]'"
            ) from None
        return nats.NatsBroker(nats.parse(url), config)
    raise BadSettings(
        f"broker: {scheme or url!r} is not known; known are: memory://, sqlite:///FILE, "
        "redis://HOST, nats://HOST:4222"
    )
