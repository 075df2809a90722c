"""Clients of the plainest kind, for tests: sockets, and parsers that accept nothing dubious.

They share no code with the package, nor with its libraries: what they read is what is on the wire.
"""

import base64
import hashlib
import http.client
import json
import os
import re
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

from tests.waiting import PATIENCE


class Block(NamedTuple):
    """One block of an event stream, with the fields that it had."""

    id: str | None = None
    event: str | None = None
    data: str | None = None
    retry: int | None = None

    @property
    def position(self) -> tuple[int, int]:
        assert self.id is not None
        epoch, seq = self.id.split("-")
        return int(epoch), int(seq)

    def json(self) -> Any:
        assert self.data is not None
        return json.loads(self.data)


def parse_block(text: str) -> Block:
    """A block's lines, of which each must be a field that we know, and none but data twice."""
    fields: dict[str, Any] = {}
    for line in text.split("\n"):
        name, colon, value = line.partition(":")
        assert colon, f"a line without a field name: {line!r}"
        assert name in ("id", "event", "data", "retry"), f"a field that nobody sends: {line!r}"
        value = value.removeprefix(" ")
        if name == "data" and "data" in fields:
            value = f"{fields['data']}\n{value}"
        else:
            assert name not in fields, f"twice in a block: {line!r}"
        fields[name] = value
    if "id" in fields:
        assert re.fullmatch(r"\d+-\d+", fields["id"]), fields["id"]
    if "retry" in fields:
        fields["retry"] = int(fields["retry"])
    return Block(**fields)


def parse_blocks(body: bytes) -> tuple[list[Block], bytes]:
    """The whole blocks of an event stream, and what follows the last one."""
    assert b"\r" not in body, "a line end that we never send, and that ends a line for browsers"
    *whole, rest = body.split(b"\n\n")
    return [parse_block(block.decode("utf-8", "strict")) for block in whole], rest


def connect(port: int, *, receive_buffer: int = 0) -> socket.socket:
    """A connection to a port on loopback. A small receive buffer makes a slow reader."""
    sock = socket.socket()
    try:
        sock.settimeout(PATIENCE)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return sock


class Head(NamedTuple):
    """A response's first line and headers (names in lower case)."""

    version: str
    status: int
    headers: dict[str, str]


class Response:
    """A response that is read as it comes, by the framing that its head announces."""

    def __init__(
        self, sock: socket.socket, method: str = "GET", *, after: "Response | None" = None
    ) -> None:
        """`after` is the response before this one on the same connection, read to its end."""
        self._sock = sock
        self._buffer: bytes = after._buffer if after is not None else b""
        self._method = method
        self.ended = False
        """Whether the body has come to its end, as its framing says."""
        self.head = self._read_head()
        self.status = self.head.status
        self.headers = self.head.headers
        self._chunked = self.headers.get("transfer-encoding") == "chunked"
        self._left = int(self.headers.get("content-length", -1))

    def _more(self) -> bool:
        piece = self._sock.recv(65536)
        self._buffer += piece
        return bool(piece)

    def _line(self) -> str:
        while b"\r\n" not in self._buffer:
            assert self._more(), f"the connection ended in a line: {self._buffer!r}"
        line, self._buffer = self._buffer.split(b"\r\n", 1)
        return line.decode("latin-1")

    def _read_head(self) -> Head:
        version, status, _ = self._line().split(" ", 2)
        headers: dict[str, str] = {}
        while line := self._line():
            name, _, value = line.partition(":")
            assert name.lower() not in headers, f"twice: {line}"
            headers[name.lower()] = value.strip()
        return Head(version, int(status), headers)

    def piece(self) -> bytes:
        """The next piece of the body; empty at its end."""
        if self.ended or self._method == "HEAD":
            self.ended = True
            return b""
        if self._chunked:
            size = self._line()
            assert re.fullmatch(r"[0-9a-fA-F]+", size), f"not a chunk's size: {size!r}"
            chunk = self._exactly(int(size, 16))
            assert self._exactly(2) == b"\r\n"
            self.ended = not chunk
            return chunk
        if self._left >= 0:
            body = self._exactly(self._left)
            self.ended = True
            return body
        while not self._buffer:
            if not self._more():
                self.ended = True
                return b""
        body, self._buffer = self._buffer, b""
        return body

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            assert self._more(), "the connection ended in a body"
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def body(self) -> bytes:
        """What is left of the body."""
        return b"".join(iter(self.piece, b""))

    def json(self) -> Any:
        return json.loads(self.body())


def get(path: str, *, method: str = "GET", version: str = "1.1", **headers: str) -> bytes:
    """A request without a body."""
    lines = [f"{method} {path} HTTP/{version}", "Host: 127.0.0.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def ask(
    port: int, path: str, *, method: str = "GET", version: str = "1.1", **headers: str
) -> tuple[Response, bytes]:
    """A response and its body, on a connection of its own."""
    with connect(port) as sock:
        sock.sendall(get(path, method=method, version=version, connection="close", **headers))
        response = Response(sock, method)
        return response, response.body()


class Stream:
    """An event stream, read block by block."""

    def __init__(self, sock: socket.socket, *, after: Response | None = None) -> None:
        self.sock = sock
        self.response = Response(sock, after=after)
        coded = self.response.headers.get("content-encoding") == "gzip"
        self._gzip = zlib.decompressobj(31) if coded else None
        self.size = 0
        """Bytes of the body, as they came."""
        self._rest = b""
        self._blocks: list[Block] = []

    def next(self) -> Block:
        """The next block, whatever it is."""
        while not self._blocks:
            assert self._read(), "the stream has ended"
        return self._blocks.pop(0)

    def _read(self) -> bool:
        piece = self.response.piece()
        self.size += len(piece)
        plain = self._gzip.decompress(piece) if self._gzip else piece
        self._blocks, self._rest = parse_blocks(self._rest + plain)
        return bool(piece)

    def event(self) -> Block:
        """The next block with data."""
        while True:
            block = self.next()
            if block.data is not None:
                return block

    def events(self, count: int) -> list[Block]:
        """The next blocks with data."""
        return [self.event() for _ in range(count)]

    def until(self, last: Callable[[Block], bool]) -> list[Block]:
        """The blocks with data up to and with the one that is the last."""
        found = [self.event()]
        while not last(found[-1]):
            found.append(self.event())
        return found

    def rest(self) -> list[Block]:
        """All blocks up to the stream's end."""
        found = self._blocks
        while self._read():
            found += self._blocks
        assert self._rest == b"", f"the stream ended in a block: {self._rest!r}"
        self._blocks = []
        return found


@contextmanager
def stream(
    port: int,
    path: str,
    *,
    version: str = "1.1",
    receive_buffer: int = 0,
    primed: bool = True,
    **headers: str,
) -> Iterator[Stream]:
    """An open event stream. Its priming block has been read: whatever is published now comes."""
    with connect(port, receive_buffer=receive_buffer) as sock:
        sock.sendall(get(path, version=version, **headers))
        opened = Stream(sock)
        assert opened.response.status == 200, opened.response.body()
        if primed:
            opened.next()
        yield opened


class Frame(NamedTuple):
    """A WebSocket frame, as RFC 6455 section 5.2 lays it out."""

    opcode: int
    payload: bytes
    fin: bool = True

    @property
    def code(self) -> int:
        """A close frame's code."""
        assert self.opcode == CLOSE
        code: int = struct.unpack_from("!H", self.payload)[0]
        return code

    @property
    def reason(self) -> str:
        """A close frame's reason."""
        assert self.opcode == CLOSE
        return self.payload[2:].decode()


CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(
    opcode: int, payload: bytes | str = b"", *, fin: bool = True, masked: bool = True, rsv: int = 0
) -> bytes:
    """A client's frame, right or wrong."""
    body = payload.encode() if isinstance(payload, str) else payload
    head = bytes([fin << 7 | rsv << 4 | opcode])
    size, mask_bit = len(body), masked << 7
    if size < 126:
        head += bytes([mask_bit | size])
    elif size < 65536:
        head += struct.pack("!BH", mask_bit | 126, size)
    else:
        head += struct.pack("!BQ", mask_bit | 127, size)
    if not masked:
        return head + body
    mask = os.urandom(4)
    repeated = (mask * (size // 4 + 1))[:size]
    mixed = int.from_bytes(body, "big") ^ int.from_bytes(repeated, "big")
    return head + mask + mixed.to_bytes(size, "big")


class Socket:
    """A WebSocket by hand."""

    def __init__(self, sock: socket.socket, path: str, **headers: str) -> None:
        self.sock = sock
        key = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(
            get(
                path,
                upgrade="websocket",
                connection="Upgrade",
                sec_websocket_version="13",
                sec_websocket_key=key,
                **headers,
            )
        )
        self.response = Response(sock)
        if self.response.status == 101:
            guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            digest = hashlib.sha1((key + guid).encode(), usedforsecurity=False).digest()
            accepted = self.response.headers["sec-websocket-accept"]
            assert accepted == base64.b64encode(digest).decode()

    def send(self, opcode: int, payload: bytes | str = b"", **how: Any) -> None:
        self.sock.sendall(frame(opcode, payload, **how))

    def read(self) -> Frame:
        """The next frame; a server's frames are never masked."""
        first, size = self.response._exactly(2)
        assert size < 128
        assert first & 0x70 == 0
        if size == 126:
            (size,) = struct.unpack("!H", self.response._exactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self.response._exactly(8))
        payload = self.response._exactly(size)
        return Frame(first & 0x0F, payload, bool(first & 0x80))

    def closed(self, *, answer: bool = True) -> Frame:
        """The server's close frame, whatever comes before it; then the connection's end.

        With `answer` off it is an answer itself, and wants none.
        """
        while (read := self.read()).opcode != CLOSE:
            continue
        if answer:
            self.send(CLOSE, read.payload[:2])
        assert not self.response._more(), "bytes after the close frame"
        return read


@contextmanager
def socket_to(
    port: int, path: str = "/ws", *, receive_buffer: int = 0, **headers: str
) -> Iterator[Socket]:
    """An open WebSocket."""
    with connect(port, receive_buffer=receive_buffer) as sock:
        opened = Socket(sock, path, **headers)
        assert opened.response.status == 101, opened.response.body()
        yield opened


class Talk:
    """A conversation in the Centrifuge protocol, in JSON, that has begun."""

    def __init__(self, socket: Socket, *, connect: bool = True) -> None:
        self.socket = socket
        self.pushes: list[dict[str, Any]] = []
        self._waiting: list[dict[str, Any]] = []
        self._id = 0
        self.result: dict[str, Any] = self.ask(connect={})["connect"] if connect else {}

    def say(self, *commands: dict[str, Any]) -> None:
        """Send commands in one frame."""
        self.socket.send(TEXT, "\n".join(json.dumps(command) for command in commands))

    def ask(self, **request: Any) -> Any:
        """Send one command and read its reply; pushes that come before it are kept."""
        self._id += 1
        self.say({"id": self._id, **request})
        return self.reply(self._id)

    def reply(self, id: int) -> Any:
        """The reply to the command of this id."""
        while True:
            reply = self._next()
            if "push" in reply:
                self.pushes.append(reply["push"])
            elif reply:
                assert reply["id"] == id, reply
                return reply

    def push(self) -> dict[str, Any]:
        """The next push."""
        if self.pushes:
            return self.pushes.pop(0)
        while not (reply := self._next()) or "push" not in reply:
            assert not reply, reply
        push: dict[str, Any] = reply["push"]
        return push

    def pushed(self, count: int) -> list[dict[str, Any]]:
        """The next pushes."""
        return [self.push() for _ in range(count)]

    def pub(self) -> dict[str, Any]:
        """What the next push has published."""
        pub: dict[str, Any] = self.push()["pub"]
        return pub

    def _next(self) -> dict[str, Any]:
        while not self._waiting:
            read = self.socket.read()
            assert read.opcode == TEXT, read
            assert read.fin
            self._waiting = [json.loads(line) for line in read.payload.decode().split("\n")]
        return self._waiting.pop(0)


@contextmanager
def talk(port: int, path: str = "/ws", **how: Any) -> Iterator[Talk]:
    """A connected conversation."""
    with socket_to(port, path, **how) as socket:
        yield Talk(socket)


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


class Api:
    """The HTTP API of one server, over one connection."""

    def __init__(self, port: int, prefix: str = "") -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._prefix = prefix

    def post(
        self, method: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and decoded answer; `body` is bytes as they are, or JSON."""
        raw = body if isinstance(body, bytes) else _compact(body or {})
        self._http.request("POST", f"{self._prefix}/api/{method}", raw, headers or {})
        response = self._http.getresponse()
        return response.status, json.loads(response.read())

    def result(self, method: str, **fields: Any) -> Any:
        """The result of a call that succeeds."""
        status, answer = self.post(method, fields)
        assert status == 200, answer
        assert "result" in answer, answer
        return answer["result"]

    def publish(self, channel: str, data: Any, **more: Any) -> str:
        """Publish one event; its position as text."""
        result = self.result("publish", channel=channel, data=data, **more)
        return f"{result['epoch']}-{result['offset']}"

    def publish_all(self, events: list[tuple[str, Any]]) -> list[str]:
        """Publish events in one request; their positions as text."""
        commands = [{"publish": {"channel": c, "data": d}} for c, d in events]
        status, answer = self.post("batch", {"commands": commands})
        assert status == 200, answer
        places = [reply["publish"] for reply in answer["replies"]]
        return [f"{place['epoch']}-{place['offset']}" for place in places]

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
