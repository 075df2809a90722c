"""What the load clients say, and how they read answers that are cut anywhere."""

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinwire.compare import speak
from twinwire.compare.speak import Answer, NotOpened, SocketOpening, StreamOpening, Target
from twinwire.core.event import Position
from twinwire.wires.centrifuge_json import decode

TARGET = Target.of("http://h.example:81/live/")

STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n"
    b"14\r\nretry: 2000\nid: 1-2\n\n\r\n"
)
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
SUBSCRIBED = b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"epoch":"1","offset":2}}'


def pieces(data: bytes) -> list[bytes]:
    return [data[n : n + 1] for n in range(len(data))]


@pytest.mark.parametrize(
    ("url", "host", "port", "secure", "prefix"),
    [
        ("http://h", "h", 80, False, ""),
        ("wss://h/live/", "h", 443, True, "/live"),
        ("https://u:p@h:8443", "h", 8443, True, ""),
        ("http://[::1]:8000", "::1", 8000, False, ""),
    ],
)
def test_a_target_is_taken_from_its_url(
    url: str, host: str, port: int, secure: bool, prefix: str
) -> None:
    target = Target.of(url)
    assert (target.host, target.port, target.secure, target.prefix) == (host, port, secure, prefix)


def test_a_stream_is_asked_for_with_position_and_mode() -> None:
    text = speak.get_stream(TARGET, "a b&c", after=Position(7, 8), latest=True).decode()
    assert text.startswith("GET /live/sse?channel=a%20b%26c&mode=latest HTTP/1.1\r\n")
    assert "\r\nHost: h.example:81\r\n" in text
    assert "\r\nLast-Event-ID: 7-8\r\n" in text


def test_commands_are_those_of_the_protocol() -> None:
    said = speak.subscribing("a", after=Position(7, 8), latest=True)
    connect, subscribe = decode(said[6:])
    assert connect.connect is not None
    assert subscribe.subscribe is not None
    assert (subscribe.subscribe.recover, subscribe.subscribe.epoch) == (True, "7")


@given(st.binary(max_size=300))
def test_a_frame_carries_its_text_as_it_is(text: bytes) -> None:
    framed = speak.frame(text)
    assert framed.endswith(text)
    assert len(framed) == len(text) + (6 if len(text) < 126 else 8)


def test_what_is_published_has_its_stamp() -> None:
    body = speak.publication("a", 12345)
    said = msgspec.json.decode(body)
    assert said["data"]["t"] == f"{12345:019}"
    assert [int(found[1]) for found in speak.MARK.finditer(body)] == [12345]
    assert len(speak.MARK.findall(speak.batch("a", 1, 20))) == 20


def test_a_mark_fits_into_the_tail() -> None:
    mark = re.search(speak.MARK, speak.data(1))
    assert mark is not None
    assert len(mark[0]) - 1 <= speak.TAIL


@pytest.mark.parametrize("parts", [[STREAM], pieces(STREAM)], ids=["whole", "byte by byte"])
def test_a_stream_is_live_with_its_first_block(parts: list[bytes]) -> None:
    opening = StreamOpening(b"GET")
    ends = [opening.feed(part)[1] for part in parts]
    live = next(n for n, rest in enumerate(ends) if rest is not None)
    assert b"".join(parts[: live + 1]).rstrip(b"\r\n").endswith(b"id: 1-2")


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "byte by byte"])
def test_a_socket_is_live_when_the_subscription_is_answered(cut: bool) -> None:
    opening = SocketOpening(b"GET", b"commands")
    sent, rest = [], None
    for part in pieces(UPGRADED) if cut else [UPGRADED]:
        send, rest = opening.feed(part)
        sent.append(send)
    assert b"".join(sent) == b"commands"
    assert rest is None
    for part in pieces(SUBSCRIBED) if cut else [SUBSCRIBED]:
        _, rest = opening.feed(part)
    assert rest == SUBSCRIBED


@pytest.mark.parametrize(
    ("said", "status", "why"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", 403, "forbidden"),
        (b'HTTP/1.1 429 No\r\n\r\n{"error":{"message":"too many"}}', 429, "too many"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n", 200, "no event stream"),
        (b"SSH-2.0-OpenSSH\r\n", 0, "not an HTTP server"),
    ],
)
def test_a_stream_that_is_refused_says_why(said: bytes, status: int, why: str) -> None:
    with pytest.raises(NotOpened, match=why) as error:
        StreamOpening(b"").feed(said)
    assert error.value.status == status


def test_why_a_stream_is_refused_may_come_after_the_head_of_the_answer() -> None:
    opening = StreamOpening(b"")
    body = b'{"error":{"message":"denied"}}'
    assert opening.feed(b"HTTP/1.1 403 No\r\nContent-Length: %d\r\n\r\n" % len(body)) == (b"", None)
    with pytest.raises(NotOpened, match="denied"):
        opening.feed(body)


@pytest.mark.parametrize(
    ("after", "status", "why"),
    [
        (b'{"id":2,"error":{"code":103,"message":"permission denied"}}', 103, "permission denied"),
        (b"\x88\x07\x0d\xb0no", 3504, "no"),
    ],
)
def test_a_socket_that_is_refused_says_why(after: bytes, status: int, why: str) -> None:
    opening = SocketOpening(b"", b"")
    with pytest.raises(NotOpened, match=why) as error:
        opening.feed(UPGRADED + after)
    assert error.value.status == status


def test_no_upgrade_is_no_websocket() -> None:
    with pytest.raises(NotOpened, match="no WebSocket here: bad request"):
        SocketOpening(b"", b"").feed(b"HTTP/1.1 400 Bad Request\r\n\r\n")


BODY = b'{"result":{"offset":2,"epoch":"1"}}'
ANSWERS = {
    "length": b"HTTP/1.1 200 OK\r\ncontent-length: 35\r\n\r\n" + BODY,
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;x=y\r\n" + BODY[:5] + b"\r\n1e\r\n" + BODY[5:] + b"\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("said", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_read_whole_and_byte_by_byte(said: bytes) -> None:
    assert Answer().feed(said) == (200, BODY)
    answer = Answer()
    found = [found for part in pieces(said) if (found := answer.feed(part)) is not None]
    assert found[0] == (200, BODY)


def test_positions_are_read_from_both_kinds_of_answers() -> None:
    assert speak.position(BODY) == Position(1, 2)
    first, last = (b'{"publish":{"offset":%d,"epoch":"1"}}' % offset for offset in (1, 2))
    replies = b'{"replies":[%b,%b]}' % (first, last)
    assert speak.position(replies) == Position(1, 2)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"<html>", "not twinwire's API"),
        (b"{}", "not twinwire's API"),
        (b'{"replies":[]}', "not twinwire's API"),
        (b'{"error":{"code":107,"message":"bad request"}}', "bad request"),
    ],
)
def test_an_answer_without_a_position_says_why(body: bytes, why: str) -> None:
    with pytest.raises(NotOpened, match=why):
        speak.position(body)
