"""Where the demo's ticks come from: a simulated market, or a recorded tape. No clock, no I/O.

1. A source is an iterator of ticks whose times never go back and which never ends by itself.
2. Every tick names its source. What is simulated says so wherever it goes.
3. The same seed gives the same market.
"""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heapreplace
from typing import Final, NamedTuple

from twinwire.core.event import check_channel
from twinwire.errors import BadChannel, BadInput

SIMULATED: Final = "simulated"
"""The source that the ticks of `simulated` name."""

_PAUSE: Final = 1.0
"""Seconds between the end of a tape and its beginning again."""


class Tick(NamedTuple):
    """A quote, `at` seconds after the beginning."""

    at: float
    symbol: str
    bid: float
    ask: float
    source: str

    @property
    def channel(self) -> str:
        """Where it is published."""
        return f"prices.{self.symbol}"


class Instrument(NamedTuple):
    """Something simulated: `rate` ticks a second, each of about `step` points up or down.

    A point is the smallest difference of two prices, the last of `digits` decimals.
    """

    symbol: str
    price: float
    digits: int
    step: float
    rate: float


INSTRUMENTS: Final = (
    Instrument("AUDUSD", 0.65412, 5, 1.6, 4),
    Instrument("BTCUSD", 64210.50, 2, 420.0, 9),
    Instrument("ETHUSD", 3120.40, 2, 36.0, 7),
    Instrument("EURUSD", 1.08214, 5, 1.4, 8),
    Instrument("GBPUSD", 1.26940, 5, 1.8, 6),
    Instrument("USDCHF", 0.89315, 5, 1.5, 3),
    Instrument("USDJPY", 151.372, 3, 1.9, 6),
    Instrument("XAUUSD", 2331.15, 2, 11.0, 5),
)


def simulated(
    seed: int = 1, speed: float = 1.0, instruments: Sequence[Instrument] = INSTRUMENTS
) -> Iterator[Tick]:
    """A market that is nowhere: each symbol on its own random walk, drawn back to its beginning.

    Raises `BadInput` for a speed that is none.
    """
    _check_speed(speed)
    return _walk(random.Random(seed), speed, instruments)


def _walk(dice: random.Random, speed: float, instruments: Sequence[Instrument]) -> Iterator[Tick]:
    mids = [instrument.price * 10**instrument.digits for instrument in instruments]
    due = [(dice.expovariate(i.rate), index) for index, i in enumerate(instruments)]
    heapify(due)
    while True:
        at, index = due[0]
        instrument = instruments[index]
        begun = instrument.price * 10**instrument.digits
        # Drawn back in proportion to the distance, so that it wanders but never runs away.
        mids[index] += dice.gauss((begun - mids[index]) / 2000, instrument.step)
        half = instrument.step * dice.uniform(0.6, 1.4)
        unit = 10**instrument.digits
        bid = math.floor(mids[index] - half) / unit
        ask = math.ceil(mids[index] + half) / unit
        yield Tick(at / speed, instrument.symbol, bid, ask, SIMULATED)
        heapreplace(due, (at + dice.expovariate(instrument.rate), index))


def recorded(lines: Iterable[str], source: str, speed: float = 1.0) -> Iterator[Tick]:
    """The ticks of a tape, CSV with the columns time_ms, symbol, bid and ask, over and over.

    Raises `BadInput` at once for a tape that cannot be played.
    """
    _check_speed(speed)
    tape = list(_read(lines, source, speed))
    if not tape:
        raise BadInput(f"{source}: there is no tick on this tape")
    return _over_and_over(tape)


def _over_and_over(tape: Sequence[Tick]) -> Iterator[Tick]:
    begun = 0.0
    while True:
        for tick in tape:
            yield tick._replace(at=begun + tick.at)
        begun += tape[-1].at + _PAUSE


def _read(lines: Iterable[str], source: str, speed: float) -> Iterator[Tick]:
    rows = csv.DictReader(lines)
    if missing := {"time_ms", "symbol", "bid", "ask"} - set(rows.fieldnames or ()):
        raise BadInput(f"{source}: a tape has a column {min(missing)}")
    begun: int | None = None
    at = 0.0
    try:
        for row in rows:
            time, bid, ask = int(row["time_ms"]), float(row["bid"]), float(row["ask"])
            if not (math.isfinite(bid) and math.isfinite(ask)):
                raise ValueError("a price that is no number")
            begun = time if begun is None else begun
            at = max(at, (time - begun) / 1000 / speed)
            tick = Tick(at, row["symbol"], bid, ask, source)
            check_channel(tick.channel)
            yield tick
    except (ValueError, TypeError, csv.Error, BadChannel) as error:
        raise BadInput(f"{source}, line {rows.line_num}: no tick: {error}") from None


def _check_speed(speed: float) -> None:
    if not 0 < speed < math.inf:
        raise BadInput(f"bad speed {speed}: 1 is the market's own, 20 is twenty times as fast")
