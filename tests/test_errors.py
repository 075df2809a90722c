"""Close reasons: those of the table, and an application's own."""

import pytest

from twinwire.errors import BadInput, CloseReason, OwnReason, close_reason


@pytest.mark.parametrize("row", CloseReason)
def test_a_code_of_the_table_is_its_row_unless_something_else_is_said(row: CloseReason) -> None:
    assert close_reason(row.code) is row
    assert close_reason(row.code, row.text) is row
    assert close_reason(row.code, "other words") == OwnReason(row.code, "other words")
    assert OwnReason(row.code, "other words").reconnect is row.reconnect


@pytest.mark.parametrize(
    ("code", "reconnect"), [(3499, True), (4000, True), (4499, True), (4500, False), (4999, False)]
)
def test_another_code_says_by_its_range_whether_to_come_back(code: int, reconnect: bool) -> None:
    assert close_reason(code, "ü" * 61) == OwnReason(code, "ü" * 61)
    assert close_reason(code, "x").reconnect is reconnect


@pytest.mark.parametrize(
    ("code", "text"),
    [(1000, "x"), (2999, "x"), (5000, "x"), (4000, ""), (4000, "ü" * 62), (4000, "a\nb")],
)
def test_what_a_close_frame_cannot_say_is_refused(code: int, text: str) -> None:
    with pytest.raises(BadInput):
        close_reason(code, text)
