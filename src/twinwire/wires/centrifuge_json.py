"""The Centrifuge client protocol in JSON: commands from frames, replies and events to frames.

Several commands or replies share a frame, joined by line breaks; that is why data that is spliced
in must hold none (`twinwire.core.event.draft` sees to it).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

import msgspec
from msgspec import Raw

from twinwire.core.event import Event, Kind, is_pattern
from twinwire.core.feed import Gap
from twinwire.core.presence import Change
from twinwire.core.protocol import (
    Command,
    JoinLeave,
    Publication,
    Push,
    Reply,
    UnsubscribePush,
)
from twinwire.errors import BadFrame, Closed, CloseReason, Unsubscribed
from twinwire.wires import deflate, frame

FRAME_MAX: Final = 64 * 1024
"""Bytes after which a frame takes no further reply: the SDKs refuse messages over their limit."""

_decode: Final = msgspec.json.Decoder(Command).decode
_encode: Final = msgspec.json.encode


def decode(text: str | bytes) -> list[Command]:
    """The commands of one frame. Raises `BadFrame`."""
    try:
        # The protocol ends or joins commands by line breaks; some clients do both.
        return [_decode(line) for line in _bytes(text).strip(b"\n").split(b"\n")]
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise BadFrame(f"not a command: {error}") from None


def _bytes(text: str | bytes) -> bytes:
    if isinstance(text, str):
        return text.encode()
    # Raw data is passed on unread: what is not UTF-8 would break every subscriber's text frames.
    text.decode()
    return text


def encode(reply: Reply) -> bytes:
    """One reply, without a line break."""
    return _encode(reply)


def publication(event: Event, selector: str) -> Publication:
    """`event` for a subscriber of `selector`. Raises `Closed` if JSON cannot carry it."""
    return Publication(
        Raw(_data(event)),
        event.publisher,
        event.seq,
        event.tags,
        event.time,
        event.channel if is_pattern(selector) else "",
    )


def _data(event: Event) -> bytes:
    if event.kind is Kind.JSON:
        return event.data
    if event.kind is Kind.TEXT:
        return _encode(event.data.decode())
    raise Closed(CloseReason.INAPPROPRIATE_PROTOCOL)


@lru_cache(maxsize=4096)
def _head(selector: str) -> bytes:
    return b'{"push":{"channel":%b,"pub":{"data":' % _encode(selector)


class _Encoding:
    """Writes one event as one push. Each subscription gets its own, under its own name."""

    per_selector = True
    separator = b"\n"

    def event(self, event: Event, selector: str) -> bytes:
        """The push of `event` to a subscriber of `selector`. Raises `Closed` as `publication`."""
        parts = [_head(selector), _data(event)]
        if event.publisher is not None:
            parts.append(b',"info":' + _encode(event.publisher))
        if event.tags:
            parts.append(b',"tags":' + _encode(event.tags))
        parts.append(b',"offset":%d,"time":%d' % (event.seq, event.time))
        if selector != event.channel:
            parts.append(b',"channel":' + _encode(event.channel))
        parts.append(b"}}}")
        return b"".join(parts)


_ENCODING: Final = _Encoding()


def _pieces(text: bytes) -> Iterator[bytes]:
    """Replies joined by line breaks, in pieces that fit into a frame."""
    begin = 0
    while len(text) - begin > FRAME_MAX:
        end = text.rfind(b"\n", begin, begin + FRAME_MAX + 1)
        if end < 0:
            # A single reply of that size has a frame of its own.
            end = text.find(b"\n", begin + FRAME_MAX)
            if end < 0:
                break
        yield text[begin:end]
        begin = end + 1
    yield text[begin:] if begin else text


class JsonWire:
    """Centrifuge JSON: an encoding, and whether its bytes are WebSocket frames already."""

    resumes = False

    def __init__(self, *, framed: bool, deflate: bool = False) -> None:
        """`framed`: for a sink that writes to the socket itself. `deflate`: such a one, with
        permessage-deflate and without context takeover (RFC 7692)."""
        self.encoding = _ENCODING
        self.framed = framed
        self.packs = deflate

    def join(self, parts: Sequence[bytes], readers: int = 1) -> bytes:
        """The frames, or with `framed` off the one text message, that carry these replies."""
        text = b"\n".join(parts)
        if not self.framed:
            return text
        if len(text) <= FRAME_MAX:
            return self._frame(text, readers)
        return b"".join(self._frame(piece, readers) for piece in _pieces(text))

    def _frame(self, text: bytes, readers: int) -> bytes:
        if self.packs and (payload := deflate.message(text, readers)) is not None:
            return frame.frame(frame.TEXT | frame.RSV1, payload)
        return frame.frame(frame.TEXT, text)

    def gap(self, gap: Gap) -> bytes:
        """Ends the subscriptions that have lost events; the SDK subscribes again and recovers."""
        why = Unsubscribed.INSUFFICIENT
        return b"\n".join(
            encode(Reply(push=Push(channel=s, unsubscribe=UnsubscribePush(why.code, why.text))))
            for s in gap.selectors
        )

    def change(self, change: Change) -> bytes:
        """The push that tells who has joined a channel or left it."""
        who = JoinLeave(change.member)
        if change.joined:
            return encode(Reply(push=Push(channel=change.channel, join=who)))
        return encode(Reply(push=Push(channel=change.channel, leave=who)))


FRAMED: Final = JsonWire(framed=True)
DEFLATED: Final = JsonWire(framed=True, deflate=True)
MESSAGES: Final = JsonWire(framed=False)
