"""Grants: a selector is allowed if all it may ever match is."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.samples import CHANNELS, PATTERNS, SELECTORS, UNKNOWN, matches
from twinwire.core.grants import Grants, covered

# Names enough that two patterns match the same of them only if they match the same of all.
TOKENS = ["a", "b", "c", "d", "x", "other"]
NAMES = [".".join(tokens) for length in (1, 2, 3, 4) for tokens in product(TOKENS, repeat=length)]


@pytest.mark.parametrize(
    ("selector", "patterns", "allowed"),
    [
        ("a", (), False),
        ("a", ("a",), True),
        ("a", ("b", "a"), True),
        ("a", (">",), True),
        ("*", (">",), True),
        (">", (">",), True),
        (">", ("*",), False),
        (">", ("a", "a.>"), False),
        ("*", ("*",), True),
        ("*", ("a",), False),
        ("a", ("*",), True),
        ("a.b", ("*",), False),
        ("a.b", ("a.*",), True),
        ("a.*", ("a.*",), True),
        ("a.*", ("a.b",), False),
        ("a.>", ("a.*",), False),
        ("a.*", ("a.>",), True),
        ("a.*.c", ("a.>",), True),
        ("a.>", ("a.>",), True),
        ("a", ("a.>",), False),
        ("ab", ("a",), False),
        ("a.b", ("a.bc",), False),
    ],
)
def test_a_selector_is_covered_when_a_pattern_matches_all_that_it_matches(
    selector: str, patterns: tuple[str, ...], allowed: bool
) -> None:
    assert covered(selector, patterns) is allowed


@given(st.sampled_from(SELECTORS), st.sampled_from(CHANNELS + PATTERNS + UNKNOWN))
def test_covering_is_what_matching_every_name_says(selector: str, pattern: str) -> None:
    wanted = [name for name in NAMES if matches(selector, name)]
    assert covered(selector, [pattern]) is all(matches(pattern, name) for name in wanted)


def test_reading_and_publishing_are_granted_apart() -> None:
    grants = Grants(subscribe=("news.*",), publish=("chat.*",))
    assert grants.may_subscribe("news.a")
    assert not grants.may_subscribe("chat.a")
    assert grants.may_publish("chat.a")
    assert not grants.may_publish("news.a")


def test_nothing_is_granted_by_default() -> None:
    assert not Grants().may_subscribe("a")
    assert not Grants().may_publish("a")
