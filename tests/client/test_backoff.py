"""How long a client waits."""

import itertools
import random

import pytest

from twinwire.client.backoff import Backoff

MIDDLE = 0.5  # the dice that makes the factor one


def test_delays_double_up_to_the_most() -> None:
    backoff = Backoff(base=1, most=10)
    assert [backoff.lost(0, MIDDLE) for _ in range(6)] == [1, 2, 4, 8, 10, 10]


def test_delays_differ_from_client_to_client() -> None:
    backoff = Backoff(base=1)
    assert backoff.lost(0, 0.0) == 0.5
    assert Backoff(base=1).lost(0, 0.999) == pytest.approx(1.499)


def test_a_connection_that_lasted_begins_the_count_anew() -> None:
    backoff = Backoff(base=1, steady=5)
    for _ in range(4):
        backoff.lost(0, MIDDLE)
    backoff.connected(100)
    assert backoff.lost(105, MIDDLE) == 1


def test_a_connection_that_did_not_last_is_a_failure_too() -> None:
    backoff = Backoff(base=1, steady=5)
    delays = []
    for now in itertools.islice(itertools.count(0, 10), 4):
        backoff.connected(now)
        delays.append(backoff.lost(now + 1, MIDDLE))
    assert delays == [1, 2, 4, 8]


def test_a_connection_that_brought_something_is_a_success_however_short() -> None:
    backoff = Backoff(base=1, steady=5)
    delays = []
    for now in range(4):
        backoff.connected(now)
        backoff.worked()
        delays.append(backoff.lost(now, MIDDLE))
    assert delays == [1, 1, 1, 1]


def test_a_steady_connection_counts_once() -> None:
    backoff = Backoff(base=1, steady=5)
    backoff.connected(0)
    assert [backoff.lost(now, MIDDLE) for now in (10, 20, 30)] == [1, 2, 4]


def test_what_the_server_asks_for_is_done_at_first() -> None:
    assert Backoff(base=1).lost(0, MIDDLE, asked=7) == 7
    assert Backoff(base=1).lost(0, MIDDLE, asked=0) == 0


def test_a_server_that_keeps_asking_for_less_does_not_hold_the_delay_down() -> None:
    backoff = Backoff(base=1)
    assert [backoff.lost(0, MIDDLE, asked=0) for _ in range(4)] == [0, 2, 4, 8]


@pytest.mark.parametrize(("asked", "given"), [(1e9, 300), (-5, 0)])
def test_no_server_can_make_a_client_wait_for_ever(asked: float, given: float) -> None:
    assert Backoff().lost(0, MIDDLE, asked=asked) == given


def test_it_never_overflows() -> None:
    backoff = Backoff(base=0.5, most=20)
    dice = random.Random(1)
    assert all(0 < backoff.lost(0, dice.random()) <= 30 for _ in range(5000))
