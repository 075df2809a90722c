"""WebSocket messages from what a client sends (RFC 6455, section 5), cut anywhere.

1. Bytes go in by `feed`, one message or control frame at a time comes out of `next`: who has no
   room for more just asks later.
2. The first fault ends the reading: it is raised with the code to close with (section 7.4.1), and
   nothing comes out after it. A frame is judged by its head, before its payload is here.
3. A message has at most `max_bytes`, however many frames carry it, and inflated too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from twinwire.errors import BadFrame, TooLarge
from twinwire.wires.frame import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

PROTOCOL_ERROR: Final = 1002
NOT_TEXT: Final = 1007
TOO_BIG: Final = 1009
NO_STATUS: Final = 1005
"""What a close frame without a code is told as; it never stands in one."""

_RSV1: Final = 0x40
_CONTROL: Final = 0x08
_CODES: Final = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})
"""The codes below 3000 that may stand in a close frame (section 7.4 and IANA's registry)."""


class Broken(BadFrame):
    """What a client has sent is against the protocol; `code` is what to close with."""

    def __init__(self, code: int, why: str) -> None:
        self.code = code
        super().__init__(why)


class Message(NamedTuple):
    """`payload` of TEXT is checked to be UTF-8; of CLOSE it is what `close_of` reads."""

    opcode: int
    payload: bytes


class FrameReader:
    """Reads one client's frames."""

    __slots__ = ("_begun", "_data", "_deflated", "_max", "_parts", "_size", "_unmask", "inflate")

    def __init__(
        self,
        max_bytes: int,
        *,
        unmask: Callable[[bytes, bytes], bytes] | None = None,
        inflate: Callable[[bytes, int], bytes] | None = None,
    ) -> None:
        """`unmask` takes a payload and its mask; by default it is done here, in Python. `inflate`
        takes a compressed message and how large it may become, where permessage-deflate has been
        agreed on (RFC 7692); it raises `TooLarge`, or `BadFrame` for what is not compressed."""
        self._max = max_bytes
        self._unmask = unmask or _unmasked
        self.inflate = inflate
        self._data = bytearray()
        # A message of several frames: its opcode, and what has come of it.
        self._begun = 0
        self._deflated = False
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Take what has been received."""
        self._data += data

    def next(self) -> Message | None:
        """The next whole message or control frame; None until more is fed. Raises `Broken`."""
        while (frame := self._frame()) is not None:
            first, payload = frame
            opcode = first & 0x0F
            if opcode & _CONTROL:
                if opcode == CLOSE:
                    _check_close(payload)
                return Message(opcode, payload)
            if opcode != CONTINUATION:
                self._begun = opcode
                self._deflated = bool(first & _RSV1)
            if not first & 0x80:
                self._parts.append(payload)
                self._size += len(payload)
                continue
            if self._parts:
                payload = b"".join((*self._parts, payload))
                self._parts.clear()
                self._size = 0
            opcode, self._begun = self._begun, 0
            return Message(opcode, self._whole(opcode, payload))
        return None

    def _frame(self) -> tuple[int, bytes] | None:
        """The first byte and the payload of the next frame."""
        data = self._data
        have = len(data)
        if have < 2:
            return None
        first, second = data[0], data[1]
        self._check_head(first, second)
        size = second & 0x7F
        head = 6
        if size == 126:
            if have < 4:
                return None
            head, size = 8, int.from_bytes(data[2:4])
        elif size == 127:
            if have < 10:
                return None
            head, size = 14, int.from_bytes(data[2:10])
        if self._size + size > self._max and not first & _CONTROL:
            raise Broken(TOO_BIG, f"a message of over {self._max} bytes")
        if have < head + size:
            return None
        payload = bytes(data[head : head + size])
        mask = bytes(data[head - 4 : head])
        del data[: head + size]
        return first, self._unmask(payload, mask) if size else b""

    def _check_head(self, first: int, second: int) -> None:
        opcode = first & 0x0F
        reserved = first & 0x70
        if reserved and not (
            reserved == _RSV1 and self.inflate is not None and opcode in (TEXT, BINARY)
        ):
            raise Broken(PROTOCOL_ERROR, "a reserved bit is set")
        if not second & 0x80:
            raise Broken(PROTOCOL_ERROR, "a client's frame is not masked")
        if opcode & _CONTROL:
            if opcode not in (CLOSE, PING, PONG):
                raise Broken(PROTOCOL_ERROR, f"opcode {opcode} is reserved")
            if not first & 0x80 or second & 0x7F > 125:
                raise Broken(PROTOCOL_ERROR, "a control frame is fragmented or too long")
        elif opcode == CONTINUATION:
            if not self._begun:
                raise Broken(PROTOCOL_ERROR, "a continuation of nothing")
        elif opcode not in (TEXT, BINARY):
            raise Broken(PROTOCOL_ERROR, f"opcode {opcode} is reserved")
        elif self._begun:
            raise Broken(PROTOCOL_ERROR, "a new message inside of another")

    def _whole(self, opcode: int, payload: bytes) -> bytes:
        if self._deflated and self.inflate is not None:
            try:
                payload = self.inflate(payload, self._max)
            except TooLarge:
                raise Broken(TOO_BIG, f"a message of over {self._max} bytes, inflated") from None
            except BadFrame as error:
                raise Broken(NOT_TEXT, str(error)) from None
        if opcode == TEXT and not payload.isascii():
            try:
                payload.decode()
            except UnicodeDecodeError:
                raise Broken(NOT_TEXT, "a text message is not UTF-8") from None
        return payload


def close_of(payload: bytes) -> tuple[int, str]:
    """The code and the reason in a close frame that the reader has let through."""
    if not payload:
        return NO_STATUS, ""
    return int.from_bytes(payload[:2]), payload[2:].decode()


def _check_close(payload: bytes) -> None:
    if not payload:
        return
    code = int.from_bytes(payload[:2])
    if len(payload) == 1 or not (code in _CODES or 3000 <= code < 5000):
        raise Broken(PROTOCOL_ERROR, "a close frame with a code that may not stand in one")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise Broken(NOT_TEXT, "the reason of a close frame is not UTF-8") from None


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    pattern = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(pattern)).to_bytes(size)
