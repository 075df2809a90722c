"""Events and the messages of the stream that they are in.

A message is MessagePack: the time at which its events were appended, in ms since 1970 by the
server's clock, and their records. Its number in the stream is the server's; the position of an
event follows from that and from its place in the message.

What an append is made of are `Item`s. Those without an idempotency key go into one message
together, those with one have a message each: the server knows a message by one id, and does not
store another with that id for a while.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from twinwire.brokers.record import pack, unpack
from twinwire.core.event import Draft, Event, Position
from twinwire.errors import BrokerError

SLOTS: Final = 1024
"""Places for events that a message has. 2**53 positions are enough for 2**43 messages."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, list[bytes]]).decode


class Item(NamedTuple):
    """An event to append: its record, and what its idempotency key is known by, or nothing."""

    record: bytes
    id: str


class Part(NamedTuple):
    """A message to be: the records in it, and its id; "" if it needs none."""

    records: Sequence[bytes]
    id: str


class Place(NamedTuple):
    """Where an item is: in which part, and where in that."""

    part: int
    slot: int


def seq(message: int, slot: int) -> int:
    """The `seq` of the event at `slot` of the message with that number."""
    return message * SLOTS + slot


def end(message: int) -> int:
    """The last `seq` that belongs to the message, whether it has an event there or not."""
    return message * SLOTS + SLOTS - 1


def message_of(seq: int) -> int:
    """The number of the message that `seq` belongs to."""
    return seq // SLOTS


def item(draft: Draft) -> Item:
    """What `draft` is stored as."""
    known = identify(draft.channel, draft.idempotency_key) if draft.idempotency_key else ""
    return Item(pack(draft), known)


def identify(channel: str, key: str | None) -> str:
    """A short name for a key of a channel, of characters that fit everywhere."""
    text = "\0".join((channel, *(() if key is None else (key,))))
    return urlsafe_b64encode(blake2b(text.encode(), digest_size=16).digest())[:22].decode()


def divide(
    items: Sequence[Item], known: Mapping[str, int], room: int
) -> tuple[list[Part], list[Place | int]]:
    """Put items into messages of at most `room` bytes.

    Returns the messages and where each item is; of those whose id is in `known`, the number of the
    message which that says.
    """
    parts: list[tuple[list[bytes], str]] = []
    places: list[Place | int] = []
    own: dict[str, Place] = {}
    open_part: list[bytes] | None = None
    size = 0
    for record, id in items:
        if id and id in known:
            places.append(known[id])
        elif id and id in own:
            places.append(own[id])
        elif id:
            own[id] = Place(len(parts), 0)
            places.append(own[id])
            parts.append(([record], id))
            open_part = None
        else:
            need = len(record) + _FRAME
            if open_part is None or len(open_part) >= SLOTS or size + need > room:
                open_part, size = [], _HEAD
                parts.append((open_part, ""))
            places.append(Place(len(parts) - 1, len(open_part)))
            open_part.append(record)
            size += need
    return [Part(*part) for part in parts], places


_HEAD: Final = 16
_FRAME: Final = 5
"""Bytes that a message and a record in it have around them, at most."""


def wrap(part: Part, time: int) -> bytes:
    """The bytes of a message."""
    return _encode((time, part.records))


def open_message(data: bytes, epoch: int, message: int) -> list[Event]:
    """The events of a message. Raises `BrokerError` if it is none of ours."""
    try:
        time, records = _decode(data)
    except msgspec.MsgspecError as error:
        raise BrokerError(f"message {message} is not twinwire's: {error}") from None
    first = message * SLOTS
    return [
        unpack(record, Position(epoch, number), time)
        for number, record in enumerate(records[:SLOTS], first)
    ]


def newest(events: Iterable[Event]) -> dict[tuple[str, str | None], Event]:
    """The newest event of each key; those longest without one come first."""
    found: dict[tuple[str, str | None], Event] = {}
    for event in events:
        key = (event.channel, event.key)
        found.pop(key, None)
        found[key] = event
    return found
