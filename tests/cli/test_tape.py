"""Reading a recorded market, and saying what is wrong with a file that is none."""

import csv
import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinwire.cli.tape import CHANNEL, Row, Tape, filled
from twinwire.errors import BadInput

HEADER = "time_ms,symbol,bid,ask\n"


def read(text: str) -> list[Row]:
    return list(Tape(io.StringIO(text, newline=""), "t.csv"))


def data(row: Row) -> Any:
    return msgspec.json.decode(msgspec.json.encode(row.data))


def test_a_row_is_its_columns_its_time_and_its_number() -> None:
    first, second = read(HEADER + "1000,BTCUSDT,9681.92,9682\n1010,BTCUSDT,9681.83,9682\n")
    assert (first.time, second.time) == (1000, 1010)
    assert data(first) == {"symbol": "BTCUSDT", "bid": 9681.92, "ask": 9682, "time": 1000, "n": 1}
    assert data(second)["n"] == 2


def test_numbers_keep_their_digits() -> None:
    (row,) = read("time_ms,a,b,c,d\n1,9682.10,-0,1e3,123456789012345678901234567890\n")
    assert msgspec.json.encode(row.data).startswith(
        b'{"a":9682.10,"b":-0,"c":1e3,"d":123456789012345678901234567890,'
    )


@pytest.mark.parametrize(
    "text", ["abc", "007", "1_000", "0x10", "1,5", "nan", "inf", "+1", ".5", "1.", "-", "٣"]
)
def test_what_is_no_number_is_text(text: str) -> None:
    (row,) = read(f'time_ms,x\n1,"{text}"\n')
    assert data(row)["x"] == text


def test_an_empty_cell_is_null() -> None:
    (row,) = read(HEADER + "1,EURUSD,,1.1\n")
    assert data(row)["bid"] is None


def test_columns_may_stand_in_any_order_and_be_any() -> None:
    (row,) = read("volume,symbol,time_ms\n3,EURUSD,1\n")
    assert data(row) == {"volume": 3, "symbol": "EURUSD", "time": 1, "n": 1}
    (row,) = read("time_ms\n5\n")
    assert data(row) == {"time": 5, "n": 1}


def test_quotes_spaces_and_empty_lines_do_no_harm() -> None:
    rows = read('"time_ms", symbol ,note\n\n 1 , EURUSD ,"a ""b"",\nc"\r\n\r\n2,EURUSD,\n')
    assert [data(row)["note"] for row in rows] == ['a "b",\nc', None]
    assert [row.cells["symbol"] for row in rows] == ["EURUSD", "EURUSD"]
    assert [row.data["n"] for row in rows] == [1, 2]


def test_a_header_alone_is_a_tape_without_rows() -> None:
    assert read(HEADER) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "t.csv: the tape is empty"),
        ("symbol,bid,ask\n", "t.csv: no column time_ms in the first line, 'symbol,bid,ask'"),
        ("1582329601096,BTCUSDT,1,2\n", "no column time_ms in the first line, '1582329601096,"),
        ("\n", "no column time_ms in the first line, ''"),
        ("{\x00\x1b[31m}\n", r"no column time_ms in the first line, '\{\\x00\\x1b"),
        ("time_ms,bid,bid\n", "two columns have the same name"),
        ("time_ms,,\n", "two columns have the same name, or one has none"),
        (HEADER + "1,EURUSD,1\n", "t.csv, line 2: 3 cells, but the header has 4"),
        (HEADER + "1,A,1,2\n2,A,1,2,3\n", "t.csv, line 3: 5 cells"),
        (HEADER + "now,EURUSD,1,2\n", "line 2: time_ms is not a whole number of ms: 'now'"),
        (HEADER + "1.5,EURUSD,1,2\n", "line 2: time_ms is not a whole number of ms: '1.5'"),
        (HEADER + "1_0,EURUSD,1,2\n", "time_ms is not a whole number"),
        (HEADER + ",EURUSD,1,2\n", "time_ms is not a whole number of ms: ''"),
        (HEADER + "9" * 30 + ",EURUSD,1,2\n", "time_ms is not a whole number"),
        (HEADER + "1,EURUSD,96x1,2\n", "t.csv, line 2: bid is not a number: '96x1'"),
        (HEADER + "1,EURUSD,1,two\n", "line 2: ask is not a number: 'two'"),
        (HEADER + '1,"EURUSD,1,2\n', "line 2: not CSV: "),
        (HEADER + '1,"EUR"USD,1,2\n', "line 2: not CSV: "),
    ],
)
def test_what_is_wrong_with_a_tape_is_said_with_its_line(text: str, what: str) -> None:
    with pytest.raises(BadInput, match=what):
        read(text)


def test_the_rows_before_a_bad_one_are_read() -> None:
    tape = iter(Tape(io.StringIO(HEADER + "1,A,1,2\n2,A\n", newline=""), "t.csv"))
    assert next(tape).time == 1
    with pytest.raises(BadInput):
        next(tape)


def test_a_file_that_is_no_text_is_no_tape(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(HEADER.encode() + b"1,\xff\xfe,1,2\n")
    with file.open(encoding="utf-8", newline="") as lines, pytest.raises(BadInput, match="not CSV"):
        list(Tape(lines, "t.csv"))


def test_a_channel_takes_the_places_from_the_row() -> None:
    (row,) = read("time_ms,symbol,venue\n1,EURUSD,X\n")
    assert filled(CHANNEL, row) == "prices.EURUSD"
    assert filled("{venue}.{symbol}.{symbol}", row) == "X.EURUSD.EURUSD"
    assert filled("prices", row) == "prices"


def test_a_place_that_is_no_column_is_refused_before_anything_is_published() -> None:
    tape = Tape(io.StringIO("time_ms,venue\n", newline=""), "t.csv")
    tape.check("x.{venue}")
    with pytest.raises(BadInput, match=r"no column 'symbol' to put into 'prices.\{symbol\}'"):
        tape.check(CHANNEL)


@given(
    st.lists(
        st.tuples(st.integers(0, 2**50), st.text(max_size=20), st.floats(allow_nan=False)),
        max_size=5,
    )
)
def test_what_was_written_is_read(rows: list[tuple[int, str, float]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["time_ms", "note", "price"])
    writer.writerows(rows)
    found = read(text.getvalue())
    assert [row.time for row in found] == [time for time, _, _ in rows]
    assert [row.cells["note"] for row in found] == [note.strip() for _, note, _ in rows]


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        for row in read("time_ms,x\n" + text):
            msgspec.json.encode(row.data)
    except BadInput:
        pass
