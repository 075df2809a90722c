"""What is said to the HTTP API, and what it answers."""

from typing import Any

import msgspec
import pytest

from twinwire.client import commands
from twinwire.core.event import Position
from twinwire.errors import BadChannel, BadEvent, BadFrame, CommandError


def said(*args: Any, **fields: Any) -> Any:
    return msgspec.json.decode(commands.publish(*args, **fields))["publish"]


def test_an_event_is_its_channel_and_its_data() -> None:
    assert said("a", {"n": 1}) == {"channel": "a", "data": {"n": 1}}
    assert said("a", None) == {"channel": "a", "data": None}


def test_key_type_and_tags_go_along() -> None:
    labels = {"key": "k", "type": "t", "tags": {"x": "y"}}
    assert said("a", 1, **labels) == {"channel": "a", "data": 1, **labels}


def test_raw_json_is_passed_on_to_the_byte() -> None:
    raw = b'{"b" : 1.10,  "a":[1e3]}'
    assert raw in commands.publish("a", msgspec.Raw(raw))


def test_text_is_a_json_string_and_bytes_are_base64() -> None:
    assert said("a", "1") == {"channel": "a", "data": "1"}
    assert said("a", b"\x00\xff") == {"channel": "a", "b64data": "AP8="}


def test_a_bad_channel_is_refused_at_once() -> None:
    with pytest.raises(BadChannel):
        commands.publish("a..b", 1)


@pytest.mark.parametrize("data", [object(), {1j: 1}, "\ud800", float])
def test_what_is_no_json_is_refused_at_once(data: Any) -> None:
    with pytest.raises(BadEvent, match="cannot be written as JSON"):
        commands.publish("a", data)


def test_a_batch_is_its_commands_in_order() -> None:
    body = commands.batch([commands.publish("a", n) for n in range(3)])
    decoded = msgspec.json.decode(body)
    assert [each["publish"]["data"] for each in decoded["commands"]] == [0, 1, 2]


def test_each_command_has_its_own_answer() -> None:
    body = (
        b'{"replies":[{"publish":{"offset":7,"epoch":"1763800000000","more":1}},'
        b'{"error":{"code":107,"message":"bad request"}},{}]}'
    )
    first, second, third = commands.replies(body, 3)
    assert first == Position(1763800000000, 7)
    assert isinstance(second, CommandError)
    assert (second.code, second.message) == (107, "bad request")
    assert isinstance(third, CommandError)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"replies":[]}',
        b'{"replies":[{},{}]}',
        b'{"replies":[{"publish":{"offset":"x","epoch":"1"}}]}',
        b'{"replies":[{"publish":{"offset":1,"epoch":"x"}}]}',
        b'{"replies":[{"publish":{"offset":-1,"epoch":"1"}}]}',
        b'{"replies":[{"error":{"message":"\xff"}}]}',
    ],
)
def test_an_answer_that_is_none_is_not_taken_for_one(body: bytes) -> None:
    with pytest.raises(BadFrame):
        commands.replies(body, 1)
