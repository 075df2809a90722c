"""The Centrifuge protocol in JSON: whatever comes in, and what goes out, read by another parser."""

import json
import struct
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame
from websockets.streams import StreamReader

from twinwire.core.event import Event, Kind, Position, Publisher, draft
from twinwire.core.feed import Gap, Why
from twinwire.core.presence import Change
from twinwire.core.protocol import (
    Command,
    ConnectResult,
    Empty,
    Error,
    HistoryResult,
    Member,
    Publication,
    Reply,
    RpcResult,
    SubscribeResult,
)
from twinwire.errors import BadFrame, Closed, CloseReason
from twinwire.wires.centrifuge_json import (
    DEFLATED,
    FRAME_MAX,
    FRAMED,
    MESSAGES,
    JsonWire,
    decode,
    encode,
    publication,
)

EPOCH = 1_763_800_000_000


def event(data: Any, channel: str = "news", seq: int = 6, **more: Any) -> Event:
    made = draft(channel, data, max_bytes=1 << 20, **more)
    return Event.of(made, Position(EPOCH, seq), 1_763_800_000_123)


def pushed(event: Event, selector: str) -> Any:
    part = MESSAGES.encoding.event(event, selector)
    assert b"\n" not in part
    return json.loads(part)


# In


@pytest.mark.parametrize(
    ("frame", "ids"),
    [
        (b'{"id":1}', [1]),
        ('{"id":1}', [1]),
        (b'{"id":1}\n', [1]),
        (b'{"id":1}\n{"id":2}', [1, 2]),
        (b'\n{"id":1}\n{"id":2}\n\n', [1, 2]),
        (b"{}", [0]),
        (b'{"id":1,"unheard_of":{"x":[1,2]}}\r\n{"id":2}', [1, 2]),
        (b'{"id":4294967295}', [2**32 - 1]),
    ],
)
def test_a_frame_holds_one_command_a_line(frame: str | bytes, ids: list[int]) -> None:
    assert [command.id for command in decode(frame)] == ids


@pytest.mark.parametrize(
    "frame",
    [
        "",
        b"\n",
        b" ",
        b"null",
        b"1",
        b"[]",
        b'"connect"',
        b"{",
        b'{"id":}',
        b'{"id":-1}',
        b'{"id":4294967296}',
        b'{"id":1.5}',
        b'{"id":"1"}',
        b'{"id":1}{"id":2}',
        b'{"id":1}\n\n{"id":2}',
        b'{"id":1}\nnonsense',
        b'{"id":1,"connect":[]}',
        b'{"id":1,"subscribe":{"channel":7}}',
        b'{"id":1,"subscribe":{"channel":"a","offset":"9"}}',
        b'{"id":1,"subscribe":{"channel":"a","offset":1e300}}',
        b'{"id":1,"rpc":{"data":{"a":1}',
        b'{"id":1,"rpc":{"data":"a\nb"}}',
        b'{"id":1,"rpc":{"data":"\x00"}}',
        b'{"id":1,"rpc":{"data":NaN}}',
        b'{"id":1,"rpc":{"data":"\xff"}}',
        b'{"id":1,"rpc":{"data":{"\xff":1}}}',
        b'{"id":1,"unheard_of":"\xff"}',
        b"\xff\xfe",
        b"\x00",
        "\ud800",
        b'{"id":1,"rpc":{"data":' + b"[" * 100_000,
        b"[" * 100_000,
        b'{"id":1,"rpc":{"data":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}}",
    ],
)
def test_what_is_no_command_is_a_bad_frame(frame: str | bytes) -> None:
    with pytest.raises(BadFrame, match="not a command"):
        decode(frame)


pieces = st.sampled_from(
    [
        b'{"id":', b"1", b"-", b'"', b",", b"}", b"{", b"[", b"]", b"\n", b"\r", b":", b" ", b"0",
        b"null", b"true", b'"connect"', b'"subscribe"', b'"channel"', b'"rpc"', b'"data"', b"\\",
        b'"offset"', b"\xff", b"\\u0000", b"\\ud800", b"1e99", b"\x00", b"}}",
        b'{"id":1,"send":{"data":', b'"history":{"since":{',
    ]
)  # fmt: skip


@given(st.one_of(st.binary(), st.text(), st.lists(pieces).map(b"".join)))
@example(b'{"id":1,"rpc":{"data":"\xed\xa0\x80"}}')
def test_whatever_comes_is_commands_or_a_bad_frame(frame: str | bytes) -> None:
    try:
        commands = decode(frame)
    except BadFrame:
        return
    assert commands
    assert all(isinstance(command, Command) for command in commands)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, st.text(), st.booleans())
def test_data_is_taken_out_of_a_command_as_it_is(value: Any, channel: str, ascii_: bool) -> None:
    publish = {"channel": channel, "data": value}
    text = json.dumps({"id": 1, "publish": publish}, ensure_ascii=ascii_)
    (command,) = decode(text)
    assert command.publish is not None
    assert command.publish.channel == channel
    assert json.loads(bytes(command.publish.data)) == value


# Out


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(), {}),
        (
            Reply(1, connect=ConnectResult("c", "v", ping=25, pong=True)),
            {"id": 1, "connect": {"client": "c", "version": "v", "ping": 25, "pong": True}},
        ),
        (Reply(2, publish=Empty()), {"id": 2, "publish": {}}),
        (Reply(2, unsubscribe=Empty()), {"id": 2, "unsubscribe": {}}),
        (Reply(2, ping=Empty()), {"id": 2, "ping": {}}),
        (Reply(2, subscribe=SubscribeResult()), {"id": 2, "subscribe": {}}),
        (Reply(2, rpc=RpcResult(Raw(b"[1]"))), {"id": 2, "rpc": {"data": [1]}}),
        # These are written although they are zero.
        (
            Reply(2, history=HistoryResult([], "", 0)),
            {"id": 2, "history": {"publications": [], "epoch": "", "offset": 0}},
        ),
        (Reply(2, error=Error(103, "no")), {"id": 2, "error": {"code": 103, "message": "no"}}),
        (
            Reply(2, error=Error(100, "a\nb", True)),
            {"id": 2, "error": {"code": 100, "message": "a\nb", "temporary": True}},
        ),
    ],
)
def test_a_reply_leaves_out_what_is_zero(reply: Reply, expected: Any) -> None:
    line = encode(reply)
    assert b"\n" not in line
    assert json.loads(line) == expected


def test_an_event_is_a_push_to_its_channel() -> None:
    assert pushed(event({"n": 6}), "news") == {
        "push": {
            "channel": "news",
            "pub": {"data": {"n": 6}, "offset": 6, "time": 1_763_800_000_123},
        }
    }


def test_a_subscriber_of_a_pattern_is_told_the_channel() -> None:
    push = pushed(event(1, "news.de"), "news.*")["push"]
    assert (push["channel"], push["pub"]["channel"]) == ("news.*", "news.de")


def test_tags_and_the_publisher_are_told() -> None:
    publisher = Publisher(user="7", client="c-1")
    pub = pushed(event(1, tags={"a": 'b"'}, publisher=publisher), "news")["push"]["pub"]
    assert pub["tags"] == {"a": 'b"'}
    assert pub["info"] == {"user": "7", "client": "c-1"}


def test_a_publication_in_an_answer_says_what_the_push_says() -> None:
    made = event("text", "news.de", tags={"a": "b"}, publisher=Publisher(client="c"))
    for selector in ("news.de", "news.*", ">"):
        in_answer = json.loads(msgspec.json.encode(publication(made, selector)))
        assert in_answer == pushed(made, selector)["push"]["pub"]


values = st.one_of(st.text(), json_values.map(lambda v: [v]))


@given(values, st.sampled_from(["a", "a.b", "ü.\U0001f600", 'a"b', "a\\b"]), st.text(max_size=5))
@example("\n\r\u2028\u2029\x00\x85", "a", "")
@example({"a\n": "\r\n"}, "a", "")
def test_every_event_is_one_line_that_another_parser_reads(
    value: Any, channel: str, tag: str
) -> None:
    try:
        made = event(value, channel, tags={"t": tag} if tag.isprintable() and tag else None)
    except ValueError:  # lone surrogates
        return
    for selector in (channel, ">"):
        push = pushed(made, selector)["push"]
        assert push["channel"] == selector
        assert push["pub"]["data"] == value
        assert push["pub"].get("channel", selector) == channel


def test_raw_json_between_whose_tokens_lines_end_is_one_line() -> None:
    made = event(Raw(b'{\n "a": [\r\n1,\n2]\r}'))
    assert pushed(made, "news")["push"]["pub"]["data"] == {"a": [1, 2]}


def test_bytes_cannot_be_carried_and_end_the_stream() -> None:
    made = event(b"\x00")
    assert made.kind is Kind.BYTES
    for carry in (lambda: MESSAGES.encoding.event(made, "news"), lambda: publication(made, "news")):
        with pytest.raises(Closed) as caught:
            carry()
        assert caught.value.reason is CloseReason.INAPPROPRIATE_PROTOCOL


def frames(data: bytes) -> list[bytes]:
    """The payloads of unmasked final text frames, as RFC 6455 section 5.2 lays them out."""
    found = []
    while data:
        first, size = data[0], data[1]
        assert first == 0x81
        assert size < 128
        at = 2
        if size == 126:
            (size,) = struct.unpack_from("!H", data, at)
            at += 2
            assert size >= 126
        elif size == 127:
            (size,) = struct.unpack_from("!Q", data, at)
            at += 8
            assert size >= 65536
        found.append(data[at : at + size])
        assert len(found[-1]) == size
        data = data[at + size :]
    return found


@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=8))
@example([FRAME_MAX + 1])
@example([1, FRAME_MAX, 1])
@example([125])
@example([126])
@example([65535])
@example([65536])
def test_replies_are_joined_to_frames_that_clients_accept(sizes: list[int]) -> None:
    parts = [bytes([97 + index]) * size for index, size in enumerate(sizes)]
    messages = frames(FRAMED.join(parts))
    assert b"\n".join(messages).split(b"\n") == parts
    for message in messages:
        assert len(message) <= FRAME_MAX or b"\n" not in message
    assert MESSAGES.join(parts).split(b"\n") == parts
    # A replay has them joined already.
    messages = frames(FRAMED.join([b"\n".join(parts), b"last"]))
    assert b"\n".join(messages).split(b"\n") == [*parts, b"last"]
    for message in messages:
        assert len(message) <= FRAME_MAX or b"\n" not in message


@pytest.mark.parametrize("wire", [FRAMED, MESSAGES])
def test_a_gap_ends_each_subscription_that_it_concerns_with_the_advice_to_come_back(
    wire: JsonWire,
) -> None:
    gap = Gap(Position(EPOCH, 1), Position(EPOCH, 5), Why.EVICTED, ("a", 'b"*'))
    assert not wire.resumes
    assert [json.loads(line) for line in wire.gap(gap).split(b"\n")] == [
        {"push": {"channel": name, "unsubscribe": {"code": 2500, "reason": "insufficient state"}}}
        for name in ("a", 'b"*')
    ]


@pytest.mark.parametrize("joined", [True, False])
def test_who_joins_or_leaves_is_one_push(joined: bool) -> None:
    who = Member("", "c", Raw(b'{"a":[1]}'))
    said = FRAMED.change(Change("a.b", who, joined=joined))
    info = {"user": "", "client": "c", "conn_info": {"a": [1]}}
    kind = "join" if joined else "leave"
    assert json.loads(said) == {"push": {"channel": "a.b", kind: {"info": info}}}
    assert b"\n" not in said


def test_both_wires_share_their_encoding() -> None:
    assert FRAMED.encoding is MESSAGES.encoding


def test_an_answer_with_publications_is_what_the_protocol_says() -> None:
    result = SubscribeResult(
        recoverable=True,
        positioned=True,
        epoch=str(EPOCH),
        offset=4,
        was_recovering=True,
        recovered=True,
        publications=[Publication(Raw(b'{"n":5}'), offset=5)],
    )
    assert json.loads(encode(Reply(2, subscribe=result))) == {
        "id": 2,
        "subscribe": {
            "recoverable": True,
            "positioned": True,
            "epoch": str(EPOCH),
            "offset": 4,
            "was_recovering": True,
            "recovered": True,
            "publications": [{"data": {"n": 5}, "offset": 5}],
        },
    }


def read_frames(data: bytes) -> list[tuple[bool, bytes]]:
    """Of text messages: whether each was compressed, and its text."""
    found = []
    while data:
        first, size = data[0], data[1]
        place = 2
        if size == 126:
            (size,), place = struct.unpack_from("!H", data, 2), 4
        elif size == 127:
            (size,), place = struct.unpack_from("!Q", data, 2), 10
        payload, data = data[place : place + size], data[place + size :]
        assert first & ~0x40 == 0x81
        coded = bool(first & 0x40)
        if coded:
            payload = zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")
        found.append((coded, payload))
    return found


@given(st.lists(st.integers(1, FRAME_MAX), min_size=1, max_size=8), st.sampled_from([1, 100]))
def test_compressed_frames_hold_what_plain_ones_do(sizes: list[int], readers: int) -> None:
    parts = [(b'{"n":%d}' % n) * (size // 7 + 1) for n, size in enumerate(sizes)]
    plain, coded = FRAMED.join(parts), DEFLATED.join(parts, readers)
    assert [text for _, text in read_frames(coded)] == [text for _, text in read_frames(plain)]
    assert len(coded) <= len(plain)


def test_a_reply_is_not_compressed() -> None:
    reply = encode(Reply(id=1, connect=ConnectResult(client="c", version="v")))
    assert DEFLATED.join([reply]) == FRAMED.join([reply])


def test_a_batch_of_pushes_is_compressed_message_by_message() -> None:
    parts = [b'{"push":{"channel":"a","pub":{"data":%d}}}' % n for n in range(100)]
    first, second = read_frames(DEFLATED.join(parts)), read_frames(DEFLATED.join(parts[1:]))
    assert first == [(True, b"\n".join(parts))]
    assert second == [(True, b"\n".join(parts[1:]))]


def test_another_implementation_reads_compressed_frames() -> None:
    extension = PerMessageDeflate(
        remote_no_context_takeover=True,
        local_no_context_takeover=True,
        remote_max_window_bits=15,
        local_max_window_bits=15,
    )
    for count in (1, 50, 3, 500):
        parts = [b'{"push":{"channel":"a","pub":{"data":%d}}}' % n for n in range(count)]
        reader = StreamReader()
        reader.feed_data(DEFLATED.join(parts, count))
        texts = []
        while reader.buffer:
            parsing = Frame.parse(reader.read_exact, mask=False, extensions=[extension])
            with pytest.raises(StopIteration) as ended:
                next(parsing)
            texts.append(ended.value.value.data)
        assert b"\n".join(texts) == b"\n".join(parts)
