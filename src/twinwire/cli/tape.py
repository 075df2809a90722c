"""A recorded market: a CSV file with a header, a time in each row, and prices or anything else.

::

    time_ms, symbol, bid, ask
    1582329601096, BTCUSDT, 9681.92, 9682

Columns go by their names. `time_ms` must be there; `bid` and `ask` must be numbers where they are;
everything else is taken as it comes: what reads as a JSON number is one, an empty cell is null, and
the rest is text.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from twinwire.errors import BadInput

CHANNEL: Final = "prices.{symbol}"
"""Where a tape's rows go, if nothing else is said."""

_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?").fullmatch
_PRICES: Final = frozenset({"bid", "ask"})
_PLACE: Final = re.compile(r"\{([^{}]*)\}")


class Row(NamedTuple):
    """A row: the line it ends at, its time in ms, its cells by column, and what to publish."""

    line: int
    time: int
    cells: dict[str, str]
    data: dict[str, Any]


class Tape:
    """Reads a tape from lines of text, one row at a time."""

    def __init__(self, lines: Iterable[str], name: str) -> None:
        """Reads the header. `name` is for messages. Raises `BadInput`, as the iteration does."""
        self.name = name
        self._rows = csv.reader(lines, strict=True)
        header = self._next()
        if header is None:
            raise BadInput(f"{name}: the tape is empty")
        self.columns = [column.strip() for column in header]
        if "time_ms" not in self.columns:
            shown = ascii(",".join(self.columns)[:60])
            raise BadInput(
                f"{name}: no column time_ms in the first line, {shown}; "
                "a tape begins with a line such as time_ms,symbol,bid,ask"
            )
        if len(set(self.columns)) < len(self.columns) or "" in self.columns:
            raise BadInput(f"{name}: two columns have the same name, or one has none")

    def check(self, template: str) -> None:
        """Raises `BadInput` if a ``{column}`` in `template` is none of the tape's."""
        for column in _PLACE.findall(template):
            if column not in self.columns:
                raise BadInput(
                    f"{self.name}: no column {column!a} to put into {template!a}; "
                    f"there are {', '.join(self.columns)}"
                )

    def __iter__(self) -> Iterator[Row]:
        number = 0
        while (texts := self._next()) is not None:
            if not texts:
                continue
            number += 1
            yield self._row(number, texts)

    def _next(self) -> list[str] | None:
        try:
            return next(self._rows, None)
        except (csv.Error, UnicodeDecodeError) as error:
            raise self._bad(f"not CSV: {error}") from None

    def _row(self, number: int, texts: list[str]) -> Row:
        if len(texts) != len(self.columns):
            raise self._bad(f"{len(texts)} cells, but the header has {len(self.columns)}")
        cells = {column: text.strip() for column, text in zip(self.columns, texts, strict=True)}
        data = {column: self._value(column, text) for column, text in cells.items()}
        del data["time_ms"]
        # int() alone would also take "1_000" and " 1".
        if not re.fullmatch(r"-?[0-9]{1,18}", cells["time_ms"]):
            raise self._bad(f"time_ms is not a whole number of ms: {cells['time_ms'][:40]!a}")
        time = int(cells["time_ms"])
        return Row(self._rows.line_num, time, cells, {**data, "time": time, "n": number})

    def _value(self, column: str, text: str) -> Any:
        if _NUMBER(text):
            # As it is written: 9682.10 keeps its digits.
            return msgspec.Raw(text.encode())
        if text and column in _PRICES:
            raise self._bad(f"{column} is not a number: {text[:40]!a}")
        return text or None

    def _bad(self, what: str) -> BadInput:
        return BadInput(f"{self.name}, line {self._rows.line_num}: {what}")


def filled(template: str, row: Row) -> str:
    """`template` with each ``{column}`` replaced by the row's cell."""
    return _PLACE.sub(lambda place: row.cells[place[1]], template)
