"""Lines from pieces of any size, and from a file descriptor as they arrive."""

import asyncio
import os
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinwire.cli.lines import LINE_MAX, Lines, arriving
from twinwire.errors import BadInput


def cut(*pieces: bytes) -> list[str]:
    lines = Lines()
    return [line for piece in pieces for line in lines.feed(piece)] + list(lines.end())


def test_a_line_ends_at_its_line_end_or_with_the_input() -> None:
    assert cut(b"a\nb\r\n\nc") == ["a", "b", "", "c"]
    assert cut(b"a\n") == ["a"]
    assert cut() == cut(b"") == []


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\xc3", b"\xbc", b"b"])))
def test_it_does_not_matter_how_the_input_is_cut(pieces: list[bytes]) -> None:
    assert cut(*pieces) == cut(b"".join(pieces))


def test_a_line_is_given_as_soon_as_it_is_complete() -> None:
    lines = Lines()
    assert list(lines.feed(b"a\nb")) == ["a"]
    assert list(lines.feed(b"c")) == []
    assert list(lines.feed(b"\n")) == ["bc"]


def test_what_is_no_utf_8_is_shown_to_be_none() -> None:
    assert cut(b"gr\xfc\xdfe\n", "grüße".encode()) == ["gr\ufffd\ufffde", "grüße"]


def test_an_endless_line_is_refused() -> None:
    with pytest.raises(BadInput, match=f"over {LINE_MAX} bytes"):
        cut(*[b"x" * (1 << 20)] * 17)


async def test_input_arrives_when_it_is_there_and_ends() -> None:
    reading, writing = os.pipe()
    async with aclosing(arriving(reading)) as pieces:
        for text in (b"one\n", b"two\n"):
            os.write(writing, text)
            assert await anext(pieces) == text
        os.close(writing)
        assert [piece async for piece in pieces] == []
    os.close(reading)


async def test_input_that_cannot_be_read_is_said_to_be() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(BadInput, match="standard input: bad file descriptor"):
        await anext(arriving(reading))
    os.close(writing)


async def test_who_stops_listening_is_not_held_up_by_input_that_never_comes() -> None:
    reading, writing = os.pipe()
    async with aclosing(arriving(reading)) as pieces:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(pieces)
    os.close(writing)
