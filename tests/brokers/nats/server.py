"""A NATS server with JetStream in a process of its own, on loopback.

with NatsServer(tmp_path) as server:
    connect(server.url)
    server.kill()                # as kill -9 and power cuts do
    server.start()               # again, with the same port and the same files
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.servers import unused_port

NATS_SERVER = Path(sys.executable).with_name("nats-server")


class NatsServer:
    """One server; `settings` is more of its configuration file."""

    def __init__(self, place: Path, settings: str = "", port: int = 0, jetstream: str = "") -> None:
        self.place = place
        self.port = port or unused_port()
        self.store = place / "store"
        self.log = place / "log"
        self._settings = settings
        self._jetstream = jetstream
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it has said that it is ready."""
        self.place.mkdir(parents=True, exist_ok=True)
        config = self.place / "server.conf"
        config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{self.store}"\n{self._jetstream} }}\n{self._settings}\n'
        )
        self.begin(["-c", str(config)])
        self.wait_ready()

    def begin(self, flags: Sequence[str]) -> None:
        """Start it with these flags; does not wait."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [NATS_SERVER, *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Wait until it says that it is ready."""
        assert self.process is not None
        deadline = time.monotonic() + 20
        while "Server is ready" not in self.log.read_text(errors="replace"):
            assert self.process.poll() is None, self.log.read_text(errors="replace")
            assert time.monotonic() < deadline, self.log.read_text(errors="replace")
            time.sleep(0.01)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def freeze(self) -> None:
        """Let it do nothing, with its connections open, until it is thawed."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def copy(self, to: Path) -> None:
        """Copy what it has on disk; it must not run."""
        assert self.process is None
        shutil.copytree(self.store, to)

    def go_back(self, to: Path) -> None:
        """Let it have on disk what it had when that was copied; it must not run."""
        assert self.process is None
        shutil.rmtree(self.store)
        shutil.copytree(to, self.store)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self.kill)
            self.start()
            stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
