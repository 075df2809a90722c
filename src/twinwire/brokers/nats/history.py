"""The log from before: what a node begins with, and what a client comes back for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from twinwire.brokers.nats.book import Book
from twinwire.brokers.nats.epochs import Found
from twinwire.brokers.nats.keeper import Keeper
from twinwire.brokers.nats.link import Link
from twinwire.brokers.nats.message import end, message_of, newest, open_message
from twinwire.brokers.nats.reader import read
from twinwire.core.event import Event, Selection
from twinwire.core.feed import Earlier
from twinwire.core.log import Retention
from twinwire.errors import BrokerError

_CHUNK: Final = 64
"""Messages that are read first, going back; then four times as many each time."""

_CHUNK_MAX: Final = 10_000


class Beginning(NamedTuple):
    """What a node is told at first; see `Tail.begin`."""

    after: int
    latest: list[Event]
    events: list[Event]


class _Opened(NamedTuple):
    number: int
    events: list[Event]


async def begin(
    link: Link,
    stream: str,
    found: Found,
    floor: int,
    warm: Retention,
    keeper: Keeper,
    book: Book,
) -> Beginning:
    """What is warm of the log after the message `floor`, and the newest of each key before it; the
    book is begun with it. Raises `BrokerError`."""
    first = max(found.first, floor + 1)
    opened = await _warm(link, stream, found, first, warm)
    low = opened[0].number if opened else found.last + 1
    flat = [event for message in opened for event in message.events]
    cut = _cut(flat, warm)
    after = flat[cut].seq - 1 if cut < len(flat) else end(found.last)
    before = await keeper.load(after)
    async for message in _open(link, stream, found, max(book.noted + 1, found.first), low - 1):
        book.note(message.number, message.events)
        before += message.events
    for message in opened:
        book.note(message.number, message.events)
    before += flat[:cut]
    before.sort(key=lambda event: event.seq)
    return Beginning(after, list(newest(before).values()), flat[cut:])


async def _open(
    link: Link, stream: str, found: Found, first: int, last: int
) -> AsyncIterator[_Opened]:
    async for messages in read(link, stream, first, last):
        for number, data in messages:
            if number <= last:
                yield _Opened(number, _events(data, found.epoch, number))


def _events(data: bytes, epoch: int, number: int) -> list[Event]:
    try:
        return open_message(data, epoch, number)
    except BrokerError:
        return []  # foreign, and logged when it came


async def _warm(
    link: Link, stream: str, found: Found, first: int, warm: Retention
) -> list[_Opened]:
    """The newest messages, with all that is to be warm in them."""
    opened: list[_Opened] = []
    low, chunk = found.last + 1, _CHUNK
    while low > first:
        begin = max(first, low - chunk)
        opened[:0] = [m async for m in _open(link, stream, found, begin, low - 1)]
        low = begin
        chunk = min(4 * chunk, _CHUNK_MAX)
        if _cut([event for message in opened for event in message.events], warm):
            break
    return opened


def _cut(events: list[Event], warm: Retention) -> int:
    """How many of the oldest are more than what is to be warm."""
    cut = max(0, len(events) - warm.events) if warm.events else 0
    if warm.bytes:
        size = 0
        for index in range(len(events) - 1, cut - 1, -1):
            size += len(events[index].data)
            if size > warm.bytes:
                return index + 1
    if warm.age and events:
        oldest = events[-1].time - warm.age
        while cut < len(events) and events[cut].time < oldest:
            cut += 1
    return cut


async def back(
    link: Link,
    stream: str,
    found: Found,
    selection: Selection,
    after: int,
    upto: int,
    limit: int,
) -> Earlier:
    """See `Broker.read`. Messages are read backwards, since the newest `limit` events count."""
    begin = max(after, end(found.first - 1))
    if begin >= upto or limit <= 0:
        return Earlier(upto, [], upto) if after < upto else Earlier(after, [], upto)
    first, low, chunk = message_of(begin + 1), message_of(upto) + 1, _CHUNK
    events: list[Event] = []
    while low > first and len(events) <= limit:
        start = max(first, low - chunk)
        got = [m async for m in _open(link, stream, found, start, low - 1)]
        events[:0] = [e for m in got for e in m.events if begin < e.seq <= upto]
        if not got or got[0].number > start:
            # Trimmed meanwhile.
            begin = max(begin, end((got[0].number if got else low) - 1))
            break
        low = start
        chunk = min(4 * chunk, _CHUNK_MAX)
    if len(events) > limit:
        events = events[-limit:]
        begin = events[0].seq - 1
    return Earlier(begin, [e for e in events if any(selection.matching(e.channel))], upto)
