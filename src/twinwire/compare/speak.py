"""What the load clients say and how they read the answers: bytes only, and as few as will do.

The clients look for time stamps in what comes and parse nothing else, so that a few hundred of them
cost little. A stamp is the clock's ns when the event was born, 19 digits::

    {"symbol": "EURUSD", "bid": 1.08412, "ask": 1.08415, "t": "0000123456789012345"}
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec

from twinwire.client.address import Address
from twinwire.core.event import Position

KEY: Final = "EURUSD"

MARK: Final = re.compile(rb'"t":"(\d{19})"|\x81\x02\{\}')
"""A stamp, or a ping of the protocol: the WebSocket text frame `{}`."""

TAIL: Final = len('"t":"') + 19
"""Bytes that may be the beginning of a mark, less than a whole one."""

_HEAD_MAX: Final = 64 * 1024
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_STREAM: Final = re.compile(rb"\r\ncontent-type: *text/event-stream", re.IGNORECASE)
_ERROR: Final = re.compile(rb'"error":\{"code":(\d+),"message":"([^"]*)"')


class NotOpened(Exception):
    """The other side does not do what is asked. `status` is HTTP's, or 0; `why` is in words."""

    def __init__(self, status: int, why: str) -> None:
        self.status = status
        self.why = why
        super().__init__(status, why)

    def __str__(self) -> str:
        return f"{self.why} ({self.status})" if self.status else self.why


class Target(NamedTuple):
    """A server as the load clients see it."""

    address: Address
    host: str
    port: int
    secure: bool
    prefix: str
    authority: str

    @classmethod
    def of(cls, url: str) -> Target:
        """Raises `BadInput` for what is no URL."""
        address = Address(url)
        parts = urlsplit(address.url)
        port = parts.port or (443 if address.secure else 80)
        authority = parts.netloc.rpartition("@")[2]
        return cls(address, parts.hostname or "", port, address.secure, parts.path, authority)


def data(stamp: int) -> bytes:
    """What is published: a price, and when it was born."""
    return b'{"symbol":"EURUSD","bid":1.08412,"ask":1.08415,"t":"%019d"}' % stamp


def get_stream(
    target: Target, channel: str, *, after: Position | None = None, latest: bool = False
) -> bytes:
    """The request for an event stream, after a position or with the latest of each key."""
    query = f"channel={quote(channel)}" + ("&mode=latest" if latest else "")
    last = f"Last-Event-ID: {after}\r\n" if after is not None else ""
    return (
        f"GET {target.prefix}/sse?{query} HTTP/1.1\r\nHost: {target.authority}\r\n"
        f"Accept: text/event-stream\r\nAccept-Encoding: identity\r\n{last}\r\n"
    ).encode()


def get_socket(target: Target) -> bytes:
    """The request for a WebSocket (RFC 6455, section 4.1)."""
    return (
        f"GET {target.prefix}/ws HTTP/1.1\r\nHost: {target.authority}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dHdpbndpcmUgY29tcGFyZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def frame(text: bytes) -> bytes:
    """A text frame of a client. The mask is zero: it has to be there, and may be any (5.3)."""
    if len(text) < 126:
        return b"\x81%c\0\0\0\0%b" % (0x80 | len(text), text)
    return b"\x81\xfe%b\0\0\0\0%b" % (len(text).to_bytes(2), text)


PONG: Final = frame(b"{}")


def subscribing(channel: str, *, after: Position | None = None, latest: bool = False) -> bytes:
    """The commands that begin a connection and its subscription, in one frame as SDKs may do."""
    wanted: dict[str, object] = {"channel": channel}
    if after is not None:
        wanted |= {"recover": True, "epoch": str(after.epoch), "offset": after.seq}
    if latest:
        wanted["data"] = {"mode": "latest"}
    subscribe = msgspec.json.encode({"id": 2, "subscribe": wanted})
    return frame(b'{"id":1,"connect":{}}\n' + subscribe)


def post(target: Target, method: str, body: bytes, api_key: str | None) -> bytes:
    """A request to the HTTP API."""
    key = f"X-API-Key: {api_key}\r\n" if api_key else ""
    return (
        f"POST {target.prefix}/api/{method} HTTP/1.1\r\nHost: {target.authority}\r\n{key}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def publication(channel: str, stamp: int) -> bytes:
    """The arguments of `publish`."""
    return b'{"channel":%b,"key":"EURUSD","data":%b}' % (
        msgspec.json.encode(channel), data(stamp),
    )  # fmt: skip


def batch(channel: str, stamp: int, count: int) -> bytes:
    """The body of a batch that publishes `count` events."""
    command = b'{"publish":%b}' % publication(channel, stamp)
    return b'{"commands":[%b]}' % b",".join([command] * count)


class _Place(msgspec.Struct):
    offset: int
    epoch: str


class _Error(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Published(msgspec.Struct):
    publish: _Place | None = None
    result: _Place | None = None
    error: _Error | None = None


class _Replies(msgspec.Struct):
    replies: list[_Published]


def position(body: bytes) -> Position:
    """Where the event, or the last one of a batch, was published. Raises `NotOpened`."""
    try:
        if body.startswith(b'{"replies"'):
            said = msgspec.json.decode(body, type=_Replies).replies[-1]
        else:
            said = msgspec.json.decode(body, type=_Published)
    except (msgspec.DecodeError, UnicodeError, IndexError):
        raise NotOpened(0, "what answers is not twinwire's API") from None
    if said.error is not None:
        raise NotOpened(said.error.code, said.error.message)
    place = said.result or said.publish
    if place is None:
        raise NotOpened(0, "what answers is not twinwire's API")
    return Position.parse(f"{place.epoch}-{place.offset}")


def why_not(head: bytes, body: bytes) -> str:
    """Why a server refuses, from its answer: its own words, or else the status line."""
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, UnicodeError, LookupError, TypeError):
        line = head.partition(b"\r\n")[0].decode(errors="replace")
        return line.partition(" ")[2].partition(" ")[2].lower() or "no reason given"


class Answer:
    """Reads one HTTP answer from pieces."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, piece: bytes) -> tuple[int, bytes] | None:
        """The status and the body, once they are there. Raises `NotOpened`."""
        self._buffer += piece
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            _not_yet(self._buffer)
            return None
        status = _status(head)
        if (whole := _body(head, rest)) is None:
            return None
        if status != 200:
            raise NotOpened(status, why_not(head, whole))
        return status, whole


def _body(head: bytes, rest: bytes) -> bytes | None:
    """The body of the answer with this head, once all of it is in `rest`; without a length, what
    there is."""
    if (length := _LENGTH.search(head)) is not None:
        return rest[: int(length[1])] if len(rest) >= int(length[1]) else None
    return _unchunked(rest) if _CHUNKED.search(head) else rest


def _not_yet(buffer: bytes) -> None:
    if len(buffer) > _HEAD_MAX or not b"HTTP/".startswith(buffer[:5]):
        raise NotOpened(0, "what answers is not an HTTP server")


def _status(head: bytes) -> int:
    found = _STATUS.match(head)
    if found is None:
        raise NotOpened(0, "what answers is not an HTTP/1.1 server")
    return int(found[1])


def _unchunked(rest: bytes) -> bytes | None:
    """The body of whole chunks (RFC 9112, section 7.1), or None while the last is not there."""
    body = b""
    while True:
        size, end, rest = rest.partition(b"\r\n")
        if not end:
            return None
        length = int(size.partition(b";")[0], 16)
        if length == 0:
            return body
        if len(rest) < length + 2:
            return None
        body, rest = body + rest[:length], rest[length + 2 :]


class StreamOpening:
    """The beginning of an event stream: live when its first block is there."""

    def __init__(self, request: bytes) -> None:
        self.first = request
        self._buffer = b""

    def feed(self, piece: bytes) -> tuple[bytes, bytes | None]:
        """What to send now, and what came after the opening once it is live.

        Raises `NotOpened`.
        """
        self._buffer += piece
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            _not_yet(self._buffer)
            return b"", None
        status = _status(head)
        if status != 200:
            if (said := _body(head, rest)) is None:
                return b"", None
            raise NotOpened(status, why_not(head, said))
        if not _STREAM.search(head):
            raise NotOpened(status, "no event stream: is this twinwire's URL?")
        return b"", rest if b"\n\n" in rest else None


class SocketOpening:
    """The beginning of a WebSocket: live when the command `awaited` is answered."""

    def __init__(self, request: bytes, commands: bytes, awaited: int = 2) -> None:
        self.first = request
        self._commands = commands
        self._awaited = b'"id":%d' % awaited
        self._buffer = b""
        self._upgraded = False

    def feed(self, piece: bytes) -> tuple[bytes, bytes | None]:
        """As `StreamOpening.feed`."""
        self._buffer += piece
        if self._upgraded:
            return b"", self._live()
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            _not_yet(self._buffer)
            return b"", None
        status = _status(head)
        if status != 101:
            if (said := _body(head, rest)) is None:
                return b"", None
            raise NotOpened(status, f"no WebSocket here: {why_not(head, said)}")
        self._upgraded, self._buffer = True, rest
        return self._commands, self._live()

    def _live(self) -> bytes | None:
        if (error := _ERROR.search(self._buffer)) is not None:
            raise NotOpened(int(error[1]), error[2].decode(errors="replace"))
        if self._buffer.startswith(b"\x88"):
            raise NotOpened(
                int.from_bytes(self._buffer[2:4]), self._buffer[4:].decode(errors="replace")
            )
        return self._buffer if self._awaited in self._buffer else None
