"""What nodes tell each other: messages of a channel, which nobody stores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from twinwire.brokers.redis.finding import PATIENCE
from twinwire.brokers.redis.link import SILENT, Cut, Link, Refused

_NOTICE: Final = b"+"
"""Begins each notice. What is published without, to see whether it is permitted, is none."""


async def tell(link: Link, channel: str, notice: bytes) -> None:
    """Publish `notice`. Raises `BrokerError`; it may have been heard all the same."""
    await link.call("PUBLISH", channel, _NOTICE + notice)


async def subscribe(link: Link, channel: str, hear: Callable[[bytes], None]) -> None:
    """From now on `hear` what is told. The link serves nothing else. Raises `BrokerError`."""
    subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def heard(message: Any) -> None:
        if isinstance(message, Refused):
            if not subscribed.done():
                subscribed.set_exception(message)
        elif message[0] == b"subscribe":
            if not subscribed.done():
                subscribed.set_result(None)
        elif message[0] == b"message" and message[2].startswith(_NOTICE):
            hear(message[2].removeprefix(_NOTICE))

    link.listen = heard
    link.send("SUBSCRIBE", channel)
    try:
        async with asyncio.timeout(PATIENCE):
            await subscribed
    except TimeoutError:
        raise Cut(link.why or SILENT) from None
    link.worked = True
