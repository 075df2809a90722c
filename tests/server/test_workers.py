"""Several workers behind one port: they share it evenly, and who dies, leaves or ends is replaced,
or gone, without harm to the others.

`Workers` says what they share. Here that is the tests' own log server; with a real broker it would
be `--broker URL` in place of `--app`.
"""

import os
import pty
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests import ROOT
from tests.plain import Api, Response, Stream, Talk, ask, connect, get, stream, talk
from tests.server.log_server import LogServer
from tests.server.processes import alive, children, owner, serving
from tests.server.test_drain import told
from tests.server.test_tls import CERT, KEY, TlsApi, secure
from tests.servers import TWINWIRE, Server, plain_environment
from tests.waiting import wait_until


class Workers(Server):
    """`twinwire serve` with several workers, all of which serve when the block begins."""

    def __init__(self, log: LogServer, count: int, *flags: str) -> None:
        self.count = count
        super().__init__(
            "--app", "tests.server.shared:hub", "--workers", str(count), *flags,
            env={"LOG_PORT": str(log.port), "TWINWIRE_DRAIN_TIME": "0.5"}, cwd=ROOT,
        )  # fmt: skip

    def wait_ready(self) -> None:
        wait_until(lambda: self.process.poll() is not None or len(serving(self)) == self.count)
        assert self.process.poll() is None, self.output

    @property
    def workers(self) -> set[int]:
        """The processes that serve now."""
        return children(self.pid)


@pytest.fixture
def log() -> Iterator[LogServer]:
    with LogServer() as server:
        yield server


@contextmanager
def streams(port: int, count: int, path: str = "/sse?channel=a") -> Iterator[list[Stream]]:
    with ExitStack() as stack:
        yield [stack.enter_context(stream(port, path)) for _ in range(count)]


def by_owner(opened: list[Stream], pids: set[int]) -> dict[int | None, list[Stream]]:
    found: dict[int | None, list[Stream]] = {}
    for each in opened:
        found.setdefault(owner(each.sock, pids), []).append(each)
    return found


def until_serving(server: Server, count: int) -> None:
    """Wait until so many workers have come to serve, in all."""
    wait_until(lambda: len(serving(server)) == count)


# Serving


def test_all_workers_serve_one_port_and_what_comes_to_one_is_at_all(log: LogServer) -> None:
    with Workers(log, 3) as server, streams(server.port, 60) as opened, Api(server.port) as api:
        shares = {pid: len(theirs) for pid, theirs in by_owner(opened, server.workers).items()}
        assert shares.keys() == set(serving(server))
        # Nobody has many more than another: they stand back for each other.
        assert min(shares.values()) >= 10, shares
        published = [api.publish("a", number) for number in range(20)]
        for each in opened:
            assert [block.id for block in each.events(20)] == published


def test_a_position_from_one_worker_is_good_on_another(log: LogServer) -> None:
    with Workers(log, 2) as server, streams(server.port, 24) as opened, Api(server.port) as api:
        first, *later = [api.publish("a", number) for number in range(5)]
        assert {each.event().id for each in opened} == {first}
        owners = set(by_owner(opened, server.workers))
        path = f"/sse?channel=a&last_event_id={first}"
        with streams(server.port, 24, path) as resumed:
            assert set(by_owner(resumed, server.workers)) == owners == server.workers
            for each in resumed:
                assert [block.id for block in each.events(4)] == later


def test_each_worker_is_a_node_and_knows_the_others(log: LogServer) -> None:
    with Workers(log, 3) as server, Api(server.port) as api:
        wait_until(lambda: len(api.result("info")["nodes"]) == 3)


def test_a_free_port_is_one_port_for_all(log: LogServer) -> None:
    server = Workers(log, 2)
    server.argv[server.argv.index("--port") + 1] = "0"
    with server:
        (port,) = re.findall(r"listens on http://127\.0\.0\.1:(\d+)", server.output)
        with streams(int(port), 24) as opened:
            assert len(by_owner(opened, server.workers)) == 2


def test_tls_and_a_settings_file_are_for_all_workers(log: LogServer, tmp_path: Path) -> None:
    file = tmp_path / "twinwire.toml"
    file.write_text("workers = 2\naccess_log = true\n")
    server = Workers(log, 2, "--config", str(file))
    server.argv[(at := server.argv.index("--workers")) : at + 2] = []
    server._env.update(TLS_CERT=str(CERT), TLS_KEY=str(KEY))
    with server, ExitStack() as stack:
        for _ in range(24):
            sock = stack.enter_context(secure(server.port))
            TlsApi(sock).publish("a", 1)
        found = re.findall(r"uvicorn.access\[(\d+)\]", server.output)
        assert {int(pid) for pid in found} == server.workers


def test_one_worker_needs_no_supervisor() -> None:
    with Server("--workers", "1") as server:
        assert children(server.pid) == set()
        assert "workers" not in server.output


# What cannot be


@pytest.mark.parametrize("app", ["", "tests.server.app:hub", "tests.server.app:plain"])
def test_a_log_of_one_process_is_refused_before_anything_starts(app: str) -> None:
    flags = ("--app", app) if app else ()
    ended = subprocess.run(
        [TWINWIRE, "serve", "--port", "0", "--workers", "2", *flags],
        capture_output=True,
        text=True,
        env=plain_environment(),
        cwd=ROOT,
        timeout=20,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert "--broker" in line
    assert "redis://" in line
    assert "nats://" in line


def test_what_keeps_the_first_worker_from_serving_is_said_once_and_ends_all(
    log: LogServer,
) -> None:
    log.shut()
    server = Workers(log, 3)
    server.start()
    try:
        assert server.process.wait(15) == 1
        assert server.output.count("cannot start: there is no log at port") == 1
        assert server.output.count("\n") == 2  # and where it listens
        assert "Traceback" not in server.output
    finally:
        server.close()


# A worker's death


def test_a_worker_that_dies_is_replaced_and_the_others_clients_do_not_notice(
    log: LogServer,
) -> None:
    with Workers(log, 2) as server, streams(server.port, 24) as opened, Api(server.port) as api:
        before = api.publish("a", "before")
        assert {each.event().id for each in opened} == {before}
        owners = by_owner(opened, server.workers)
        keeps = owner(api._http.sock, server.workers)
        dies = next(pid for pid in server.workers if pid != keeps)
        os.kill(dies, signal.SIGKILL)
        after = api.publish("a", "after")
        for each in owners[keeps]:
            assert each.event().id == after
        for each in owners[dies]:
            assert each.sock.recv(100) == b""
        until_serving(server, 3)
        new = serving(server)[-1]
        assert server.workers == {keeps, new}
        assert f"worker {dies} was ended by signal 9: another is started now" in server.output
        # They come back, most of them to the one that has room.
        path = f"/sse?channel=a&last_event_id={before}"
        with streams(server.port, len(owners[dies]), path) as resumed:
            assert {each.event().id for each in resumed} == {after}
            assert len(by_owner(resumed, server.workers)[new]) > len(resumed) / 2


def test_who_waits_at_the_port_when_a_worker_dies_is_served_by_another(log: LogServer) -> None:
    with Workers(log, 2) as server, ExitStack() as stack:
        one, other = server.workers
        for pid in (one, other):
            os.kill(pid, signal.SIGSTOP)
        waiting = [stack.enter_context(connect(server.port)) for _ in range(50)]
        for sock in waiting:
            sock.sendall(get("/health", connection="close"))
        os.kill(one, signal.SIGKILL)
        os.kill(other, signal.SIGCONT)
        assert {Response(sock).status for sock in waiting} == {200}


def test_a_worker_that_is_not_warm_yet_leaves_clients_to_the_others(log: LogServer) -> None:
    with Workers(log, 2) as server:
        (keeps, dies) = serving(server)
        log.hold()
        os.kill(dies, signal.SIGKILL)
        wait_until(lambda: log.waiting)
        with streams(server.port, 40) as opened:
            assert set(by_owner(opened, server.workers)) == {keeps}
        log.release()
        until_serving(server, 3)


def test_workers_that_keep_dying_are_started_ever_more_slowly(log: LogServer) -> None:
    with Workers(log, 2) as server:
        for number in range(3, 7):
            os.kill(serving(server)[-1], signal.SIGKILL)
            until_serving(server, number)
        assert re.findall(r"another is started (.*)", server.output) == [
            "now", "in 0.5 s", "in 1 s", "in 2 s",
        ]  # fmt: skip


def test_a_worker_that_cannot_be_started_again_is_tried_again_and_the_others_go_on(
    log: LogServer,
) -> None:
    with Workers(log, 2) as server, stream(server.port, "/sse?channel=a") as reading:
        keeps = owner(reading.sock, server.workers)
        (dies,) = server.workers - {keeps}
        log.shut()
        os.kill(dies, signal.SIGKILL)
        wait_until(lambda: "has ended with exit code 1: another is started" in server.output)
        assert ask(server.port, "/ready")[0].status == 200
        log.listen()
        until_serving(server, 3)
        with Api(server.port) as api:
            position = api.publish("a", 1)
            assert reading.event().id == position


# The end


@contextmanager
def clients(port: int) -> Iterator[tuple[list[Stream], list[Talk]]]:
    """Clients on both wires at two workers."""
    with ExitStack() as stack:
        opened = [stack.enter_context(stream(port, "/sse?channel=a")) for _ in range(12)]
        talks = [stack.enter_context(talk(port)) for _ in range(12)]
        for talking in talks:
            talking.ask(subscribe={"channel": "a"})
        yield opened, talks


def check_told(opened: list[Stream], talks: list[Talk]) -> None:
    for each in opened:
        last = each.rest()[-1]
        assert (last.event, last.json()["code"]) == ("reconnect", 3001)
    for talking in talks:
        assert talking.socket.closed().code == 3001


@pytest.mark.parametrize("whom", ["the supervisor", "all processes"])
def test_sigterm_lets_all_workers_tell_their_clients_over_the_time(
    log: LogServer, whom: str
) -> None:
    with Workers(log, 2) as server, clients(server.port) as (opened, talks):
        workers = server.workers
        assert len(by_owner(opened, workers)) == 2
        begun = time.monotonic()
        # A service manager's comes to each process of the group.
        if whom == "all processes":
            os.killpg(server.pid, signal.SIGTERM)
        else:
            server.process.send_signal(signal.SIGTERM)
        times = told([*(s.sock for s in opened), *(t.socket.sock for t in talks)])
        assert times[-1] > 0.2
        check_told(opened, talks)
        assert server.process.wait(10) == 0
        assert time.monotonic() - begun < 5
        assert not alive(workers)
        assert "ERROR" not in server.output
        assert "Traceback" not in server.output


def test_a_second_signal_ends_at_once_what_the_first_one_ends_slowly(log: LogServer) -> None:
    server = Workers(log, 2)
    server._env["TWINWIRE_DRAIN_TIME"] = "60"
    with server, clients(server.port) as (opened, talks):
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: all(ask(server.port, "/ready")[0].status == 503 for _ in range(5)))
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        check_told(opened, talks)
        assert server.process.wait(10) == 0
        assert time.monotonic() - begun < 5


def test_ctrl_c_in_a_terminal_ends_all_at_once(log: LogServer) -> None:
    server = Workers(log, 2)
    server._env["TWINWIRE_DRAIN_TIME"] = "60"
    with server, clients(server.port) as (opened, talks):
        workers = server.workers
        begun = time.monotonic()
        os.killpg(server.pid, signal.SIGINT)
        check_told(opened, talks)
        assert server.process.wait(10) == 0
        assert time.monotonic() - begun < 5
        assert not alive(workers)
        assert "Traceback" not in server.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_workers_that_are_still_warming(
    log: LogServer, number: signal.Signals
) -> None:
    log.hold()
    server = Workers(log, 2)
    server.start()
    try:
        wait_until(lambda: log.waiting)
        # The first worker says so; others wait for it.
        assert ask(server.port, "/ready")[0].status == 503
        assert len(server.workers) == 1
        assert server.stop(number) == 0
        assert "Traceback" not in server.output
    finally:
        server.close()


def test_no_worker_outlives_its_supervisor_and_clients_are_told(log: LogServer) -> None:
    with Workers(log, 3) as server, clients(server.port) as (opened, talks):
        workers = server.workers
        server.process.kill()
        check_told(opened, talks)
        wait_until(lambda: not alive(workers))
        with socket.create_server(("127.0.0.1", server.port)):
            pass
        server._exit_codes = (-signal.SIGKILL,)


def test_a_worker_that_hangs_is_ended_by_force_whether_its_supervisor_ends_or_dies(
    log: LogServer,
) -> None:
    with Workers(log, 2) as ends, Workers(log, 2) as dies, ExitStack() as stack:
        workers = ends.workers | dies.workers
        for server in (ends, dies):
            talking = stack.enter_context(talk(server.port))
            talking.say({"id": 2, "rpc": {"method": "hang"}})
        ends.process.send_signal(signal.SIGINT)
        dies.process.kill()
        assert ends.process.wait(30) == 0
        assert "does not end and is killed" in ends.output
        wait_until(lambda: not alive(workers))
        dies._exit_codes = (-signal.SIGKILL,)


def test_a_terminal_that_goes_takes_all_with_it(log: LogServer) -> None:
    pid, terminal = pty.fork()
    if not pid:
        env = {**plain_environment(), "LOG_PORT": str(log.port)}
        serve = [TWINWIRE, "serve", "--port", "0", "--workers", "2"]
        os.chdir(ROOT)
        os.execve(TWINWIRE, [*serve, "--app", "tests.server.shared:hub"], env)
    said = b""
    while said.count(b"serves") < 2:
        said += os.read(terminal, 4096)
    workers = children(pid)
    assert len(workers) == 2
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    wait_until(lambda: not alive(workers))


# Restarting


def test_sighup_replaces_the_workers_and_nobody_is_turned_away(log: LogServer) -> None:
    with Workers(log, 2) as server, clients(server.port) as (opened, talks):
        before = server.workers
        server.process.send_signal(signal.SIGHUP)
        published: list[str] = []
        with ThreadPoolExecutor() as threads:
            asked = []
            while alive(before) or len(serving(server)) < 4:
                with Api(server.port) as api:
                    published.append(api.publish("b", len(published)))
                asked.append(threads.submit(ask, server.port, "/ready"))
            assert {answer.result()[0].status for answer in asked} == {200}
        check_told(opened, talks)
        assert not server.workers & before
        assert server.workers == set(serving(server)[2:])
        path = "/sse?channel=b&last_event_id=earliest"
        with stream(server.port, path) as reading:
            assert [block.id for block in reading.events(len(published))] == published


def test_a_restart_that_cannot_be_is_given_up_and_the_old_workers_go_on(log: LogServer) -> None:
    with Workers(log, 2) as server, stream(server.port, "/sse?channel=a") as reading:
        before = server.workers
        log.shut()
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the old ones go on" in server.output)
        assert server.workers == before
        with Api(server.port) as api:
            position = api.publish("a", 1)
            assert reading.event().id == position
        log.listen()
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not alive(before) and len(serving(server)) == 4)


@pytest.mark.parametrize("index", [0, 1])
def test_a_worker_that_dies_in_a_restart_is_replaced_all_the_same(
    log: LogServer, index: int
) -> None:
    with Workers(log, 2) as server:
        before = serving(server)
        log.hold()
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: log.waiting == 1)
        os.kill(before[index], signal.SIGKILL)
        wait_until(lambda: log.waiting == 2)
        log.release()
        wait_until(lambda: not alive({*before}) and server.workers == {*serving(server)[-2:]})
