"""Who of several workers stands back for the others."""

import os
from collections.abc import Iterator

import pytest

from twinwire.server.shares import Shares, new_table


@pytest.fixture
def workers() -> Iterator[list[Shares]]:
    """Three of four places taken."""
    table = new_table(4)
    yield [Shares(table, place) for place in range(3)]
    os.close(table)


def test_a_worker_alone_never_stands_back(workers: list[Shares]) -> None:
    assert not workers[0].note(10_000)


def test_who_has_clearly_more_than_another_stands_back(workers: list[Shares]) -> None:
    one, two, _ = workers
    assert not one.note(0)
    assert not two.note(8)
    assert two.note(9)
    assert not one.note(9)
    one.note(1600)
    assert not two.note(1700)
    assert two.note(1709)


def test_the_one_with_the_fewest_counts(workers: list[Shares]) -> None:
    one, two, three = workers
    one.note(100)
    two.note(5)
    assert three.note(90)
    assert one.note(100)
    assert not two.note(5)


def test_who_has_left_counts_no_more(workers: list[Shares]) -> None:
    one, two, _ = workers
    one.note(0)
    assert two.note(50)
    one.leave()
    assert not two.note(50)
