"""What is read of the log besides following it: backwards from its head, and the newest of keys."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import lru_cache
from typing import Final

from twinwire.brokers.record import unpack
from twinwire.brokers.redis import scripts, stream
from twinwire.brokers.redis.link import Link
from twinwire.brokers.redis.scripts import Keys
from twinwire.core.event import Event, Position, Selection
from twinwire.core.feed import Earlier
from twinwire.core.log import Retention

BATCH: Final = 500
"""Entries that are asked for at once."""


async def earlier(
    link: Link, keys: Keys, selection: Selection, epoch: int, after: int, upto: int, limit: int
) -> Earlier:
    """See `Broker.read`. Raises `BrokerError`."""
    selected = lru_cache(maxsize=4096)(lambda name: any(True for _ in selection.matching(name)))
    events: list[Event] = []
    begin = upto
    noted, epochs = await link.call("HMGET", keys.meta, "epoch", "epochs")
    end = _entry(upto, (epochs or b"").split()) if noted == b"%d" % epoch else None
    if end is not None and upto > after and limit:
        count = min(BATCH, upto - after)
        async with aclosing(_back(link, keys.log, end, count, epoch)) as entries:
            async for position, before, event in entries:
                # A number that is missing is an event that is gone.
                if position.seq < begin or begin <= after or not limit:
                    break
                if event is not None:
                    limit -= 1
                    if selected(event.channel):
                        events.append(event)
                begin = before
    return Earlier(max(begin, after), events[::-1], upto)


def _entry(seq: int, epochs: Sequence[bytes]) -> str | None:
    """The id of the event `seq`, if it is known in which of the `epochs` it was appended."""
    for begun in map(stream.position_of, reversed(epochs)):
        if begun.seq < seq:
            return f"{begun.epoch}-{seq}"
    return None


async def newest(
    link: Link, log: str, head: Position, warm: Retention, now: int
) -> tuple[list[Event], int]:
    """The newest events up to `head`, as many as `warm` says at `now` (ms since 1970), and the
    `seq` after which they are all. Raises `BrokerError`."""
    events: list[Event] = []
    begin, size = head.seq, 0
    async with aclosing(_back(link, log, str(head), BATCH, head.epoch)) as entries:
        async for position, before, event in entries:
            if position.seq < begin:
                break
            if event is not None:
                size += len(event.data)
                if (
                    (warm.events and len(events) == warm.events)
                    or (warm.bytes and size > warm.bytes and events)
                    or (warm.age and event.time < now - warm.age)
                ):
                    break
                events.append(event)
            begin = before
    return events[::-1], begin


async def _back(
    link: Link, log: str, end: str, count: int, epoch: int
) -> AsyncGenerator[stream.Read]:
    """The entries up to the id `end`, the newest first; events as they are in `epoch`."""
    while True:
        found = await link.call("XREVRANGE", log, end, "-", "COUNT", count)
        for entry in found:
            yield stream.read(entry, epoch)
        if len(found) < count:
            return
        end = f"({found[-1][0].decode()}"


async def of_keys(link: Link, keys: Keys, upto: Position) -> list[Event]:
    """The newest event of each key, of those that lie at or before `upto`, in order.

    Raises `BrokerError`.
    """
    events: list[Event] = []
    after = "-inf"
    while True:
        values = await link.call(
            "EVAL", scripts.NEWEST, 2, keys.latest, keys.order, after, upto.seq, BATCH
        )
        found = [value for value in values if value is not None]
        for value in found:
            seq, time, record = value.split(b" ", 2)
            events.append(unpack(record, Position(upto.epoch, int(seq)), int(time)))
        if len(values) < BATCH or not found:
            return events
        after = f"({events[-1].seq}"
