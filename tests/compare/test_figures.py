"""When two figures differ, and how a figure is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.compare.made import whole
from twinwire.compare.figures import (
    Wire,
    compare,
    curve,
    of_json,
    quantile,
    show,
    spread,
    to_json,
)

rounds = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=9)


@pytest.mark.parametrize(
    ("sse", "ws", "less"),
    [
        ([108], [162], "sse"),
        ([162], [108], "ws"),
        ([100], [102], None),  # below what is worth words
        ([1.0, 2.0, 3.0], [2.5, 3.5, 4.5], None),  # they overlap, and three may agree by luck
        ([1.0, 1.1, 1.2], [1.3, 1.4, 1.5], "sse"),
        ([1.0, 2.0, 4.0, 1.5, 3.0], [1.4, 2.7, 5.7, 2.2, 4.3], "sse"),  # a machine that gets busier
        ([1.0, 2.0, 4.0, 1.5, 3.0], [1.4, 2.7, 3.9, 2.2, 4.3], None),  # one round says otherwise
        ([9.7, 5.0, 5.0, 5.0, 9.8], [10.0, 5.2, 10.0, 5.2, 10.0], None),  # it varies too much
        ([0.0], [0.0], None),
        ([1.0, 1.0], [1.0, 1.0], None),
    ],
)
def test_figures_differ_only_if_the_rounds_say_so(
    sse: list[float], ws: list[float], less: Wire | None
) -> None:
    found = compare({"sse": sse, "ws": ws})
    assert found is not None
    assert found.less == less


@given(rounds, rounds)
def test_which_is_called_what_does_not_matter(one: list[float], other: list[float]) -> None:
    there, back = compare({"sse": one, "ws": other}), compare({"sse": other, "ws": one})
    assert there is not None
    assert back is not None
    swapped: dict[Wire | None, Wire | None] = {"sse": "ws", "ws": "sse", None: None}
    assert there.less == swapped[back.less]


@given(rounds)
def test_a_figure_does_not_differ_from_itself(values: list[float]) -> None:
    found = compare({"sse": values, "ws": values})
    assert found is not None
    assert found.less is None


@given(rounds, rounds)
def test_the_part_is_that_of_the_medians_shown(one: list[float], other: list[float]) -> None:
    found = compare({"sse": one, "ws": other})
    assert found is not None
    if found.less:
        more: Wire = "ws" if found.less == "sse" else "sse"
        expected = 1 - found.medians[found.less] / found.medians[more]
        assert found.part == pytest.approx(expected)
        assert 0 < found.part <= 1


def test_a_figure_that_is_not_there_is_not_compared() -> None:
    assert compare({"sse": [1.0], "ws": []}) is None
    assert compare({"sse": [1.0]}) is None


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_quantile_lies_within(values: list[float], part: float) -> None:
    ordered = sorted(values)
    assert ordered[0] - 1e-6 <= quantile(ordered, part) <= ordered[-1] + 1e-6


def test_quantiles_are_known() -> None:
    assert quantile([1.0, 2.0, 3.0], 0.5) == 2.0
    assert quantile([1.0, 2.0], 0.5) == 1.5
    assert quantile([7.0], 0.99) == 7.0
    assert curve([]) == []
    assert curve([3.0, 1.0])[::200] == [1.0, 3.0]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.4123, "ms", "0.412 ms"), (1.0, "ms", "1 ms"), (12.34, "ms", "12.3 ms"),
        (123.4, "ms", "123 ms"), (1234.0, "ms", "1.23 s"), (108.0, "B", "108 B"),
        (12.0, "B", "12 B"), (12.5, "B", "12.5 B"), (8192.0, "B", "8,192 B"),
        (103797.0, "B", "101 KiB"), (14.21, "KiB", "14.2 KiB"), (0.98, "", "0.98"),
        (0.0, "ms", "0 ms"),
    ],
)  # fmt: skip
def test_a_value_is_written_with_three_digits_that_count(
    value: float, unit: str, text: str
) -> None:
    assert show(value, unit) == text


@pytest.mark.parametrize(
    ("values", "unit", "text"),
    [
        ([1.0, 3.0, 2.0], "ms", "1 – 3"),
        ([900.0, 1100.0], "ms", "900 ms – 1.1 s"),
        ([108.0, 108.0], "B", ""),
    ],
)
def test_a_spread_goes_from_the_lowest_to_the_highest(
    values: list[float], unit: str, text: str
) -> None:
    assert spread(values, unit) == text


def test_what_was_written_as_json_is_read_again() -> None:
    assert of_json(to_json(whole())) == whole()
