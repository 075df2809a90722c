"""The server helper itself: it waits, it tells, and it leaves nothing behind."""

import os
import signal
import sys

import pytest

from tests.servers import Command, answers, unused_port

FILES = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1"]


def files(
    port: int, *, exit_codes: tuple[int, ...] = (-signal.SIGTERM,), ready: str = "/"
) -> Command:
    return Command([*FILES, str(port)], port, exit_codes=exit_codes, ready=ready, start=1.5)


def test_a_server_answers_inside_the_block_and_is_gone_after_it(free_port: int) -> None:
    with files(free_port) as server:
        assert answers(free_port, "/")
        assert "GET / " in server.output
    assert not answers(free_port, "/")
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_an_unexpected_exit_code_fails() -> None:
    with (
        pytest.raises(AssertionError, match="ended with -15"),
        files(unused_port(), exit_codes=(0,)),
    ):
        pass


def test_a_server_that_ends_early_tells_what_it_printed() -> None:
    command = Command(
        [sys.executable, "-c", "print('no such flag'); raise SystemExit(2)"], unused_port()
    )
    with pytest.raises(AssertionError, match=r"ended with 2:\nno such flag"), command:
        pass


def test_a_server_that_never_gets_ready_is_ended() -> None:
    server = files(unused_port(), ready="/missing")
    with pytest.raises(AssertionError, match="not ready after"), server:
        pass
    assert server.process.returncode == -signal.SIGKILL
