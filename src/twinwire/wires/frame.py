"""WebSocket frames that a server sends (RFC 6455, section 5): never masked, never fragmented.

A lane's members share the very bytes of a frame; that is why they are made here and not by the
connection. Frames from clients are read by `twinwire.wires.frame_reader`.
"""

from __future__ import annotations

import struct
from typing import Final

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

RSV1: Final = 0x40
"""With an opcode: the message is compressed (RFC 7692, section 6)."""

_FIN: Final = 0x80
_REASON_MAX: Final = 123


def frame(opcode: int, payload: bytes) -> bytes:
    """One whole frame that carries `payload`."""
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", _FIN | opcode, size) + payload
    if size < 65536:
        return struct.pack("!BBH", _FIN | opcode, 126, size) + payload
    return struct.pack("!BBQ", _FIN | opcode, 127, size) + payload


def close(code: int, reason: str) -> bytes:
    """A close frame. A reason of more than 123 bytes is cut, at a character (section 5.5)."""
    text = reason.encode()[:_REASON_MAX].decode(errors="ignore").encode()
    return frame(CLOSE, struct.pack("!H", code) + text)
