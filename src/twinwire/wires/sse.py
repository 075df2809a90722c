"""Server-Sent Events (WHATWG HTML, section 9.2): events to blocks, and blocks back to messages.

Every event's block carries its position as `id`, so that any place where the connection breaks is
a place to go on from. A block with an `id` and no `data` moves the browser's last event id and
fires nothing: the priming block and the heartbeats are such.

What is in `data` is chosen by the client: with format `data` just what was published (bytes as
base64), with format `event` a JSON object that also names the channel::

    {"channel": "prices.EURUSD", "data": {"bid": 1.1}, "key": "EURUSD", "time": 1763800000123}

Control events (`gap`, `heartbeat`, `join`, `leave`, `unsubscribe`, `reconnect`, `error`) have a
type that no publisher may use.
"""

from __future__ import annotations

import base64
import codecs
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from twinwire.core.event import Event, Kind, Position
from twinwire.core.feed import Gap
from twinwire.core.presence import Change
from twinwire.errors import BadFrame, Reason, Unsubscribed
from twinwire.wires import deflate

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")


class SseEncoding:
    """Writes one event as one block. Control fields come from checked values (no line ends)."""

    per_selector = False
    separator = b""

    def __init__(self, *, envelope: bool) -> None:
        """`envelope` chooses format `event` over format `data`."""
        self.envelope = envelope

    def event(self, event: Event, selector: str = "") -> bytes:
        """The block of `event`."""
        if self.envelope:
            data = _envelope(event)
        elif event.kind is Kind.BYTES:
            data = base64.b64encode(event.data)
        else:
            data = event.data
        if b"\n" in data or b"\r" in data:
            # Each line of the data gets a field name of its own: a published line break can end
            # a field, but never begin one. The reader puts them together with "\n".
            data = b"\ndata: ".join(_LINE_END.split(data))
        if event.type is None:
            return b"id: %d-%d\ndata: %b\n\n" % (event.epoch, event.seq, data)
        return b"id: %d-%d\nevent: %b\ndata: %b\n\n" % (
            event.epoch, event.seq, event.type.encode(), data,
        )  # fmt: skip


def _envelope(event: Event) -> bytes:
    fields: dict[str, Any] = {"channel": event.channel}
    if event.kind is Kind.JSON:
        fields["data"] = msgspec.Raw(event.data)
    elif event.kind is Kind.TEXT:
        fields["data"] = event.data.decode()
    else:
        fields["b64data"] = event.data
    if event.key is not None:
        fields["key"] = event.key
    if event.type is not None:
        fields["type"] = event.type
    if event.tags:
        fields["tags"] = event.tags
    fields["time"] = event.time
    return msgspec.json.encode(fields)


class SseWire:
    """An event stream: an encoding, and how its bytes are coded and framed."""

    resumes = True

    def __init__(self, encoding: SseEncoding, *, chunked: bool, gzip: bool) -> None:
        """`chunked`: RFC 9112, section 7.1, for a sink that writes to the socket itself. `gzip`:
        for a body with that content coding."""
        self.encoding = encoding
        self.chunked = chunked
        self.packs = gzip

    def join(self, parts: Sequence[bytes], readers: int = 1) -> bytes:
        """The bytes of these blocks."""
        body = b"".join(parts)
        if self.packs and body:
            body = deflate.compressed(body, readers) or deflate.stored(body)
        return self._framed(body)

    def first(self, block: bytes) -> bytes:
        """The bytes of a stream's first block."""
        head = deflate.GZIP_HEAD + deflate.stored(block) if self.packs else block
        return self._framed(head)

    def last(self, block: bytes) -> bytes:
        """The bytes of a stream's last block."""
        return self._framed(deflate.stored(block) + deflate.LAST if self.packs else block)

    def _framed(self, body: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(body), body) if self.chunked and body else body

    def gap(self, gap: Gap) -> bytes:
        """The control event `gap`. It has no id: what follows the gap moves the position."""
        return control("gap", {"from": str(gap.begin), "to": str(gap.end), "reason": gap.why.value})

    def change(self, change: Change) -> bytes:
        """The control event `join` or `leave`. It has no id: it is not of the log."""
        type = "join" if change.joined else "leave"
        return control(type, {"channel": change.channel, "info": change.member})


_DATA, _EVENT = SseEncoding(envelope=False), SseEncoding(envelope=True)
_WIRES: Final = {
    (envelope, chunked, gzip): SseWire(_EVENT if envelope else _DATA, chunked=chunked, gzip=gzip)
    for envelope in (False, True)
    for chunked in (False, True)
    for gzip in (False, True)
}


def wire(*, envelope: bool, chunked: bool, gzip: bool = False) -> SseWire:
    """The one wire of this kind: lanes are found by their wire's identity."""
    return _WIRES[envelope, chunked, gzip]


def control(type: str, data: dict[str, Any], position: Position | None = None) -> bytes:
    """A block that the server itself speaks; a `position` moves the client's."""
    head = b"" if position is None else b"id: %d-%d\n" % position
    return b"%bevent: %b\ndata: %b\n\n" % (head, type.encode(), msgspec.json.encode(data))


def priming(retry: int, position: Position) -> bytes:
    """The first block: the delay before a reconnect in ms, and where the stream begins."""
    return b"retry: %d\nid: %d-%d\n\n" % (retry, *position)


def heartbeat(position: Position, *, visible: bool = False) -> bytes:
    """Keeps the connection alive and moves the client's position; `visible` to page code too."""
    if visible:
        return control("heartbeat", {"position": str(position)}, position)
    return b"id: %d-%d\n\n" % position


def unsubscribed(channel: str, why: Unsubscribed) -> bytes:
    """Tells that `channel`, a name or a pattern, is no longer in the stream."""
    return control("unsubscribe", {"channel": channel, "code": why.code, "reason": why.text})


def farewell(reason: Reason, retry: int) -> bytes:
    """The last block: `reconnect` after `retry` ms, or `error` if coming back is no use."""
    data = {"code": reason.code, "reason": reason.text}
    if not reason.reconnect:
        return control("error", data)
    return b"retry: %d\n" % retry + control("reconnect", {**data, "retry": retry})


class Message(NamedTuple):
    """What the parser found: a block with data, or one that only moves the id or the retry time.

    `data` is None for the latter. `id` is the last event id in force, `retry` in ms.
    """

    type: str
    data: str | None
    id: str
    retry: int | None


class SseParser:
    """Reads an event stream from pieces of any size, as section 9.2.6 of the standard says.

    Unlike a browser it also tells of blocks without data, since our positions move by them.
    """

    def __init__(self, *, last_id: str = "", max_bytes: int = 16 << 20) -> None:
        """`max_bytes` bounds one block."""
        self.last_id = last_id
        self._max = max_bytes
        self._rest = bytearray()
        self._began = False
        self._after_cr = False
        self._clear()

    def _clear(self) -> None:
        self._data: list[str] = []
        self._type = ""
        # Not in force before the block is whole: a connection that breaks inside of it must
        # resume before it.
        self._id: str | None = None
        self._retry: int | None = None
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[Message]:
        """The messages that `piece` completes. Raises `BadFrame` for a block over the bound."""
        if not piece:
            return
        # A carriage return ends its line at once; a line feed that follows belongs to it.
        begin = 1 if self._after_cr and piece.startswith(b"\n") else 0
        self._after_cr = piece.endswith(b"\r")
        *lines, rest = _LINE_END.split(piece[begin:])
        for line in lines:
            self._rest += line
            self._check()
            whole = bytes(self._rest)
            self._rest.clear()
            if not self._began:
                self._began = True
                whole = whole.removeprefix(codecs.BOM_UTF8)
            if whole:
                self._size += len(whole)
                self._field(whole.decode(errors="replace"))
            elif (message := self._end()) is not None:
                yield message
        self._rest += rest
        self._check()

    def _check(self) -> None:
        if self._size + len(self._rest) > self._max:
            raise BadFrame(f"an event stream block is over {self._max} bytes")

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit() and len(value) < 16:
            self._retry = int(value)

    def _end(self) -> Message | None:
        data = "\n".join(self._data) if self._data else None
        found = None
        if self._id is not None:
            self.last_id = self._id
        if data is not None or self._id is not None or self._retry is not None:
            found = Message(self._type or "message", data, self.last_id, self._retry)
        self._clear()
        return found
