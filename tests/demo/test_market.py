"""The sources of ticks: times never go back, prices are prices, and a bad tape says where."""

import math
from collections import Counter
from itertools import islice

import pytest

from twinwire.demo.market import INSTRUMENTS, SIMULATED, Instrument, recorded, simulated
from twinwire.errors import BadInput

HEADER = "time_ms,symbol,bid,ask"
TAPE = [HEADER, "1000,A,1.5,1.6", "1250,B,2,2.5", "1100,A,1.4,1.6", "2000,A,1.3,1.6"]


def test_the_same_seed_gives_the_same_market_and_another_one_another() -> None:
    first = list(islice(simulated(seed=7), 500))
    assert first == list(islice(simulated(seed=7), 500))
    assert first != list(islice(simulated(seed=8), 500))


def test_a_simulated_market_goes_on_in_time_and_stays_near_its_beginning() -> None:
    begun = {instrument.symbol: instrument.price for instrument in INSTRUMENTS}
    last = 0.0
    for tick in islice(simulated(), 50_000):
        assert tick.at >= last
        assert 0 < tick.bid < tick.ask
        assert 0.9 < tick.bid / begun[tick.symbol] < 1.1
        last = tick.at


def test_every_symbol_ticks_at_its_rate() -> None:
    ticks = list(islice(simulated(), 20_000))
    counts = Counter(tick.symbol for tick in ticks)
    for instrument in INSTRUMENTS:
        assert counts[instrument.symbol] / ticks[-1].at == pytest.approx(instrument.rate, rel=0.1)


def test_prices_have_no_more_decimals_than_the_instrument() -> None:
    for tick in islice(simulated(instruments=[Instrument("A", 1.08, 5, 1.4, 1)]), 5_000):
        for price in (tick.bid, tick.ask):
            assert price == round(price, 5)


def test_what_is_simulated_says_so() -> None:
    assert {tick.source for tick in islice(simulated(), 100)} == {SIMULATED}


def test_speed_makes_time_shorter_and_changes_nothing_else() -> None:
    slow, fast = islice(simulated(), 100), islice(simulated(speed=20), 100)
    for one, other in zip(slow, fast, strict=True):
        assert one.at == pytest.approx(other.at * 20)
        assert one[1:] == other[1:]


def test_a_tape_is_played_over_and_over_and_never_back_in_time() -> None:
    ticks = list(islice(recorded(TAPE, "tape.csv"), 6))
    assert [tick.at for tick in ticks] == [0.0, 0.25, 0.25, 1.0, 2.0, 2.25]
    assert [tick[1:] for tick in ticks[:2]] == [
        ("A", 1.5, 1.6, "tape.csv"),
        ("B", 2.0, 2.5, "tape.csv"),
    ]
    assert [tick[1:] for tick in ticks[4:]] == [tick[1:] for tick in ticks[:2]]


def test_a_tape_is_played_at_its_speed() -> None:
    ticks = list(islice(recorded(TAPE, "tape.csv", speed=2), 5))
    assert [tick.at for tick in ticks] == [0.0, 0.125, 0.125, 0.5, 1.5]


def test_a_tick_has_a_channel_of_its_own_symbol() -> None:
    assert next(recorded(TAPE, "tape.csv")).channel == "prices.A"


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([], "tape.csv: a tape has a column ask"),
        ([HEADER], "tape.csv: there is no tick on this tape"),
        (["time_ms,symbol,bid", "1,A,2"], "tape.csv: a tape has a column ask"),
        ([HEADER, "1,A,2,3", "soon,A,2,3"], "tape.csv, line 3: no tick"),
        ([HEADER, "1,A,dear,3"], "tape.csv, line 2: no tick"),
        ([HEADER, "1,A,nan,3"], "tape.csv, line 2: no tick: a price that is no number"),
        ([HEADER, "1,A,2"], "tape.csv, line 2: no tick"),
        ([HEADER, "1,A B,2,3"], "tape.csv, line 2: no tick: bad channel"),
        ([HEADER, "1,*,2,3"], "tape.csv, line 2: no tick: bad channel"),
    ],
)
def test_a_tape_that_cannot_be_played_says_why_at_once(lines: list[str], sentence: str) -> None:
    with pytest.raises(BadInput) as refused:
        recorded(lines, "tape.csv")
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize("speed", [0, -1, math.nan, math.inf])
def test_a_speed_that_is_none_is_refused_at_once(speed: float) -> None:
    with pytest.raises(BadInput, match="bad speed"):
        simulated(speed=speed)
    with pytest.raises(BadInput, match="bad speed"):
        recorded(TAPE, "tape.csv", speed)
