"""Names, positions, and what may be published."""

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.core.samples import EPOCH, matches, selectors
from twinwire.core.event import (
    CHANNEL_MAX,
    CONTROL_TYPES,
    FIELD_MAX,
    Draft,
    Event,
    Kind,
    Pattern,
    Position,
    Selection,
    check_channel,
    check_selector,
    draft,
    is_pattern,
    pattern,
)
from twinwire.errors import BadChannel, BadEvent, BadInput, BadPosition, TooLarge


def drafted(data: Any, **fields: Any) -> Draft:
    return draft("a", data, max_bytes=1000, **fields)


NAMES = ["a", "prices.EURUSD", "a.b.c.d", "ünï.cødé", "価格.円", "a-b_c:d/e@f", "x" * CHANNEL_MAX]
PATTERNS = ["*", ">", "a.*", "*.b", "a.*.c", "a.>", "*.>", "*.*", "é.>"]
NEITHER = [
    "", ".", "a.", ".a", "a..b", "a b", " a", "a\n", "a\nid: 1", "a\r", "a\0b", "\x7f", "a\u2028b",
    "a\u00a0b", "\ufeff", "\ud800", "x" * 300, "x" * (CHANNEL_MAX + 1),
]  # fmt: skip
STRAY = [
    "a*", "*a", "a.b*", "**", "a.**", "a>", ">a", ">.a", "a.>.b", ">.>", "*.", ".>", "*..>", "* ",
    "*\n", "*." * 150 + "*",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_channel_name_is_tokens_joined_by_dots(name: str) -> None:
    check_channel(name)
    check_selector(name)


@pytest.mark.parametrize("text", PATTERNS)
def test_a_pattern_selects_but_nothing_is_published_to_it(text: str) -> None:
    check_selector(text)
    with pytest.raises(BadChannel, match="patterns"):
        check_channel(text)


@pytest.mark.parametrize("text", NEITHER + STRAY)
def test_what_is_neither_a_name_nor_a_pattern_is_refused(text: str) -> None:
    for check in (check_channel, check_selector, Pattern, lambda text: Selection([text])):
        with pytest.raises(BadChannel) as caught:
            check(text)
        assert caught.value.name == text


@pytest.mark.parametrize("text", NEITHER + STRAY)
def test_the_sentence_about_a_bad_name_is_one_short_printable_line(text: str) -> None:
    sentence = str(BadChannel(text, "why"))
    assert sentence.isprintable()
    assert sentence.isascii()
    assert len(sentence) < 420


@given(st.text(max_size=20) | st.text("a.*> \n", max_size=8))
def test_a_selector_is_a_name_or_a_pattern_or_refused(text: str) -> None:
    try:
        check_selector(text)
    except BadChannel:
        return
    assert text.isprintable()
    assert " " not in text
    assert all(text.split("."))
    assert all(token in ("*", ">") or not is_pattern(token) for token in text.split("."))


tokens = st.text("ab", min_size=1, max_size=2)


@given(
    st.lists(tokens | st.just("*"), min_size=1, max_size=4),
    st.sampled_from(["", ".>"]),
    st.lists(tokens, min_size=1, max_size=5),
)
def test_a_pattern_matches_token_by_token(head: list[str], tail: str, name: list[str]) -> None:
    text, channel = ".".join(head) + tail, ".".join(name)
    assert Pattern(text).matches(channel) == matches(text, channel)


def test_no_character_of_a_name_means_anything_to_the_matcher() -> None:
    assert not Pattern("a+.*").matches("aa.b")
    assert Pattern("(a|b).*").matches("(a|b).c")
    assert not Pattern("[ab].>").matches("a.c")


def test_a_pattern_is_compiled_once() -> None:
    assert pattern("a.*") is pattern("a.*")


@given(st.lists(st.sampled_from(["a", "b", "a.*", ">", "*"])), st.randoms())
def test_equal_selections_are_equal_and_hash_alike(chosen: list[str], random: Any) -> None:
    others = chosen + chosen[:1]
    random.shuffle(others)
    one, two = Selection(chosen), Selection(others)
    assert one == two
    assert hash(one) == hash(two)
    assert repr(one) == repr(two)
    assert sorted(one) == sorted(set(chosen))
    assert len(one) == len(set(chosen))


@pytest.mark.parametrize("other", [Selection(), Selection("a"), Selection([">"]), {"a"}, None])
def test_selections_differ_when_their_selectors_do(other: object) -> None:
    assert Selection(["a", "*"]) != other


def test_a_selection_tells_by_what_a_channel_is_selected() -> None:
    selection = Selection(["a.b", "a.*", "*.b", "c"])
    assert sorted(selection.matching("a.b")) == ["*.b", "a.*", "a.b"]
    assert list(selection.matching("d")) == []
    assert "a.*" in selection
    assert "a.x" not in selection


@given(st.frozensets(selectors), st.frozensets(selectors))
def test_selections_are_put_together_and_taken_apart_like_sets(
    one: frozenset[str], two: frozenset[str]
) -> None:
    assert Selection(one).including(two) == Selection(one | two)
    assert Selection(one).without(two) == Selection(one - two)
    assert hash(Selection(one).without(one)) == hash(Selection())


def test_what_is_included_in_a_selection_is_checked() -> None:
    with pytest.raises(BadChannel):
        Selection(["a"]).including(["a..b"])


def test_a_position_is_written_as_two_numbers_and_read_back() -> None:
    assert str(Position(EPOCH, 42)) == f"{EPOCH}-42"
    assert Position.parse(f"{EPOCH}-42") == Position(EPOCH, 42)
    assert Position.parse("9007199254740991-9007199254740991").seq == 2**53 - 1


@pytest.mark.parametrize(
    "text",
    [
        "", "-", "1", "1-", "-1", "1-2-3", "a-b", "1.5-2", " 1-2", "1-2\n", "1 - 2", "+1-2",
        "--1-2", "1-2\0", "٣-٤", "1_0-2", "0x1-2", "9007199254740992-1", "1-9007199254740992",
        "1-" + "9" * 5000, "\ud800-1",
    ],
)  # fmt: skip
def test_what_is_not_a_position_is_refused(text: str) -> None:
    with pytest.raises(BadPosition) as caught:
        Position.parse(text)
    assert str(caught.value).isprintable()


numbers = st.integers(0, 2**53 - 1)


@given(st.builds(Position, numbers, numbers), st.builds(Position, numbers, numbers))
def test_positions_survive_writing_and_sort_by_epoch_and_then_seq(
    one: Position, two: Position
) -> None:
    assert Position.parse(str(one)) == one
    assert (one < two) == ((one.epoch, one.seq) < (two.epoch, two.seq))


@pytest.mark.parametrize(
    ("data", "kind", "raw"),
    [
        ({"bid": 1.1}, Kind.JSON, b'{"bid":1.1}'),
        (None, Kind.JSON, b"null"),
        ("text\n", Kind.TEXT, b"text\n"),
        ("", Kind.TEXT, b""),
        (b"\xff\0", Kind.BYTES, b"\xff\0"),
        (bytearray(b"b"), Kind.BYTES, b"b"),
        (memoryview(b"m"), Kind.BYTES, b"m"),
        (msgspec.Raw(b'{"a": 1}'), Kind.JSON, b'{"a": 1}'),
    ],
)
def test_data_is_encoded_once_by_its_type(data: Any, kind: Kind, raw: bytes) -> None:
    assert drafted(data) == Draft("a", raw, kind)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_line_breaks_between_the_tokens_of_raw_json_are_taken_out(end: bytes) -> None:
    raw = end.join([b"{", b'"a" :', b"[1 ,", b'"x y"]', b"}"])
    assert drafted(msgspec.Raw(raw)).data == b'{"a":[1,"x y"]}'
    assert drafted({"in": msgspec.Raw(raw)}).data == b'{"in":{"a":[1,"x y"]}}'


json = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json, st.sampled_from(["\n", "\r\n", "\r"]))
def test_raw_json_means_the_same_without_its_line_breaks(value: Any, end: str) -> None:
    pretty = msgspec.json.format(msgspec.json.encode(value), indent=2).replace(b"\n", end.encode())
    made = draft("a", msgspec.Raw(pretty), max_bytes=10**6)
    assert b"\n" not in made.data
    assert b"\r" not in made.data
    assert msgspec.json.decode(made.data) == value


@pytest.mark.parametrize("raw", [b"", b"{\n", b'"a\nb"', b"1\n2", b"\n", b'"\xff\n"', b"{}\n{}"])
def test_raw_json_that_could_break_a_line_must_be_json(raw: bytes) -> None:
    with pytest.raises(BadEvent, match="bad data"):
        drafted(msgspec.Raw(raw))


def endless() -> list[Any]:
    inside: list[Any] = []
    inside.append(inside)
    return inside


@pytest.mark.parametrize(
    "data", [object(), {1, object()}, "\ud800", {"a": "\ud800"}, {"\udfff": 1}, endless()]
)
def test_data_that_cannot_be_written_is_refused(data: Any) -> None:
    with pytest.raises(BadEvent) as caught:
        drafted(data)
    assert caught.value.field == "data"


@pytest.mark.parametrize(
    "data", ["x" * 11, "é" * 6, b"y" * 11, "x" * 9 + "é", [1] * 6, msgspec.Raw(b"[1,1,1,1,1]")]
)
def test_too_much_data_is_refused_and_the_limit_named(data: Any) -> None:
    with pytest.raises(TooLarge, match="event_max_bytes") as caught:
        draft("a", data, max_bytes=10)
    assert caught.value.allowed == 10


def test_data_may_be_as_large_as_the_limit() -> None:
    assert len(draft("a", "x" * 10, max_bytes=10).data) == 10


UNPRINTABLE = [
    "", "\n", "a\nid: 1-1", "a\r", "\r\n", "\0", "a\x00b", "\x1b[2J", "\x85", "\u2028", "\u2029",
    "\ud800", "\ufeff", "x" * (FIELD_MAX + 1),
]  # fmt: skip


@pytest.mark.parametrize("text", UNPRINTABLE)
@pytest.mark.parametrize("field", ["key", "type", "tag"])
def test_no_field_may_end_a_line_of_a_stream(field: str, text: str) -> None:
    tries: list[dict[str, Any]] = [{field: text}]
    if field == "tag":
        tries = [{"tags": {text: "value"}}, {"tags": {"name": text}}]
    for fields in tries:
        with pytest.raises(BadEvent) as caught:
            drafted(None, **fields)
        assert caught.value.field == field
        assert str(caught.value).isprintable()


@given(st.text(max_size=FIELD_MAX + 2) | st.text("\r\n\0:\ud800é ", max_size=4))
@example("id: 1")
def test_a_field_that_passes_is_one_line_of_utf_8(text: str) -> None:
    try:
        made = drafted(None, key=text, tags={text: text})
    except BadEvent:
        return
    assert made.key == text
    assert text.splitlines() == [text]
    assert text.encode().decode() == text
    assert "\0" not in text


@pytest.mark.parametrize("type", sorted(CONTROL_TYPES))
def test_the_types_of_control_events_cannot_be_published(type: str) -> None:
    with pytest.raises(BadEvent, match="stream's own"):
        drafted(None, type=type)


def test_the_types_that_a_browsers_own_handlers_listen_to_cannot_be_published() -> None:
    assert {"open", "error"} <= CONTROL_TYPES


def test_a_bad_channel_is_found_before_anything_is_encoded() -> None:
    with pytest.raises(BadChannel):
        draft("a.*", object(), max_bytes=1)


def test_what_the_publisher_does_to_its_tags_later_changes_nothing() -> None:
    tags = {"a": "1"}
    made = drafted(None, tags=tags)
    tags["a"] = "\n"
    assert made.tags == {"a": "1"}
    assert drafted(None, tags={}).tags is None


@pytest.mark.parametrize("data", [{"bid": 1.1}, "text", b"bytes", None, [1, "two"]])
def test_an_event_gives_back_what_was_published(data: Any) -> None:
    made = drafted(data, key="k", type="t", tags={"a": "b"})
    event = Event.of(made, Position(EPOCH, 7), 99)
    assert event.json() == data
    assert event.position == Position(EPOCH, 7)
    assert (event.channel, event.key, event.type, event.tags) == ("a", "k", "t", {"a": "b"})
    assert event.time == 99


@given(st.text(), st.text(), st.text(), st.text(), st.binary() | st.text())
def test_bad_input_is_the_only_thing_that_publishing_raises(
    channel: str, key: str, type: str, tag: str, data: Any
) -> None:
    with contextlib.suppress(BadInput):
        draft(channel, data, key=key, type=type, tags={tag: tag}, max_bytes=100)
