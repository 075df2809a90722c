"""Event streams: what is written, who can forge what, and reading them back in any pieces."""

import base64
import random
import re
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.core.samples import EPOCH
from twinwire.core.event import CONTROL_TYPES, Draft, Event, Kind, Position, draft
from twinwire.core.feed import Gap, Why
from twinwire.core.presence import Change
from twinwire.core.protocol import Member
from twinwire.errors import BadEvent, BadFrame, CloseReason, OwnReason, Unsubscribed
from twinwire.wires import sse
from twinwire.wires.sse import Message, SseEncoding, SseParser

AT = Position(EPOCH, 42)
PLAIN, ENVELOPE = SseEncoding(envelope=False), SseEncoding(envelope=True)

FORGERIES = [
    "\nid: 9-9",
    "\n\nid: 9-9\nevent: gap\ndata: {}\n\n",
    "\r\rid: 9-9\revent: error\rdata: x\r\r",
    "\r\n\r\nretry: 1\r\n\r\n",
    "x\nevent: reconnect\n",
    "x\n: comment\nretry: 1",
    "data: x\nid",
    "\ufeffid: 9-9\n\n",
    "\0\nid: 9-9\0\n\n",
    "\u2028id: 9-9\u2029\x85id: 9-9\x0bid: 9-9\x0c\x1c\x1d\x1eid: 9-9",
    "\n",
    "\r",
    "\n\n",
    " ",
    "",
]

texts = st.text(max_size=30) | st.sampled_from(FORGERIES) | st.text("\r\n :\0idat", max_size=12)
json = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
printable = st.characters(codec="utf-8", exclude_categories=["C", "Z"])
names = st.text(printable, min_size=1, max_size=9)
fields = st.none() | names


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    kind = draw(st.sampled_from(Kind))
    data: Any = draw({Kind.TEXT: texts, Kind.BYTES: st.binary(max_size=30), Kind.JSON: json}[kind])
    if kind is Kind.JSON:
        indent = draw(st.sampled_from([-1, 2]))
        data = msgspec.Raw(msgspec.json.format(msgspec.json.encode(data), indent=indent))
    tags = draw(st.dictionaries(names, names, max_size=2))
    type = draw(fields.filter(lambda type: type not in CONTROL_TYPES))
    return draft("a.b", data, key=draw(fields), type=type, tags=tags, max_bytes=10_000)


@st.composite
def events(draw: st.DrawFn) -> list[Event]:
    made = draw(st.lists(drafts(), max_size=4))
    return [Event.of(each, Position(EPOCH, seq), seq) for seq, each in enumerate(made, 1)]


def parse(stream: bytes, **options: Any) -> list[Message]:
    return list(SseParser(**options).feed(stream))


def parse_pieces(stream: bytes, cuts: list[int], **options: Any) -> list[Message]:
    parser = SseParser(**options)
    ends = [*sorted(cuts), len(stream)]
    begins = [0, *ends]
    return [
        message
        for begin, end in zip(begins, ends, strict=False)
        for message in parser.feed(stream[begin:end])
    ]


def browser(stream: bytes) -> tuple[list[tuple[str, str, str]], str]:
    """What an EventSource fires, by the letter of the standard: type, data, last event id.

    The last event id that it would send on a reconnect comes second.
    """
    text = stream.decode(errors="replace").removeprefix("\ufeff")
    *lines, _ = re.split("\r\n|\n|\r", text)
    fired, data, type, buffer, last_id = [], "", "", "", ""
    for line in lines:
        if not line:
            last_id = buffer
            if data:
                fired.append((type or "message", data.removesuffix("\n"), last_id))
            data = type = ""
            continue
        name, colon, value = line.partition(":")
        if not name and colon:
            continue
        value = value.removeprefix(" ")
        if name == "event":
            type = value
        elif name == "data":
            data += value + "\n"
        elif name == "id" and "\0" not in value:
            buffer = value
    return fired, last_id


def line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


@given(events(), st.randoms(use_true_random=False))
def test_what_is_written_is_read_back_in_any_pieces(
    events: list[Event], dice: random.Random
) -> None:
    stream = b"".join(PLAIN.event(event) for event in events)
    expected = []
    for event in events:
        raw = base64.b64encode(event.data) if event.kind is Kind.BYTES else event.data
        data = line_ends(raw.decode())
        expected.append(Message(event.type or "message", data, str(event.position), None))
    assert parse(stream) == expected
    assert parse_pieces(stream, list(range(len(stream)))) == expected
    assert parse_pieces(stream, [dice.randint(0, len(stream)) for _ in range(5)]) == expected
    fired, last_id = browser(stream)
    assert fired == [(message.type, message.data, message.id) for message in expected]
    assert last_id == (expected[-1].id if expected else "")


@given(events())
def test_an_envelope_tells_everything_about_its_event(events: list[Event]) -> None:
    messages = parse(b"".join(ENVELOPE.event(event) for event in events))
    assert [message.id for message in messages] == [str(event.position) for event in events]
    for message, event in zip(messages, events, strict=True):
        assert message.type == (event.type or "message")
        told = msgspec.json.decode(message.data or "")
        if event.kind is Kind.BYTES:
            assert base64.b64decode(told.pop("b64data")) == event.data
        else:
            assert told.pop("data") == event.json()
        told = {"key": None, "type": None, "tags": None} | told
        assert told.pop("channel") == event.channel
        assert told == {name: getattr(event, name) for name in ("key", "type", "tags", "time")}


@pytest.mark.parametrize("encoding", [PLAIN, ENVELOPE], ids=["data", "event"])
@pytest.mark.parametrize("text", FORGERIES, ids=ascii)
def test_no_text_forges_a_line_of_the_stream(text: str, encoding: SseEncoding) -> None:
    for data in (text, {"a": text, text: 1}, [text], msgspec.Raw(msgspec.json.encode(text))):
        event = Event.of(draft("a", data, type="tick", max_bytes=10_000), AT, 0)
        ((type, _, last_id),), told = browser(encoding.event(event))
        assert (type, last_id, told) == ("tick", str(AT), str(AT))
        (message,) = parse(encoding.event(event))
        assert (message.type, message.id, message.retry) == ("tick", str(AT), None)


@pytest.mark.parametrize("text", FORGERIES, ids=ascii)
@pytest.mark.parametrize("field", ["key", "type", "tag"])
def test_what_a_field_may_hold_forges_no_line_of_the_stream(field: str, text: str) -> None:
    given: dict[str, Any] = {"tags": {text: text}} if field == "tag" else {field: text}
    try:
        made = draft("a", 1, **given, max_bytes=100)
    except BadEvent:
        assert text != " "
        return
    for encoding in (PLAIN, ENVELOPE):
        (message,) = parse(encoding.event(Event.of(made, AT, 0)))
        assert (message.type, message.id) == (made.type or "message", str(AT))


def test_a_type_is_read_back_with_its_spaces() -> None:
    event = Event.of(draft("a", 1, type="  two  ", max_bytes=100), AT, 0)
    assert browser(PLAIN.event(event))[0] == [("  two  ", "1", str(AT))]


def test_a_published_text_is_not_changed_by_a_byte_order_mark() -> None:
    event = Event.of(draft("a", "\ufeffx", max_bytes=100), AT, 0)
    assert [message.data for message in parse(PLAIN.event(event) * 2)] == ["\ufeffx"] * 2


# Blocks that the server itself speaks


def test_the_priming_block_fires_nothing_and_moves_the_position() -> None:
    assert browser(sse.priming(2500, AT)) == ([], str(AT))
    assert parse(sse.priming(2500, AT)) == [Message("message", None, str(AT), 2500)]


def test_a_heartbeat_moves_the_position_and_is_seen_only_if_wanted() -> None:
    assert browser(sse.heartbeat(AT)) == ([], str(AT))
    seen = [("heartbeat", f'{{"position":"{AT}"}}', str(AT))]
    assert browser(sse.heartbeat(AT, visible=True)) == (seen, str(AT))


@pytest.mark.parametrize("reason", CloseReason)
def test_a_farewell_says_why_and_whether_to_come_back(reason: CloseReason) -> None:
    (message,) = parse(sse.farewell(reason, 700))
    told = msgspec.json.decode(message.data or "")
    assert (told["code"], told["reason"]) == (reason.code, reason.text)
    assert message.type == ("reconnect" if reason.reconnect else "error")
    assert message.retry == told.get("retry") == (700 if reason.reconnect else None)


def test_a_gap_is_told_and_leaves_the_position_where_it_was() -> None:
    gap = Gap(Position(1, 2), Position(EPOCH, 7), Why.RESTARTED, ("a",))
    stream = sse.heartbeat(AT) + sse.wire(envelope=False, chunked=False).gap(gap)
    (fired,), last_id = browser(stream)
    assert fired[0] == "gap"
    told = {"from": "1-2", "to": f"{EPOCH}-7", "reason": "restarted"}
    assert msgspec.json.decode(fired[1]) == told
    assert last_id == str(AT)


def test_who_joins_and_leaves_is_told_and_leaves_the_position_where_it_was() -> None:
    wire = sse.wire(envelope=False, chunked=False)
    stream = sse.heartbeat(AT)
    who = Member("ada", "c", msgspec.Raw(b'{"a":[1]}'), msgspec.Raw(b'"x"'))
    for joined in (True, False):
        stream += wire.change(Change("a.b", who, joined=joined))
    stream += sse.unsubscribed("a.*", Unsubscribed.SERVER)
    fired, last_id = browser(stream)
    assert [event[0] for event in fired] == ["join", "leave", "unsubscribe"]
    info = {"user": "ada", "client": "c", "conn_info": {"a": [1]}, "chan_info": "x"}
    for event in fired[:2]:
        assert msgspec.json.decode(event[1]) == {"channel": "a.b", "info": info}
    assert msgspec.json.decode(fired[2][1]) == {
        "channel": "a.*",
        "code": 2000,
        "reason": "server unsubscribe",
    }
    assert last_id == str(AT)


def test_a_farewell_of_the_backends_own_says_by_its_code_whether_to_come_back() -> None:
    for code, type in ((4000, "reconnect"), (4500, "error"), (3900, "error"), (3100, "reconnect")):
        (message,) = parse(sse.farewell(OwnReason(code, "as I say"), 700))
        assert message.type == type
        assert msgspec.json.decode(message.data or "")["code"] == code


def test_control_events_have_types_that_cannot_be_published() -> None:
    blocks = [sse.farewell(reason, 1) for reason in CloseReason]
    blocks.append(sse.wire(envelope=True, chunked=False).gap(Gap(AT, AT, Why.EVICTED, ())))
    blocks.append(sse.heartbeat(AT, visible=True))
    blocks.append(sse.unsubscribed("a", Unsubscribed.SERVER))
    for joined in (False, True):
        change = Change("a", Member("ada", "c"), joined=joined)
        blocks.append(sse.wire(envelope=True, chunked=False).change(change))
    assert {message.type for block in blocks for message in parse(block)} <= CONTROL_TYPES


# Wires


def unchunk(body: bytes) -> list[bytes]:
    """RFC 9112, section 7.1, without trailers and the last chunk."""
    chunks = []
    while body:
        size, _, body = body.partition(b"\r\n")
        assert re.fullmatch(rb"[0-9a-f]+", size)
        chunks.append(body[: int(size, 16)])
        assert body[int(size, 16) :][:2] == b"\r\n"
        body = body[int(size, 16) + 2 :]
    return chunks


@given(st.lists(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4), max_size=5))
def test_each_join_is_one_chunk(batches: list[list[bytes]]) -> None:
    wire = sse.wire(envelope=False, chunked=True)
    body = b"".join(wire.join(parts) for parts in batches)
    assert unchunk(body) == [b"".join(parts) for parts in batches]


def test_nothing_is_no_chunk_since_an_empty_one_would_end_the_body() -> None:
    wire = sse.wire(envelope=False, chunked=True)
    assert wire.join([]) == b""
    assert wire.join([b""]) == b""


def test_wires_of_one_kind_are_one_and_wires_of_one_format_encode_alike() -> None:
    one, two = (sse.wire(envelope=True, chunked=chunked) for chunked in (False, True))
    assert one is sse.wire(envelope=True, chunked=False)
    assert one is not two
    assert one.encoding is two.encoding
    assert one.encoding is not sse.wire(envelope=False, chunked=False).encoding
    assert one.join([b"a", b"b"]) == b"ab"


# The parser

streams = st.lists(
    st.sampled_from(
        [
            b"data",
            b"id",
            b"event",
            b"retry",
            b": ",
            b":",
            b" ",
            b"\n",
            b"\r",
            b"\r\n",
            b"\n\n",
            b"\0",
            b"1",
            b"x",
            "é€😀".encode(),
            b"\xef\xbb\xbf",
            b"\xe2\x82",
            b"\xff",
            b"\xc2",
            b"\xa0",
        ]
    ),
    max_size=40,
).map(b"".join)


@given(streams | st.binary(max_size=60), st.lists(st.integers(0, 100), max_size=6))
@example(b"data: 1\r\n\r\ndata: 2\r\r\n", [9, 10, 19, 20])
@example("data: é\n\n".encode(), [7])
@example(b"\xef\xbb\xbfdata: x\n\n", [1, 2])
def test_the_parser_finds_what_a_browser_fires_however_the_stream_is_cut(
    stream: bytes, cuts: list[int]
) -> None:
    messages = parse(stream)
    assert parse_pieces(stream, [min(cut, len(stream)) for cut in cuts]) == messages
    assert parse_pieces(stream, list(range(len(stream)))) == messages
    found = [(m.type, m.data, m.id) for m in messages if m.data is not None]
    fired, last_id = browser(stream)
    assert found == fired
    assert (messages[-1].id if messages else "") == last_id


@given(streams)
def test_a_message_is_told_as_soon_as_its_last_line_ends(stream: bytes) -> None:
    parser = SseParser()
    for end in range(len(stream)):
        told = sum(message.data is not None for message in parser.feed(stream[end : end + 1]))
        fired = [len(browser(stream[:cut])[0]) for cut in (end, end + 1)]
        assert told == fired[1] - fired[0]


def test_a_block_without_data_is_told_if_it_moves_the_id_or_the_retry_time() -> None:
    blocks = [b"id: 1", b"retry: 5", b"event: x", b": comment", b"other: x", b"data", b"data:"]
    found = [parse(block + b"\n\n") for block in blocks]
    assert found == [
        [Message("message", None, "1", None)],
        [Message("message", None, "", 5)],
        [],
        [],
        [],
        [Message("message", "", "", None)],
        [Message("message", "", "", None)],
    ]


def test_an_id_with_a_nul_is_ignored() -> None:
    assert [m.id for m in parse(b"id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n")] == ["1", "1"]


def test_an_id_stays_in_force_until_it_is_changed_and_an_empty_one_resets_it() -> None:
    stream = b"data: a\n\nid: 1\ndata: b\n\ndata: c\n\nid\ndata: d\n\n"
    assert [m.id for m in parse(stream, last_id="0")] == ["0", "1", "1", ""]


def test_an_id_is_not_in_force_before_its_block_is_whole() -> None:
    parser = SseParser(last_id="1-1")
    assert list(parser.feed(b"id: 1-2\ndata: lost on the w")) == []
    assert parser.last_id == "1-1"
    assert len(list(parser.feed(b"ay\n\n"))) == 1
    assert parser.last_id == "1-2"


@pytest.mark.parametrize("value", ["", "-1", "1.5", "1 ", "٣", "0x10", "²", "9" * 5000])
def test_a_retry_time_that_is_no_usable_number_is_ignored(value: str) -> None:
    assert parse(f"retry: {value}\n\n".encode()) == []


@pytest.mark.parametrize(
    "block",
    [
        b"data: " + b"x" * 100,
        b"data: " + "é".encode() * 50,
        b"data: x\n" * 15,
        b"x\n" * 101,
        b": " + b"x" * 99 + b"\n\n",
        b"data: x\n" * 14 + b"\n" + b"y" * 101,
    ],
    ids=ascii,
)
def test_a_block_over_the_bound_is_refused(block: bytes) -> None:
    with pytest.raises(BadFrame, match="over 100 bytes"):
        parse(block, max_bytes=100)
    with pytest.raises(BadFrame, match="over 100 bytes"):
        parse_pieces(block, list(range(len(block))), max_bytes=100)


def test_any_number_of_blocks_within_the_bound_is_read() -> None:
    block = b"data: " + b"x" * 94 + b"\n\n"
    assert len(parse(block * 1000, max_bytes=100)) == 1000
    assert len(parse_pieces(block * 10, list(range(1020)), max_bytes=100)) == 10


@given(st.binary(max_size=200), st.integers(1, 50))
def test_the_parser_raises_nothing_but_bad_frame(stream: bytes, bound: int) -> None:
    try:
        parse(stream, max_bytes=bound)
    except BadFrame:
        assert len(stream) > bound


bodies = st.lists(st.binary(min_size=1, max_size=400), min_size=1, max_size=6)


@given(st.lists(st.tuples(bodies, st.sampled_from([1, 2, 100])), max_size=6), st.booleans())
def test_a_gzip_stream_holds_what_a_plain_one_does(
    batches: list[tuple[list[bytes], int]], chunked: bool
) -> None:
    plain = sse.wire(envelope=False, chunked=False)
    coded = sse.wire(envelope=False, chunked=chunked, gzip=True)
    first, last = sse.priming(2000, AT), sse.farewell(CloseReason.SHUTDOWN, 100)
    expected = [plain.first(first)]
    expected += [plain.join(parts, readers) for parts, readers in batches]
    expected.append(plain.last(last))
    written = [coded.first(first)]
    written += [coded.join(parts, readers) for parts, readers in batches]
    written.append(coded.last(last))
    # A second client of the lane joins after the first batch.
    late = [written[0], *written[2:]], [expected[0], *expected[2:]]
    for pieces, texts in ((written, expected), late if batches else (written, expected)):
        reader = zlib.decompressobj(31)
        for piece, text in zip(pieces, texts, strict=True):
            body = piece
            if chunked:
                size, _, rest = piece.partition(b"\r\n")
                body = rest[: int(size, 16)]
                assert rest[len(body) :] == b"\r\n"
            assert reader.decompress(body) == text


def test_what_one_client_is_told_costs_no_compression() -> None:
    wire = sse.wire(envelope=True, chunked=False, gzip=True)
    beat = sse.heartbeat(AT, visible=True)
    for written in (wire.first(beat), wire.join([beat]), wire.last(beat)):
        assert beat in written


def test_nothing_joined_is_nothing() -> None:
    assert sse.wire(envelope=False, chunked=True, gzip=True).join([]) == b""
