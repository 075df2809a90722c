"""`redis://` and its relatives: the log in Redis 7, Valkey 7.2, or newer. Several nodes share it.

One order: the entries of one stream, appended by a script that is one step. Durable when `append`
returns as far as the server is: in its memory, and in its append-only file as `appendfsync` says;
replicas get it a moment later. What a server has lost when it comes back, or when a replica takes
its place, begins a new epoch: see `identity`. What that means in practice is in docs/operations.md.
"""

from __future__ import annotations

from twinwire.brokers.base import Broker, Config
from twinwire.brokers.redis.address import SCHEMES as SCHEMES
from twinwire.brokers.redis.address import parse
from twinwire.errors import BadSettings


def connect(url: str, config: Config) -> Broker:
    """The broker that `url` names. Raises `BadSettings`."""
    address = parse(url)
    try:
        from twinwire.brokers.redis.broker import RedisBroker
    except ModuleNotFoundError as error:
        if error.name != "hiredis":
            raise
        raise BadSettings(
            f"broker: {address.scheme}:// needs a package more: pip install 'twinwire[redis]'"
        ) from None
    return RedisBroker(address, config)
