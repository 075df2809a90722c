"""Ticks and pictures."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinwire.compare.figures import ROWS, Passage, Wire
from twinwire.compare.plots import bars, delays, latencies, ticks


@given(st.floats(1e-6, 1e9), st.integers(3, 6))
def test_ticks_are_few_and_reach_the_end(most: float, steps: int) -> None:
    marks = ticks(most, steps)
    assert 2 <= len(marks) <= steps + 1
    assert marks[0] == 0
    assert marks[-1] >= most * 0.999


@pytest.mark.parametrize(
    ("most", "marks"),
    [(0.0, [0, 1]), (1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (53, [0, 20, 40, 60])],
)
def test_ticks_are_round_numbers(most: float, marks: list[float]) -> None:
    assert ticks(most) == pytest.approx(marks)


def rectangles(picture: str) -> list[float]:
    return [float(rect.get("width", 0)) for rect in ElementTree.fromstring(picture).iter("rect")]


def test_bars_are_as_long_as_their_figures() -> None:
    values: dict[Wire, list[float]] = {"sse": [1.0], "ws": [2.0]}
    short, long = rectangles(bars(ROWS["p50"], values, {"sse": 1.0, "ws": 2.0}))
    assert long == pytest.approx(2 * short, rel=0.01)


def test_a_bar_of_nothing_can_still_be_seen() -> None:
    assert rectangles(bars(ROWS["p50"], {"sse": [0.0]}, {"sse": 0.0})) == [1.0]


def test_curves_of_nothing_are_an_empty_picture() -> None:
    ElementTree.fromstring(latencies({}))


def test_delays_of_one_event_and_of_none_are_a_picture() -> None:
    passages = [Passage("p", "sse", "passed", [(0.0, 0.1)], 1), Passage("p", "ws", "refused")]
    picture = ElementTree.fromstring(delays(passages, "p", 0.1))
    assert picture.findtext("desc") == "SSE passed, at most 0.10 s late. WebSocket refused."
