"""How an event is stored: what a publisher said, as MessagePack; position and time stand beside it.

A record is an array, so that fields can be added at its end: older records lack them, and older
programs ignore them.
"""

from __future__ import annotations

from functools import lru_cache
from sys import intern

import msgspec

from twinwire.core.event import Draft, Event, Kind, Position, Publisher
from twinwire.errors import BrokerError


class _Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    channel: str
    data: bytes
    kind: Kind = Kind.JSON
    key: str | None = None
    type: str | None = None
    tags: dict[str, str] | None = None
    publisher: tuple[str, str, bytes | None] | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode


def pack(draft: Draft) -> bytes:
    """The bytes that `draft` is stored as."""
    publisher = draft.publisher
    return _encode(
        (
            draft.channel,
            draft.data,
            draft.kind.value,
            draft.key,
            draft.type,
            draft.tags,
            None if publisher is None else _said(publisher),
        )
    )


def unpack(record: bytes, position: Position, time: int) -> Event:
    """The event that was stored as `record`; `time` in ms. Raises `BrokerError`: it is foreign."""
    return unpack_at(record, *position, time)


def unpack_at(record: bytes, epoch: int, seq: int, time: int) -> Event:
    """`unpack` for many: making each a `Position` first takes half as long again."""
    try:
        found = _decode(record)
    except msgspec.MsgspecError as error:
        position = Position(epoch, seq)
        raise BrokerError(f"at {position} there is no event of twinwire's: {error}") from None
    publisher = None
    if found.publisher is not None:
        user, client, info = found.publisher
        given = msgspec.UNSET if info is None else msgspec.Raw(info)
        publisher = Publisher(user, client, given)
    # What events have in common they share: see the same in `twinwire.core.event`.
    key, kind = found.key and intern(found.key), found.type and intern(found.type)
    tags = _shared(tuple(found.tags.items())) if found.tags else None
    return Event(
        intern(found.channel), found.data, epoch, seq, time,
        found.kind, key, kind, tags, publisher,
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _shared(tags: tuple[tuple[str, str], ...]) -> dict[str, str]:
    return dict(tags)


def _said(publisher: Publisher) -> tuple[str, str, bytes | None]:
    info = publisher.conn_info
    return publisher.user, publisher.client, None if info is msgspec.UNSET else bytes(info)
