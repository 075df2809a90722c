"""What of the book is on the server: the newest event of each key, and a checkpoint.

Each node that is open writes now and then what has changed. The events of keys and the checkpoint
that says how far they reach are stored together or not at all, and only if the last checkpoint is
still the one that this node has seen: if two write at once, one does, and the other takes note.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import msgspec

from twinwire.brokers.nats import epochs
from twinwire.brokers.nats.book import Book, Point
from twinwire.brokers.nats.epochs import Renewal
from twinwire.brokers.nats.link import ApiError, Gone, Link
from twinwire.brokers.nats.message import end, identify, message_of
from twinwire.brokers.nats.reader import read
from twinwire.brokers.nats.store import TOO_MANY, Letter, store
from twinwire.brokers.nats.stream import Streams
from twinwire.brokers.record import pack, unpack
from twinwire.core.event import Draft, Event, Position
from twinwire.errors import BrokerError

_log = logging.getLogger("twinwire")

_PAGE: Final = 900
"""Events written together; by default the server takes 1000."""

_WRONG_LAST: Final = {10071, 10164}
"""JetStream's answers to a checkpoint that is not the last one any more."""


class _Checkpoint(msgspec.Struct, array_like=True, frozen=True):
    epoch: int
    covered: int
    points: list[tuple[int, int, int, int]]


_checkpoint = msgspec.msgpack.Decoder(_Checkpoint).decode
_newest = msgspec.msgpack.Decoder(tuple[int, int, int, bytes]).decode
_encode = msgspec.msgpack.Encoder().encode


class Keeper:
    """Between the book and the server; for one epoch of the log."""

    def __init__(
        self, link: Link, streams: Streams, renewals: tuple[Renewal, ...], book: Book
    ) -> None:
        self._link = link
        self._streams = streams
        self._renewals = renewals
        self._book = book
        self._page = _PAGE
        self._warned = False

    @property
    def _epoch(self) -> int:
        return self._renewals[-1].epoch

    async def load(self, upto: int) -> list[Event]:
        """Begin the book, and return what the server has of the newest events of keys, as far as
        `upto`, in order. Raises `BrokerError`."""
        streams = self._streams
        number, checkpoint = await self._last()
        self._book.begin(*((0, ()) if checkpoint is None else self._valid(checkpoint)))
        events: list[Event] = []
        if number:
            async for messages in read(self._link, streams.keys, 1, number):
                for message in messages:
                    event = self._event(message.data)
                    if event is not None and event.seq <= upto:
                        events.append(event)
        events.sort(key=lambda event: event.seq)
        return events

    def _valid(self, checkpoint: _Checkpoint) -> tuple[int, Sequence[Point]]:
        covered = checkpoint.covered
        for epoch, begins in self._renewals:
            if epoch > checkpoint.epoch:
                covered = min(covered, end(begins))
        return covered, [Point(*point) for point in checkpoint.points]

    def _event(self, data: bytes) -> Event | None:
        try:
            epoch, seq, time, record = _newest(data)
            if not epochs.holds(self._renewals, epoch, message_of(seq)):
                return None
            return unpack(record, Position(self._epoch, seq), time)
        except (msgspec.MsgspecError, BrokerError):
            return None  # a checkpoint, or foreign

    async def _last(self) -> tuple[int, _Checkpoint | None]:
        number, data = await self._streams.newest_checkpoint(self._link)
        try:
            return number, _checkpoint(data) if number else None
        except msgspec.MsgspecError:
            return number, None

    async def keep(self, now: int) -> None:
        """Write what has changed, and trim the log; `now` is in ms. Raises `BrokerError`."""
        number, checkpoint = await self._last()
        if checkpoint is not None:
            self._book.cover(self._valid(checkpoint)[0])
        # What comes meanwhile is for the next time: it might never come to an end.
        goal = end(self._book.noted)
        while self._book.covered < goal and (page := self._book.page(self._page)) is not None:
            number = await self._write(page.events, page.covers, number)
            if not number:
                break
            self._book.cover(page.covers)
        await self._trim(now)

    async def _write(self, events: list[Event], covers: int, last: int) -> int:
        book, streams, epoch = self._book, self._streams, self._epoch
        points = [tuple(p) for p in book.points] + [tuple(book.total)]
        messages = [
            Letter(
                streams.key(identify(event.channel, event.key)),
                _encode((epoch, event.seq, event.time, pack(_draft(event)))),
            )
            for event in events
        ]
        fence = {"Nats-Expected-Last-Subject-Sequence": str(last)}
        messages.append(Letter(streams.checkpoint, _encode((epoch, covers, points)), fence))
        try:
            return (await store(self._link, messages)).number
        except ApiError as error:
            if error.code in _WRONG_LAST:
                return 0
            if error.code == TOO_MANY and self._page > 1:
                self._page //= 2  # and the next time it is that
                return 0
            raise

    async def _trim(self, now: int) -> None:
        message = self._book.trim(now)
        if not message:
            return
        try:
            await self._link.api(f"STREAM.PURGE.{self._streams.log}", {"seq": message + 1})
        except Gone:
            raise
        except BrokerError as error:
            if not self._warned:
                _log.warning("the log grows, it cannot be trimmed: %s", error)
                self._warned = True


def _draft(event: Event) -> Draft:
    return Draft(
        event.channel, event.data, event.kind, event.key, event.type, event.tags, event.publisher
    )
