"""The server's beginning and end: where it listens, and how a signal ends it."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from tests import ROOT
from tests.plain import Api, Block, Stream, Talk, ask, connect, get, stream, talk
from tests.servers import TWINWIRE, Server, plain_environment
from tests.waiting import wait_until
from twinwire.errors import BadSettings
from twinwire.server import run
from twinwire.server.run import listen
from twinwire.settings import Settings

# The module, whose name in its package is that of the function.
RUN = sys.modules["twinwire.server.run"]


def settings(**given: object) -> Settings:
    return Settings.load(given=given)


# Where it listens


def test_an_address_that_others_can_reach_is_refused_without_a_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no(*args: object) -> socket.socket:
        raise AssertionError("it listens")

    monkeypatch.setattr(RUN, "listen", no)
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(BadSettings, match="api_key") as caught:
            run(settings(host=host))
        assert "--insecure" in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"host": "127.0.0.1"},
        {"host": "127.3.2.1"},
        {"host": "::1"},
        {"host": "localhost"},
        {"host": "0.0.0.0", "insecure": True},
        {"host": "0.0.0.0", "api_key": "secret"},
    ],
)
def test_an_address_of_this_machine_alone_or_a_key_or_insecure_is_served(
    given: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Listens(Exception):
        pass

    def yes(*args: object) -> socket.socket:
        raise Listens

    monkeypatch.setattr(RUN, "listen", yes)
    with pytest.raises(Listens):
        run(settings(**given))


def test_a_port_in_use_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadSettings, match=f"port {port} on 127.0.0.1 is in use.*--port"):
            listen("127.0.0.1", port)


def test_a_host_that_is_none_is_said_so() -> None:
    with pytest.raises(BadSettings, match="not an address of this machine"):
        listen("no such host", 0)
    with pytest.raises(BadSettings, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 0)


def test_ipv6_is_served_too() -> None:
    try:
        listen("::1", 0).close()
    except BadSettings:
        pytest.skip("this machine has no IPv6")
    with started("--host", "::1") as line:
        port = int(line.rpartition("http://[::1]:")[2])
        with socket.create_connection(("::1", port), timeout=10) as sock:
            sock.sendall(get("/health"))
            assert sock.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--host", "0.0.0.0"), "--insecure"),
        (("--host", "192.0.2.1", "--insecure"), "cannot listen"),
        (("--port", "{taken}"), "is in use"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(
    flags: tuple[str, ...], says: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [TWINWIRE, "serve", *(flag.format(taken=port) for flag in flags)],
            capture_output=True,
            text=True,
            env=plain_environment(),
            timeout=20,
        )
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.strip().splitlines()
    assert says in line


def test_a_free_port_can_be_had_and_is_told() -> None:
    with started() as line:
        port = int(line.rpartition("listens on http://127.0.0.1:")[2])
        assert ask(port, "/health")[0].status == 200


@contextmanager
def started(*flags: str) -> Iterator[str]:
    """A server on a free port, and the line that it prints when it listens."""
    with subprocess.Popen(
        [TWINWIRE, "serve", "--port", "0", *flags],
        stderr=subprocess.PIPE,
        text=True,
        env=plain_environment(),
    ) as process:
        try:
            assert process.stderr is not None
            yield process.stderr.readline()
        finally:
            process.terminate()
        assert process.wait(10) == 0


def test_requests_are_logged_if_that_is_wanted() -> None:
    with Server("--access-log") as server:
        assert '"GET /ready HTTP/1.1" 200' in server.output
    with Server() as server:
        assert "GET" not in server.output


# Its end


@contextmanager
def crowd(port: int) -> Iterator[tuple[list[Stream], list[Talk]]]:
    """Open streams, live and idle, and two clients that read nothing and are full."""
    with ExitStack() as stack, Api(port) as api:
        streams = [stack.enter_context(stream(port, "/sse?channel=open.a")) for _ in range(3)]
        talks = [stack.enter_context(talk(port)) for _ in range(3)]
        for each in talks[:2]:
            each.ask(subscribe={"channel": "open.b"})
        stalled = stack.enter_context(connect(port, receive_buffer=4096))
        stalled.sendall(get("/sse?channel=open.stalled"))
        also = stack.enter_context(talk(port, receive_buffer=4096))
        also.ask(subscribe={"channel": "open.stalled"})
        wait_until(lambda: len(json.loads(ask(port, "/inside")[1])["waiting"]) == 8)
        while json.loads(ask(port, "/inside")[1])["full"] < 2:
            api.publish_all([("open.stalled", "x" * 10_000)] * 5)
        idle = stack.enter_context(connect(port))
        idle.sendall(get("/health"))
        half = stack.enter_context(connect(port))
        half.sendall(b"GET /hea")
        yield streams, talks


def check_told(streams: list[Stream], talks: list[Talk]) -> None:
    for each in streams:
        *_, last = each.rest()
        assert last == Block(event="reconnect", data=last.data, retry=last.retry)
        assert last.json() == {"code": 3001, "reason": "shutdown", "retry": last.retry}
        assert last.retry is not None
        assert 1000 <= last.retry <= 3000
        assert each.response.ended
    for talking in talks:
        closed = talking.socket.closed()
        assert (closed.code, closed.reason) == (3001, "shutdown")


def test_ctrl_c_ends_the_server_within_two_seconds_and_tells_everybody() -> None:
    with Server("--app", "tests.web.app:app", cwd=ROOT) as server, crowd(server.port) as (s, t):
        begun = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        check_told(s, t)
        assert server.process.wait(10) == 0
        assert time.monotonic() - begun < 2
        assert "Traceback" not in server.output
        assert "ERROR" not in server.output


def test_sigterm_ends_the_server_and_tells_everybody_over_the_time_it_is_given() -> None:
    flags = ("--app", "tests.web.app:app", "--log-level", "warning")
    env = {"TWINWIRE_DRAIN_TIME": "0.4"}
    with Server(*flags, cwd=ROOT, env=env) as server, crowd(server.port) as (s, t):
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        check_told(s, t)
        assert server.process.wait(10) == 0
        assert 0.25 < time.monotonic() - begun < 2.5
        assert server.output == ""


@pytest.mark.parametrize("app", ["", "tests.server.app:plain", "tests.server.app:hub"])
def test_sigterm_spreads_the_return_of_the_clients_over_its_time(app: str) -> None:
    flags = ("--app", app) if app else ()
    prefix = "/live" if app.endswith("plain") else ""
    with (
        Server(*flags, cwd=ROOT, env={"TWINWIRE_DRAIN_TIME": "1.2"}) as server,
        ExitStack() as stack,
    ):
        path = f"{prefix}/sse?channel=a"
        streams = [stack.enter_context(stream(server.port, path)) for _ in range(6)]
        server.process.send_signal(signal.SIGTERM)
        ends = []
        with ThreadPoolExecutor(6) as threads:
            for blocks in threads.map(lambda each: (each.rest(), time.monotonic()), streams):
                assert blocks[0][-1].event == "reconnect"
                ends.append(blocks[1])
        assert max(ends) - min(ends) > 0.5
        assert server.process.wait(10) == 0
        assert "Traceback" not in server.output


def test_a_second_signal_ends_at_once_what_the_first_one_ends_slowly() -> None:
    with Server("--app", "tests.web.app:app", cwd=ROOT) as server, crowd(server.port) as (s, t):
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: ask(server.port, "/ready")[0].status == 503)
        server.process.send_signal(signal.SIGTERM)
        check_told(s, t)
        assert server.process.wait(10) == 0
        assert time.monotonic() - begun < 3
        assert "Traceback" not in server.output


def test_a_server_without_streams_ends_at_once() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with Server() as server:
            begun = time.monotonic()
            assert server.stop(number) == 0
            assert time.monotonic() - begun < 2


def test_a_running_command_does_not_hold_up_the_end() -> None:
    with (
        Server("--app", "tests.web.app:app", cwd=ROOT) as server,
        stream(server.port, "/sse?channel=open.a") as watching,
        talk(server.port) as talking,
    ):
        talking.say({"id": 9, "rpc": {"method": "hang", "data": "open.a"}})
        assert watching.event().data == "begun"
        begun = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        assert talking.socket.closed().code == 3001
        assert server.process.wait(10) == 0
        assert time.monotonic() - begun < 2


def test_a_hub_that_cannot_start_is_said_without_a_traceback() -> None:
    ended = subprocess.run(
        [TWINWIRE, "serve", "--port", "0", "--app", "tests.server.app:unstartable"],
        capture_output=True,
        text=True,
        env=plain_environment(),
        cwd=ROOT,
        timeout=20,
    )
    assert ended.returncode != 0
    assert "cannot start: no broker far and wide" in ended.stderr
    assert "Traceback" not in ended.stderr
