"""What nodes tell each other, as bytes."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinwire.core.notices import (
    Ask,
    Beat,
    Bye,
    Changes,
    Disconnect,
    Entry,
    Figures,
    Notice,
    Refresh,
    Unsubscribe,
    Whole,
    pack,
    unpack,
)
from twinwire.errors import BadFrame

PREFIX = b"twinwire 1 "


@pytest.mark.parametrize(
    "notice",
    [
        Beat("n", 1, 0, 1.5, Figures("name", "0.1", 1, 2, 3, 4, 5)),
        Changes("n", 2, 7, [Entry("a", "c", "u", b'{"x":1}', b"2")], [("a", "d")]),
        Whole("n", 3, 7, 0, 2, [Entry("a", "c")]),
        Ask("n", 4, ["m"]),
        Bye("n", 5),
        Disconnect("n", "u", "c", 4001, "because", ["d"]),
        Unsubscribe("n", "ü", "", "a.*"),
        Refresh("n", "", "c", 1763800000.5),
    ],
    ids=lambda notice: type(notice).__name__,
)
def test_a_notice_comes_back_from_its_bytes(notice: Notice) -> None:
    assert unpack(pack(notice)) == notice
    assert pack(notice).startswith(PREFIX)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b'{"node":"n"}',
        PREFIX,
        PREFIX + b"\xc1",
        PREFIX + msgspec.msgpack.encode({"beat": 1}),
        PREFIX + msgspec.msgpack.encode(["dance", "n", 1]),
        PREFIX + msgspec.msgpack.encode(["bye", "n"]),
        PREFIX + msgspec.msgpack.encode(["bye", "n", "1"]),
        PREFIX + msgspec.msgpack.encode(["bye", b"\xff", 1]),
        PREFIX + pack(Bye("n", 1))[len(PREFIX) :] + b"\x00",
        pack(Bye("n", 1)).replace(b" 1 ", b" 2 ", 1),
        PREFIX + b"\x91" * 10_000,
    ],
    ids=lambda data: repr(data[:30]),
)
def test_what_is_foreign_or_of_another_version_is_said_to_be_so(data: bytes) -> None:
    with pytest.raises(BadFrame, match="not a notice of this version"):
        unpack(data)


@given(st.binary() | st.binary().map(PREFIX.__add__))
def test_no_bytes_do_anything_else(data: bytes) -> None:
    try:
        unpack(data)
    except BadFrame:
        pass


def test_what_a_newer_program_has_added_at_a_structs_end_is_passed_over() -> None:
    newer = PREFIX + msgspec.msgpack.encode(["bye", "n", 5, "and more", {"so": "on"}])
    assert unpack(newer) == Bye("n", 5)


def test_what_an_older_program_has_not_said_is_what_it_was_then() -> None:
    older = PREFIX + msgspec.msgpack.encode(["changes", "n", 1, 1, [["a", "c"]], []])
    assert unpack(older) == Changes("n", 1, 1, [Entry("a", "c")], [])
