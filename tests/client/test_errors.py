"""What a client says when it cannot go on, and when it can."""

import errno
import socket

import pytest

from twinwire.client.errors import (
    ComeBack,
    InDoubt,
    MissingExtra,
    Refused,
    Unreachable,
    farewell,
    reason,
)
from twinwire.errors import Closed, CloseReason, TwinwireError


@pytest.mark.parametrize("why", list(CloseReason))
def test_the_table_of_close_reasons_decides_who_comes_back(why: CloseReason) -> None:
    end = farewell(why.code, why.text)
    if why.reconnect:
        assert isinstance(end, ComeBack)
        assert why.text in end.why
    else:
        assert isinstance(end, Closed)
        assert end.reason is why


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1012, 3499, 4000, 4499, 5000, 0])
def test_a_code_that_is_not_in_the_table_goes_by_its_range(code: int) -> None:
    assert isinstance(farewell(code, ""), ComeBack)


@pytest.mark.parametrize("code", [1009, 3999, 4500, 4999])
def test_final_codes_of_others_are_final(code: int) -> None:
    end = farewell(code, "gone")
    assert isinstance(end, Refused)
    assert (end.code, end.why) == (code, "gone")


def test_the_server_can_say_when_to_come_back() -> None:
    end = farewell(3001, "shutdown", 2.5)
    assert isinstance(end, ComeBack)
    assert end.delay == 2.5


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (Unreachable("http://h", "no route"), "no connection to http://h: no route"),
        (Refused(400, "bad channel"), "the server refuses: bad channel (400)"),
        (InDoubt(1, "cut"), "1 event sent, but whether published is not known: cut"),
        (InDoubt(7, "cut"), "7 events sent, but whether published is not known: cut"),
        (MissingExtra("httpx2"), "the client needs httpx2: pip install 'twinwire[client]'"),
    ],
)
def test_errors_are_sentences(error: TwinwireError, sentence: str) -> None:
    assert str(error) == sentence


def test_a_missing_extra_is_an_import_error() -> None:
    assert isinstance(MissingExtra("httpx2"), ImportError)


def test_the_systems_own_reason_is_found_below_others() -> None:
    error = RuntimeError("All connection attempts failed")
    error.__cause__ = OSError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)")
    assert reason(error) == "connection refused"


def test_an_unknown_host_is_said_to_be_one() -> None:
    assert reason(socket.gaierror(-2, "Name or service not known")) == "name or service not known"


def test_an_error_without_words_is_called_by_its_name() -> None:
    assert reason(TimeoutError()) == "TimeoutError"
