"""A server whose broker takes its time: it listens at once, and says that it is warming."""

import json
import signal
import socket
from collections.abc import Iterator

import pytest

from tests import ROOT
from tests.plain import Api, Socket, ask, connect, get, parse_blocks, stream
from tests.server.log_server import LogServer
from tests.servers import Server
from tests.waiting import wait_until


class Slow(Server):
    """A server with the log of a `LogServer`, which is there when it answers at all."""

    def __init__(self, log: LogServer, *flags: str, exit_codes: tuple[int, ...] = (0,)) -> None:
        super().__init__(
            "--app", "tests.server.shared:hub", *flags,
            env={"LOG_PORT": str(log.port)}, cwd=ROOT, exit_codes=exit_codes,
        )  # fmt: skip
        self._ready = "/health"


@pytest.fixture
def log() -> Iterator[LogServer]:
    with LogServer() as server:
        yield server


def test_until_the_log_is_there_everybody_is_told_to_come_back(log: LogServer) -> None:
    log.hold()
    with Slow(log) as server:
        port = server.port
        wait_until(lambda: log.waiting)
        for path, method in (("/ready", "GET"), ("/sse?channel=a", "GET"), ("/api/info", "POST")):
            response, body = ask(port, path, method=method)
            assert (response.status, response.headers["retry-after"]) == (503, "1")
            error = json.loads(body)["error"]
            assert error["code"] == 108
            assert "warming" in error["message"]
        assert ask(port, "/health")[0].status == 200
        with connect(port) as sock:
            refused = Socket(sock, "/ws").response
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        # A browser would give up for good after a status of 503.
        response, body = ask(port, "/sse?channel=a", accept="text/event-stream")
        assert response.status == 200
        (last,), _ = parse_blocks(body)
        assert (last.event, last.json()["code"]) == ("reconnect", 3011)
        assert last.retry
        log.release()
        wait_until(lambda: ask(port, "/ready")[0].status == 200)
        with stream(port, "/sse?channel=a") as listening, Api(port) as api:
            position = api.publish("a", 1)
            assert listening.event().id == position


def test_what_is_in_the_log_is_there_when_it_is_ready(log: LogServer) -> None:
    with Slow(log) as server, Api(server.port) as api:
        wait_until(lambda: ask(server.port, "/ready")[0].status == 200)
        published = [api.publish("a", number) for number in range(50)]
    with Slow(log) as server:
        wait_until(lambda: ask(server.port, "/ready")[0].status == 200)
        with stream(server.port, "/sse?channel=a&last_event_id=earliest") as reading:
            assert [block.id for block in reading.events(50)] == published


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_server_that_is_still_warming(
    log: LogServer, number: signal.Signals
) -> None:
    log.hold()
    with Slow(log) as server:
        wait_until(lambda: log.waiting)
        assert server.stop(number) == 0
        assert "Traceback" not in server.output


def test_a_broker_that_cannot_be_reached_ends_it_with_one_line(log: LogServer) -> None:
    log.shut()
    server = Slow(log, "--log-level", "warning", exit_codes=(1,))
    server.start()
    try:
        assert server.process.wait(15) == 1
        (line,) = server.output.splitlines()
        assert f"cannot start: there is no log at port {log.port}: start it" in line
    finally:
        server.close()


def test_while_it_warms_the_port_is_its_own(log: LogServer) -> None:
    log.hold()
    with Slow(log) as server, socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(get("/ready"))
        assert sock.recv(12) == b"HTTP/1.1 503"
