"""Subscribing over Server-Sent Events, without the I/O: what to ask for, and what an answer means.

1. `position` is where the next request goes on: everything up to it has been yielded. Every block
   with an id moves it, also those without an event.
2. A gap does not move it: what is left of the gap's stretch still comes, and moves it.
3. A stream ends in an exception: `ComeBack`, or what `farewell` makes of a final reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
from msgspec import Raw

from twinwire.client.errors import Refused, farewell
from twinwire.client.items import Connected, Item, Since
from twinwire.core.event import CONTROL_TYPES, Event, Kind, Position
from twinwire.core.feed import Gap, Mode, Why
from twinwire.errors import BadFrame, BadPosition
from twinwire.wires.sse import Message, SseParser

SILENCE: Final = 37.5
"""Seconds of silence after which a stream is dead: two and a half heartbeats of 15 s."""


class _Envelope(msgspec.Struct):
    channel: str
    time: int = 0
    data: Raw = Raw(b"null")
    b64data: bytes | None = None
    key: str | None = None
    type: str | None = None
    tags: dict[str, str] | None = None


class _Gap(msgspec.Struct):
    begin: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to")
    reason: str = ""


class _Farewell(msgspec.Struct):
    code: int = 0
    reason: str = ""
    retry: int | None = None
    channel: str = ""


_envelope: Final = msgspec.json.Decoder(_Envelope).decode
_gap: Final = msgspec.json.Decoder(_Gap).decode
_farewell: Final = msgspec.json.Decoder(_Farewell).decode


class Request(NamedTuple):
    """A GET request's query and headers."""

    query: dict[str, str | list[str]]
    headers: dict[str, str]


class SseReader:
    """One subscription, over as many connections as it takes."""

    def __init__(
        self, channels: Sequence[str], mode: Mode, since: Since, silence: float = SILENCE
    ) -> None:
        self.channels = tuple(channels)
        self.mode = mode
        self.position = since
        self.patience = silence
        """Seconds of silence after which the connection is dead."""
        self.retry: float | None = None
        """Seconds that the server wants a client to wait before it comes back."""
        self._connected = False

    def request(self) -> Request:
        """What to ask for; the body of the answer then goes to `receive`."""
        self._parser = SseParser()
        self._connected = False
        query: dict[str, str | list[str]] = {
            "channel": list(self.channels),
            "mode": self.mode.value,
            "format": "event",
        }
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "gzip"}
        if self.position is not None:
            headers["Last-Event-ID"] = str(self.position)
        return Request(query, headers)

    def receive(self, piece: bytes) -> Iterator[Item]:
        """What a piece of the answer's body brings.

        Raises `ComeBack`, `Closed` and `Refused` as the server says, and `BadFrame` for what is no
        stream of ours.
        """
        for message in self._parser.feed(piece):
            if not self._connected:
                self._connected = True
                yield Connected(self.position)
            if message.retry is not None:
                self.retry = message.retry / 1000
            try:
                item = self._item(message)
            except (msgspec.DecodeError, BadPosition, UnicodeError) as error:
                raise BadFrame(f"not a stream of twinwire's: {error}") from None
            if item is not None:
                yield item

    def _item(self, message: Message) -> Event | Gap | None:
        if message.data is None or message.type == "heartbeat":
            self._move(message)
            return None
        if message.type == "gap":
            gap = _gap(message.data)
            begin, end = Position.parse(gap.begin), Position.parse(gap.end)
            return Gap(begin, end, why(gap.reason), self.channels)
        if message.type in ("reconnect", "error"):
            last = _farewell(message.data)
            delay = None if last.retry is None else last.retry / 1000
            raise farewell(last.code, last.reason, delay)
        if message.type == "unsubscribe":
            left = _farewell(message.data)
            raise Refused(left.code, f"{left.channel}: {left.reason or 'unsubscribed'}")
        if message.type in CONTROL_TYPES:
            return None
        self._move(message)
        assert isinstance(self.position, Position)
        return _event(_envelope(message.data), self.position)

    def _move(self, message: Message) -> None:
        if message.id:
            self.position = Position.parse(message.id)
        elif message.data is not None:
            raise BadPosition(message.id)


def _event(said: _Envelope, position: Position) -> Event:
    # Text and a JSON string look the same in here, and `Event.json` is the same for both.
    if said.b64data is None:
        data, kind = bytes(said.data), Kind.JSON
    else:
        data, kind = said.b64data, Kind.BYTES
    return Event(
        said.channel, data, position.epoch, position.seq, said.time,
        kind, said.key, said.type, said.tags,
    )  # fmt: skip


def why(text: str) -> Why:
    """The reason of a gap; one that this client does not know is taken for the usual one."""
    try:
        return Why(text)
    except ValueError:
        return Why.EVICTED
