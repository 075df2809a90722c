"""The opening handshake, with the example of RFC 6455, section 1.3."""

import pytest

from twinwire.wires.handshake import BadHandshake, accepted, key_of, offered

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
GOOD = [(b"host", b"x"), (b"sec-websocket-version", b"13"), (b"sec-websocket-key", KEY)]


def test_a_request_to_upgrade_is_accepted_with_its_key() -> None:
    head = accepted(key_of("GET", "1.1", GOOD), [(b"sec-websocket-protocol", b"chat")])
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 101 Switching Protocols"
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in lines
    assert b"sec-websocket-protocol: chat" in lines
    assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("method", "version", "headers", "status", "words"),
    [
        ("POST", "1.1", GOOD, 400, "GET"),
        ("GET", "1.0", GOOD, 400, "HTTP/1.1"),
        ("GET", "1.1", [GOOD[1]], 400, "sec-websocket-key"),
        ("GET", "1.1", [GOOD[1], (b"sec-websocket-key", b"short")], 400, "16 bytes"),
        ("GET", "1.1", [GOOD[1], (b"sec-websocket-key", b"?" * 24)], 400, "base64"),
        ("GET", "1.1", [*GOOD, GOOD[2]], 400, "twice"),
        ("GET", "1.1", [GOOD[2]], 426, "13"),
        ("GET", "1.1", [GOOD[2], (b"sec-websocket-version", b"8")], 426, "13"),
    ],
)
def test_what_cannot_be_granted_is_refused_with_a_reason(
    method: str, version: str, headers: list[tuple[bytes, bytes]], status: int, words: str
) -> None:
    with pytest.raises(BadHandshake, match=words) as caught:
        key_of(method, version, headers)
    assert caught.value.status == status


def test_subprotocols_are_read_from_one_header_and_from_several() -> None:
    headers = [(b"sec-websocket-protocol", b"a, b"), (b"sec-websocket-protocol", b"c")]
    assert offered(headers) == ["a", "b", "c"]
    assert offered([]) == []
