"""The end of a server: everybody is told to come back, not all at once, and nobody holds it up."""

import json
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests import ROOT
from tests.plain import CLOSE, Api, Socket, Stream, Talk, ask, connect, get, stream, talk
from tests.servers import Command, Server, unused_port
from tests.waiting import wait_until

STREAMS = TALKS = 10


def serve(seconds: float) -> Server:
    return Server("--set", f"drain_time={seconds}", cwd=ROOT)


@contextmanager
def clients(port: int) -> Iterator[tuple[list[Stream], list[Talk]]]:
    """Clients on both wires, all of them subscribed."""
    with ExitStack() as stack:
        streams = [stack.enter_context(stream(port, "/sse?channel=a")) for _ in range(STREAMS)]
        talks = [stack.enter_context(talk(port)) for _ in range(TALKS)]
        for talking in talks:
            assert "subscribe" in talking.ask(subscribe={"channel": "a"})
        yield streams, talks


def told(socks: list[socket.socket]) -> list[float]:
    """When each of these first has something to read, in seconds from the first one's."""
    times = []
    with selectors.DefaultSelector() as waiting:
        for sock in socks:
            waiting.register(sock, selectors.EVENT_READ)
        while waiting.get_map():
            ready = waiting.select(15)
            assert ready, "not everybody was told"
            for key, _ in ready:
                waiting.unregister(key.fileobj)
                times.append(time.monotonic())
    return [at - times[0] for at in times]


def sockets(streams: list[Stream], talks: list[Talk]) -> list[socket.socket]:
    return [s.sock for s in streams] + [t.socket.sock for t in talks]


def test_clients_on_both_wires_are_told_spread_evenly_over_the_time_in_no_order() -> None:
    with serve(2) as server, clients(server.port) as (streams, talks):
        server.process.send_signal(signal.SIGTERM)
        by_stream = told([each.sock for each in streams])
        times = told(sockets(streams, talks))
        assert len(times) == STREAMS + TALKS
        for each in streams:
            last = each.rest()[-1]
            assert last.event == "reconnect"
            assert last.json()["code"] == 3001
        for talking in talks:
            assert talking.socket.closed().code == 3001
        # Ten of twenty, taken at random: nearly never all in one half.
        assert by_stream[-1] > 0.8
        assert server.process.wait(10) == 0


@pytest.mark.parametrize("wire", ["sse", "ws"])
def test_the_clients_of_each_wire_are_told_at_even_distances(wire: str) -> None:
    with serve(1) as server, ExitStack() as stack:
        if wire == "sse":
            opened = [stack.enter_context(stream(server.port, "/sse?channel=a")) for _ in range(10)]
            socks = [each.sock for each in opened]
        else:
            talks = [stack.enter_context(talk(server.port)) for _ in range(10)]
            socks = [talking.socket.sock for talking in talks]
        server.process.send_signal(signal.SIGTERM)
        times = told(socks)
        assert 0.7 < times[-1] < 1.5
        # No more than a few at the same moment.
        assert max(sum(at <= other < at + 0.1 for other in times) for at in times) <= 4
        stack.close()
        assert server.process.wait(10) == 0


def test_while_it_drains_nobody_is_let_in_and_who_is_in_loses_nothing() -> None:
    with (
        serve(3) as server,
        clients(server.port) as (streams, talks),
        Api(server.port) as api,
    ):
        port = server.port
        first = api.publish("a", 0)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: ask(port, "/ready")[0].status == 503)
        response, body = ask(port, "/sse?channel=a")
        assert response.status == 503
        assert response.headers["retry-after"] == "1"
        assert json.loads(body)["error"]["code"] == 108
        with connect(port) as sock:
            refused = Socket(sock, "/ws").response
            assert refused.status == 503
            assert refused.headers["retry-after"] == "1"
        assert ask(port, "/health")[0].status == 200
        published = [first]
        published += [api.publish("a", number) for number in range(1, 200)]
        offsets = [int(position.partition("-")[2]) for position in published]
        counts = []
        for each in streams:
            ids = [block.id for block in each.rest() if block.id and block.data]
            assert ids == published[: len(ids)]
            counts.append(len(ids))
        for talking in talks:
            got = read_to_the_end(talking)
            assert got == offsets[: len(got)]
            counts.append(len(got))
        # Those who were told late had all of it.
        assert max(counts) == 200
        assert min(counts) >= 1
        assert server.process.wait(10) == 0


def read_to_the_end(talking: Talk) -> list[int]:
    """The offsets of what is published, up to the close."""
    offsets = []
    while (frame := talking.socket.read()).opcode != CLOSE:
        for line in frame.payload.split(b"\n"):
            if line != b"{}":
                offsets.append(json.loads(line)["push"]["pub"]["offset"])
    assert frame.code == 3001
    return offsets


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_tells_everybody_at_once(second: signal.Signals) -> None:
    with serve(60) as server, clients(server.port) as (streams, talks):
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: ask(server.port, "/ready")[0].status == 503)
        server.process.send_signal(second)
        assert told(sockets(streams, talks))[-1] < 2
        assert {each.rest()[-1].event for each in streams} == {"reconnect"}
        assert {talking.socket.closed().code for talking in talks} == {3001}
        assert server.process.wait(10) == 0


def test_ctrl_c_tells_everybody_at_once_and_takes_no_time() -> None:
    with serve(60) as server, clients(server.port) as (streams, talks):
        begun = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        assert {each.rest()[-1].event for each in streams} == {"reconnect"}
        assert {talking.socket.closed().code for talking in talks} == {3001}
        assert server.process.wait(10) == 0
        assert time.monotonic() - begun < 3


def test_who_reads_nothing_does_not_hold_up_the_end() -> None:
    with serve(0.2) as server, Api(server.port) as api, ExitStack() as stack:
        for path in ("/sse?channel=a", "/sse?channel=a&mode=latest"):
            sock = stack.enter_context(connect(server.port, receive_buffer=4096))
            sock.sendall(get(path))
        slow = stack.enter_context(talk(server.port, receive_buffer=4096))
        slow.ask(subscribe={"channel": "a"})
        wait_until(
            lambda: api.result("channels")["channels"].get("a", {"num_clients": 0}) is not None
        )
        for _ in range(40):
            api.publish_all([("a", "x" * 10_000)] * 5)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 0


# Inside another application, under servers that know nothing of us


def embedded(kind: str, seconds: float) -> Command:
    port = unused_port()
    where = {
        "uvicorn": ["uvicorn", "--port", str(port), "--log-level", "warning"],
        "hypercorn": ["hypercorn", "--bind", f"127.0.0.1:{port}", "--graceful-timeout", "3"],
    }[kind]
    if kind == "hypercorn":
        # Its workers would hear of no signal, and so nor would we.
        where += ["--workers", "0"]
    return Command(
        [sys.executable, "-m", *where, "tests.server.embedded:app"],
        port,
        env={"TWINWIRE_DRAIN_TIME": str(seconds)},
        cwd=ROOT,
        # uvicorn ends by the signal that ended it.
        exit_codes=(0, -signal.SIGTERM, -signal.SIGINT),
    )


@pytest.mark.parametrize("kind", ["uvicorn", "hypercorn"])
def test_under_another_server_streams_are_told_over_the_time_and_the_server_ends(kind: str) -> None:
    with embedded(kind, 1) as server, clients(server.port) as (streams, talks):
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        times = told([each.sock for each in streams])
        for each in streams:
            last = each.rest()[-1]
            assert (last.event, last.json()["code"]) == ("reconnect", 3001)
        for talking in talks:
            # uvicorn closes WebSockets itself, all at once, before anybody is asked.
            assert talking.socket.closed().code in (3001, 1012)
        server.process.wait(10)
        assert time.monotonic() - begun < 6
        assert times[-1] > 0.3
        assert "Traceback" not in server.output


@pytest.mark.parametrize("kind", ["uvicorn", "hypercorn"])
def test_under_another_server_ctrl_c_ends_at_once(kind: str) -> None:
    with embedded(kind, 60) as server, clients(server.port) as (streams, _):
        begun = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        assert {each.rest()[-1].event for each in streams} == {"reconnect"}
        server.process.wait(10)
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize("wire", ["sse", "ws"])
@pytest.mark.parametrize("kind", ["uvicorn", "hypercorn"])
def test_under_another_server_who_reads_nothing_takes_the_farewell_from_nobody(
    kind: str, wire: str
) -> None:
    with embedded(kind, 0) as server, Api(server.port) as api, ExitStack() as stack:
        port = server.port
        if wire == "sse":
            slow = stack.enter_context(connect(port, receive_buffer=4096))
            slow.sendall(get("/sse?channel=a"))
        else:
            talking = stack.enter_context(talk(port, receive_buffer=4096))
            talking.ask(subscribe={"channel": "a"})
        reader = stack.enter_context(stream(port, "/sse?channel=a"))
        wait_until(lambda: json.loads(ask(port, "/inside")[1])["feeds"] == 2)
        while json.loads(ask(port, "/inside")[1])["full"] == 0:
            api.publish_all([("a", "x" * 10_000)] * 20)
            reader.events(20)
        server.process.send_signal(signal.SIGTERM)
        assert reader.rest()[-1].event == "reconnect"
        # The rest is the server's own: what it makes of a connection that nobody reads.
        stack.close()
        server.process.wait(10)
