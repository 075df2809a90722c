"""Running `twinwire`, in this process or in one of its own."""

import io
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import IO, NamedTuple

from tests.servers import TWINWIRE
from twinwire.cli import main

PATIENCE = 20


def environment(**more: str) -> dict[str, str]:
    """The environment, without what is set for the tests themselves."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TWINWIRE_")}
    return {**ours, **more}


class Done(NamedTuple):
    """A command that has ended: its exit code, and what it printed."""

    code: int
    out: str
    err: str


def run(*arguments: str) -> Done:
    """`twinwire` with these arguments, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(arguments)
    return Done(code, out.getvalue(), err.getvalue())


def spawn(*arguments: str, stdin: bytes = b"", **env: str) -> Done:
    """`twinwire` with these arguments, in a process of its own, to its end."""
    done = subprocess.run(
        [TWINWIRE, *arguments],
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        env=environment(**env),
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


@contextmanager
def running(
    *arguments: str, stdin: int | IO[bytes] | None = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    """`twinwire` with these arguments, ended with the block at the latest."""
    process = subprocess.Popen(
        [TWINWIRE, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ended(process: subprocess.Popen[bytes], signum: int | None = None) -> Done:
    """The rest of a process, which is sent a signal, if one is given."""
    if signum is not None:
        process.send_signal(signum)
    out, err = process.communicate(timeout=PATIENCE)
    return Done(process.returncode, out.decode(), err.decode())
