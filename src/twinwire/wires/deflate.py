"""DEFLATE that lanes can share (RFC 1951), for gzip bodies and for WebSocket messages (RFC 7692).

1. A piece is a run of whole blocks that begins and ends at a byte, ends nothing, and refers to
   nothing outside of itself. So the same piece goes to every client, whatever it was sent before,
   and pieces follow each other in any order.
2. What is too small to become smaller is not compressed: what a server says to one client alone
   mostly is, and costs no compressor.
3. Effort goes by how many readers share it. A compressor's time is the only thing about a piece
   that grows with its bytes, so what one client alone gets is compressed quickly (`isal`, if it is
   installed), and what very many get thoroughly, once.

The compressors are used over and over, with all they remember wiped after each piece: making one
costs more than a small piece does. Whoever compresses takes one out, so threads never share one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Final

from twinwire.errors import BadFrame, TooLarge

_quick: ModuleType
try:
    from isal import isal_zlib as _quick
except ModuleNotFoundError:
    _quick = zlib

LEAST: Final = 300
"""Bytes below which one reader's bytes are not compressed: ticks would shrink by less than half."""

_LEAST_SHARED: Final = 100
_MANY: Final = 64
"""Readers for whom the time of a thorough compression is little against that of the writes."""

GZIP_HEAD: Final = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
"""What a gzip body begins with (RFC 1952, section 2.3). Pieces follow, and at the end of a stream
`LAST`. The trailer is left out: it is a checksum over all that one client was sent, and no two
clients were sent the same. Streams are cut off more often than ended, so decoders live with it."""

LAST: Final = b"\x03\x00"
"""The last block, an empty one."""

_TAIL: Final = b"\x00\x00\xff\xff"
_EMPTY: Final = b"\x00" + _TAIL
_STORED_MAX: Final = 0xFFFF
_GUNZIPPED: Final = 64 * 1024


def _compressors(make: Callable[[], Any], flush: int) -> Callable[[bytes], bytes]:
    idle: list[Any] = []

    def compress(data: bytes) -> bytes:
        try:
            compressor = idle.pop()
        except IndexError:
            compressor = make()
        piece: bytes = compressor.compress(data) + compressor.flush(flush)
        idle.append(compressor)
        return piece

    return compress


_hurry: Final = _compressors(
    lambda: _quick.compressobj(1 if _quick is zlib else 2, 8, -15, 8), _quick.Z_FULL_FLUSH
)
_take_time: Final = _compressors(lambda: zlib.compressobj(6, 8, -15, 8), zlib.Z_FULL_FLUSH)


def compressed(data: bytes, readers: int = 1) -> bytes | None:
    """The piece that `data` becomes for so many readers; None if it would not be worth it.

    It ends with the bytes 00 00 FF FF.
    """
    if len(data) < (LEAST if readers == 1 else _LEAST_SHARED):
        return None
    piece = (_hurry if readers < _MANY else _take_time)(data)
    return piece if len(piece) < len(data) else None


def stored(data: bytes) -> bytes:
    """The piece that holds `data` as it is (section 3.2.4).

    It ends with an empty block, like what a compressor flushes: Go's decoder, and so a proxy
    written in Go, gives out what it has at such a one only.
    """
    if len(data) <= _STORED_MAX:
        return _block(data) + _EMPTY
    parts = (data[i : i + _STORED_MAX] for i in range(0, len(data), _STORED_MAX))
    return b"".join(map(_block, parts)) + _EMPTY


def _block(data: bytes) -> bytes:
    return struct.pack("<BHH", 0, len(data), len(data) ^ 0xFFFF) + data


def message(data: bytes, readers: int = 1) -> bytes | None:
    """The payload of a compressed WebSocket message (RFC 7692, section 7.2.1), which refers to no
    other message; None if it should rather go as it is."""
    piece = compressed(data, readers)
    return None if piece is None else piece[: -len(_TAIL)]


def inflate(payload: bytes, max_bytes: int) -> bytes:
    """What a compressed WebSocket message holds that refers to no other (section 7.2.2).

    Raises `BadFrame` if it is none, and `TooLarge` if it holds over `max_bytes`, without having
    inflated more than that.
    """
    inflater = zlib.decompressobj(-15)
    try:
        data = inflater.decompress(payload + _TAIL, max_bytes + 1)
    except zlib.error as error:
        raise BadFrame(f"not a compressed message: {error}") from None
    if len(data) > max_bytes:
        raise TooLarge("a message, inflated,", "message_max_bytes", max_bytes)
    # A block with BFINAL set is allowed, and is followed by an empty one (section 7.2.3.4).
    if inflater.eof and inflater.unused_data not in (_TAIL, b"\x00" + _TAIL):
        raise BadFrame("a compressed message goes on after its last block")
    return data


class Gunzip:
    """Reads a gzip body from pieces of any size."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(31)

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """What `piece` adds, in parts of at most 64 KiB. Raises `BadFrame` if it is not gzip."""
        try:
            while piece:
                yield self._inflater.decompress(piece, _GUNZIPPED)
                piece = self._inflater.unconsumed_tail
        except zlib.error as error:
            raise BadFrame(f"not gzip: {error}") from None
