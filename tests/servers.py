"""Real servers in processes of their own, for tests.

with Server("--api-key", "secret") as server:
    http.post(server.url + "/api/publish", ...)

A server is ready when the block begins, and has ended with the expected exit code when it is left.
If the block raises, what the server printed is shown with the test's failure.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

TWINWIRE = str(Path(sys.executable).with_name("twinwire"))


def unused_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def plain_environment() -> dict[str, str]:
    """The environment without settings that happen to be in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TWINWIRE_")}


def answers(port: int, path: str) -> bool:
    """Whether a GET of the path is answered with 200 right now."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Command:
    """A command that serves HTTP on a port, such as hypercorn's or granian's."""

    def __init__(
        self,
        argv: Sequence[str],
        port: int,
        *,
        ready: str = "/ready",
        start: float = 20,
        exit_codes: Sequence[int] = (0,),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.argv = list(argv)
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.ws_url = f"ws://127.0.0.1:{port}"
        self._ready = ready
        self._start = start
        self._exit_codes = exit_codes
        self._env = {**plain_environment(), "PYTHONUNBUFFERED": "1", **(env or {})}
        self._cwd = cwd
        self._output: IO[bytes]
        self.process: subprocess.Popen[bytes]

    @property
    def output(self) -> str:
        """Everything printed so far."""
        fd = self._output.fileno()
        # pread, since seeking would move the place where the child writes.
        return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace")

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self) -> None:
        """Starts the process; does not wait for anything. Pairs with `close`."""
        # A file and not a pipe, which a talkative server could fill.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        self.process = subprocess.Popen(
            self.argv,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=self._env,
            cwd=self._cwd,
            start_new_session=True,  # a Ctrl-C at pytest is pytest's; and workers die with kill()
        )

    def wait_ready(self) -> None:
        """Returns as soon as the server answers, raises when it ends or takes too long."""
        deadline = time.monotonic() + self._start
        while not answers(self.port, self._ready):
            if self.process.poll() is not None:
                raise AssertionError(f"{self} ended with {self.process.returncode}:\n{self.output}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{self} not ready after {self._start} s:\n{self.output}")
            time.sleep(0.02)

    def stop(self, signum: int = signal.SIGTERM, timeout: float = 10) -> int:
        """Sends a signal, waits for the end, returns the exit code."""
        self.process.send_signal(signum)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """Ends the process and its workers at once, as a crash would."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended and left no worker
        self.process.wait(10)

    def close(self) -> None:
        """Ends what still runs and forgets what was printed."""
        self.kill()
        self._output.close()

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is not None:
                print(f"--- {self} printed:\n{self.output}")
                return
            if self.process.poll() is None:
                self.stop()
            code = self.process.returncode
            assert code in self._exit_codes, f"{self} ended with {code}:\n{self.output}"
        finally:
            self.close()

    def __str__(self) -> str:
        return " ".join(self.argv)


class Server(Command):
    """`twinwire serve` with the flags given."""

    def __init__(
        self,
        *flags: str,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        exit_codes: Sequence[int] = (0,),
    ) -> None:
        port = unused_port() if port is None else port
        super().__init__(
            [TWINWIRE, "serve", "--port", str(port), *flags],
            port,
            env=env,
            cwd=cwd,
            exit_codes=exit_codes,
        )
