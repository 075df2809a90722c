"""Frames from a client, as another implementation writes them, cut anywhere."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plain import frame as masked
from twinwire.errors import BadFrame, TooLarge
from twinwire.wires.frame import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from twinwire.wires.frame_reader import Broken, FrameReader, Message, close_of

LIMIT = 1000


def read(reader: FrameReader, *pieces: bytes) -> list[Message]:
    found = []
    for piece in pieces:
        reader.feed(piece)
        while (message := reader.next()) is not None:
            found.append(message)
    return found


def broken(*frames: bytes, reader: FrameReader | None = None) -> int:
    with pytest.raises(Broken) as caught:
        read(reader or FrameReader(LIMIT), *frames)
    assert str(caught.value)
    return caught.value.code


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


MESSAGES = st.lists(
    st.one_of(
        st.builds(Message, st.just(TEXT), st.text(max_size=100).map(str.encode)),
        st.builds(Message, st.just(BINARY), st.binary(max_size=LIMIT)),
        st.builds(Message, st.sampled_from([PING, PONG]), st.binary(max_size=125)),
    ),
    max_size=5,
)


@given(MESSAGES, st.integers(1, 300))
def test_messages_come_out_whole_and_in_order_wherever_they_are_cut(
    messages: list[Message], size: int
) -> None:
    sent = b"".join(masked(message.opcode, message.payload) for message in messages)
    assert read(FrameReader(LIMIT), *cut(sent, size)) == messages


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=6), st.integers(1, 20))
def test_a_message_of_several_frames_comes_out_as_one_with_pings_in_between(
    parts: list[bytes], size: int
) -> None:
    sent = b""
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        sent += masked(CONTINUATION if index else BINARY, part, fin=last)
        if not last:
            sent += masked(PING, b"%d" % index)
    pings = [Message(PING, b"%d" % index) for index in range(len(parts) - 1)]
    whole = Message(BINARY, b"".join(parts))
    assert read(FrameReader(LIMIT), *cut(sent, size)) == [*pings, whole]


@given(st.binary(max_size=300))
def test_whatever_comes_gives_messages_or_a_documented_error(data: bytes) -> None:
    try:
        found = read(FrameReader(LIMIT), *cut(data, 7))
    except Broken as error:
        found, code = [], error.code
    else:
        code = 0
    assert code in (0, 1002, 1007, 1009)
    assert {message.opcode for message in found} <= {TEXT, BINARY, PING, PONG, CLOSE}


def test_a_message_waits_until_it_is_asked_for() -> None:
    reader = FrameReader(LIMIT)
    reader.feed(masked(TEXT, b"a") + masked(TEXT, b"b"))
    assert reader.next() == Message(TEXT, b"a")
    reader.feed(masked(TEXT, b"c"))
    assert reader.next() == Message(TEXT, b"b")
    assert reader.next() == Message(TEXT, b"c")
    assert reader.next() is None


@pytest.mark.parametrize("size", [0, 1, 3, 4, 125, 126, 127, 65535, 65536, 70_000])
def test_payloads_of_any_size_are_unmasked(size: int) -> None:
    payload = bytes(n % 251 for n in range(size))
    assert read(FrameReader(100_000), masked(BINARY, payload)) == [Message(BINARY, payload)]


def test_another_way_to_unmask_can_be_given() -> None:
    reader = FrameReader(LIMIT, unmask=lambda payload, mask: payload + b"/" + mask)
    (message,) = read(reader, b"\x82\x83mask" + b"abc")
    assert message.payload == b"abc/mask"


def test_a_message_as_large_as_allowed_passes_and_a_larger_one_is_told_by_its_head() -> None:
    assert read(FrameReader(LIMIT), masked(BINARY, b"x" * LIMIT))
    assert broken(masked(BINARY, b"x" * (LIMIT + 1))[:4]) == 1009


def test_the_frames_of_a_message_count_together() -> None:
    half = b"x" * (LIMIT // 2)
    rest = masked(CONTINUATION, half + b"x", fin=True)
    assert broken(masked(BINARY, half, fin=False), rest) == 1009


def test_a_ping_does_not_count_to_the_message_around_it() -> None:
    reader = FrameReader(10)
    frames = [masked(BINARY, b"x" * 10, fin=False), masked(PING, b"y" * 20)]
    assert read(reader, *frames) == [Message(PING, b"y" * 20)]


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(b"\x81\x01a", id="not masked"),
        pytest.param(b"\xc1\x80", id="RSV1 that nobody agreed on"),
        pytest.param(b"\xa1\x80", id="RSV2"),
        pytest.param(b"\x91\x80", id="RSV3"),
        pytest.param(b"\x83\x80", id="a reserved opcode"),
        pytest.param(b"\x8b\x80", id="a reserved control opcode"),
        pytest.param(b"\x09\x80", id="a fragmented ping"),
        pytest.param(b"\x89\xfe", id="a ping that is too long"),
        pytest.param(b"\x80\x80", id="a continuation of nothing"),
        pytest.param(masked(TEXT, b"a", fin=False) + masked(TEXT, b"b"), id="inside of another"),
        pytest.param(masked(CLOSE, b"x"), id="half a close code"),
        *(
            pytest.param(masked(CLOSE, code.to_bytes(2)), id=f"close {code}")
            for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
        ),
    ],
)
def test_what_is_against_the_protocol_is_told_at_once(wrong: bytes) -> None:
    assert broken(wrong) == 1002


@pytest.mark.parametrize(
    "wrong",
    [
        masked(TEXT, b"\xff"),
        masked(TEXT, b"\xc3", fin=False) + masked(CONTINUATION, b"\x28"),
        masked(CLOSE, b"\x03\xe8\xff"),
    ],
)
def test_text_that_is_not_utf_8_is_refused(wrong: bytes) -> None:
    assert broken(wrong) == 1007


def test_a_character_may_be_cut_by_the_frames_of_a_message() -> None:
    one, two = masked(TEXT, b"\xc3", fin=False), masked(CONTINUATION, b"\xa9")
    assert read(FrameReader(LIMIT), one, two) == [Message(TEXT, "é".encode())]


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (b"", (1005, "")),
        (b"\x03\xe8", (1000, "")),
        (b"\x0f\xa0bye", (4000, "bye")),
    ],
)
def test_a_close_frame_is_read(payload: bytes, found: tuple[int, str]) -> None:
    (message,) = read(FrameReader(LIMIT), masked(CLOSE, payload))
    assert close_of(message.payload) == found


# Compressed messages


def inflate(payload: bytes, max_bytes: int) -> bytes:
    try:
        data = zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff", max_bytes + 1)
    except zlib.error as error:
        raise BadFrame(str(error)) from None
    if len(data) > max_bytes:
        raise TooLarge("a message", "limit", max_bytes)
    return data


def deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-15)
    return (deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


def test_compressed_messages_are_inflated_where_that_is_agreed_on() -> None:
    reader = FrameReader(LIMIT, inflate=inflate)
    packed = deflated(b"text " * 50)
    frames = [
        masked(TEXT, packed, rsv=4),
        masked(TEXT, b"plain"),
        masked(BINARY, packed[:5], fin=False, rsv=4),
        masked(CONTINUATION, packed[5:]),
    ]
    expected = [(TEXT, b"text " * 50), (TEXT, b"plain"), (BINARY, b"text " * 50)]
    assert read(reader, *frames) == expected


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ((masked(TEXT, deflated(b"x" * (LIMIT + 1)), rsv=4),), 1009),
        ((masked(TEXT, b"\xff\xff\xff", rsv=4),), 1007),
        ((masked(TEXT, deflated(b"\xff"), rsv=4),), 1007),
        ((masked(PING, b"", rsv=4),), 1002),
        ((masked(TEXT, b"a", fin=False), masked(CONTINUATION, b"b", rsv=4)), 1002),
    ],
)
def test_what_is_wrong_with_a_compressed_message_is_told(
    frames: tuple[bytes, ...], code: int
) -> None:
    assert broken(*frames, reader=FrameReader(LIMIT, inflate=inflate)) == code
