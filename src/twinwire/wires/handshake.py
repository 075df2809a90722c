"""The opening handshake of a WebSocket from the server's side (RFC 6455, section 4.2)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from typing import Final

from twinwire.errors import BadFrame

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

Headers = Iterable[tuple[bytes, bytes]]
"""Names in lower case, and values."""


class BadHandshake(BadFrame):
    """A request to upgrade that cannot be granted; `status` is the HTTP status of the answer."""

    def __init__(self, status: int, why: str) -> None:
        self.status = status
        super().__init__(why)


def key_of(method: str, http_version: str, headers: Headers) -> bytes:
    """The key of a request to upgrade to WebSocket. Raises `BadHandshake` (section 4.2.1)."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in (b"sec-websocket-key", b"sec-websocket-version"):
            if name in found:
                raise BadHandshake(400, f"{name.decode()} twice")
            found[name] = value.strip()
    if method != "GET" or http_version != "1.1":
        raise BadHandshake(400, "a WebSocket is opened by GET over HTTP/1.1")
    if found.get(b"sec-websocket-version") != b"13":
        raise BadHandshake(426, "the version of WebSocket spoken here is 13")
    key = found.get(b"sec-websocket-key", b"")
    try:
        nonce = base64.b64decode(key, validate=True)
    except binascii.Error:
        nonce = b""
    if len(nonce) != 16:
        raise BadHandshake(400, "sec-websocket-key is not 16 bytes in base64")
    return key


def offered(headers: Headers) -> list[str]:
    """The subprotocols that the client offers, in its order of preference."""
    return [
        token.strip()
        for name, value in headers
        if name == b"sec-websocket-protocol"
        for token in value.decode("latin-1").split(",")
    ]


def accepted(key: bytes, headers: Headers) -> bytes:
    """The head of the response that opens the WebSocket, with more `headers` (section 4.2.2)."""
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept,
        *(b"%b: %b" % header for header in headers),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"
