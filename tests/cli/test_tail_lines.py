"""How `twinwire tail` writes what it has got."""

import msgspec
import pytest

from twinwire.cli.tail import human_line, json_line
from twinwire.core.event import Event, Kind, Position
from twinwire.core.feed import Gap, Why

TICK = Event("prices.EURUSD", b'{"bid":1.10}', 7, 42, 1_763_800_000_123, key="EURUSD")
GAP = Gap(Position(7, 5), Position(7, 120), Why.EVICTED, ("prices.*",))

plain = human_line(colour=False)


def test_people_see_time_channel_key_and_data() -> None:
    time, *rest = plain(TICK).split("  ")
    assert len(time) == len("07:06:40.123")
    assert time.endswith(":40.123")
    assert rest == ["prices.EURUSD", "EURUSD", '{"bid":1.10}']


def test_an_event_without_a_key_has_none() -> None:
    assert plain(Event("a", b"1", 7, 1, 0)).split("  ")[1:] == ["a", "1"]


def test_a_gap_stands_out() -> None:
    assert plain(GAP) == "--- gap 7-5 .. 7-120 (evicted)"


def test_colours_are_about_the_same_text() -> None:
    for item in (TICK, GAP):
        painted = human_line(colour=True)(item)
        assert "\x1b[" in painted
        for code in ("\x1b[0m", "\x1b[2m", "\x1b[31m", "\x1b[33m", "\x1b[36m"):
            painted = painted.replace(code, "")
        assert painted == plain(item)


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "\r", "\x07", "\x9b31m", "\u2028", "\x00"])
def test_nothing_published_steers_the_terminal(text: str) -> None:
    line = plain(Event("a", f"[{text}]".encode(), 7, 1, 0, kind=Kind.TEXT))
    assert line.isprintable()
    assert line.split("  ")[-1].startswith("[")


def test_bytes_are_shown_as_base64() -> None:
    assert plain(Event("a", b"\x00\xff", 7, 1, 0, kind=Kind.BYTES)).endswith("  AP8=")


def test_programs_see_all_of_it_in_an_object() -> None:
    event = Event(
        "a", b'{"b" :1.10}', 7, 42, 123, key="k", type="t", tags={"x": "y"}
    )  # fmt: skip
    assert json_line(event) == (
        '{"position":"7-42","channel":"a","key":"k","type":"t","tags":{"x":"y"},"time":123,'
        '"data":{"b":1.10}}'
    )


@pytest.mark.parametrize(
    ("data", "kind", "field", "value"),
    [
        (b'"x"', Kind.JSON, "data", "x"),
        ("grüße\n".encode(), Kind.TEXT, "data", "grüße\n"),
        (b"\x00\xff", Kind.BYTES, "b64data", "AP8="),
        (b'{\n "a": 1\n}', Kind.JSON, "data", {"a": 1}),
    ],
)
def test_an_object_is_one_line_whatever_the_data(
    data: bytes, kind: Kind, field: str, value: object
) -> None:
    line = json_line(Event("a", data, 7, 42, 123, kind=kind))
    assert "\n" not in line
    assert msgspec.json.decode(line)[field] == value


def test_a_gap_is_an_object_too() -> None:
    assert json_line(GAP) == '{"gap":{"from":"7-5","to":"7-120","reason":"evicted"}}'
