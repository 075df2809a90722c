"""Clients that mean harm: what they can cost, for how long, and that nobody else notices."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests import ROOT
from tests.plain import Api, Response, ask, connect, get, parse_blocks, stream, talk
from tests.servers import Server
from tests.waiting import PATIENCE, wait_until

MIB = 1 << 20
MANY = 1000


def serve(**env: str) -> Server:
    env = {"TWINWIRE_DRAIN_TIME": "0", **env}
    return Server("--app", "tests.web.streams:app", cwd=ROOT, env=env)


def inside(port: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(port, "/inside")[1])
    return found


class Crowd:
    """Many connections that one thread drives: `step` is done for each of them again and again."""

    def __init__(self, port: int, count: int, begin: bytes, receive_buffer: int = 0) -> None:
        self.socks = [connect(port, receive_buffer=receive_buffer) for _ in range(count)]
        self.cut = 0
        for sock in self.socks:
            sock.sendall(begin)
            sock.setblocking(False)

    def step(self, action: Callable[[socket.socket], object]) -> None:
        for sock in list(self.socks):
            try:
                action(sock)
            except BlockingIOError:
                continue
            except OSError:
                self._lost(sock)

    def lost(self) -> None:
        """Find out who has been cut, without reading what has come."""
        self.step(_failed)

    def _lost(self, sock: socket.socket) -> None:
        self.socks.remove(sock)
        sock.close()
        self.cut += 1

    def close(self) -> None:
        for sock in self.socks:
            sock.close()


def _failed(sock: socket.socket) -> None:
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error)


@contextmanager
def attack(crowd: Crowd, step: Callable[[Crowd], None], every: float) -> Iterator[Crowd]:
    """While the block lasts, `step` is done `every` so many seconds, in a thread."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(every):
            step(crowd)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield crowd
    finally:
        stop.set()
        thread.join()
        crowd.close()


def served(port: int, rounds: int) -> list[float]:
    """How long it takes others to publish, to be told of it on both wires, and to come anew."""
    took = []
    with (
        Api(port) as api,
        stream(port, "/sse?channel=quiet") as reader,
        talk(port) as talking,
    ):
        talking.ask(subscribe={"channel": "quiet"})
        for number in range(rounds):
            begun = time.monotonic()
            position = api.publish("quiet", number)
            assert reader.event().id == position
            assert talking.pub()["data"] == number
            assert ask(port, "/ready")[0].status == 200
            took.append(time.monotonic() - begun)
    return took


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def test_a_thousand_who_dribble_their_heads_are_cut_and_others_are_served_meanwhile() -> None:
    with serve(TWINWIRE_HEADER_TIMEOUT="3") as server:
        before = inside(server.port)["memory"]
        crowd = Crowd(server.port, MANY, b"GET /sse?channel=a HTTP/1.1\r\nX-A: ")
        with attack(crowd, lambda all: all.step(lambda sock: sock.send(b"x")), 0.2):
            took = served(server.port, 20)
            assert crowd.cut == 0
            wait_until(lambda: crowd.cut == MANY)
        assert median(took) < 0.2
        # Under 20 KB each while they lasted.
        assert inside(server.port)["memory"] - before < 20_000 * MANY


def test_a_thousand_who_read_nothing_are_cut_and_others_are_served_meanwhile() -> None:
    with serve(TWINWIRE_WRITE_TIMEOUT="3") as server, Api(server.port) as api:
        crowd = Crowd(server.port, MANY, get("/sse?channel=loud"), receive_buffer=4096)
        with attack(crowd, Crowd.lost, 0.2), stream(server.port, "/sse?channel=loud") as reader:
            wait_until(lambda: inside(server.port)["feeds"] == MANY + 1)
            # Long enough for all of them to be full, and short enough for none to be cut.
            while inside(server.port)["full"] < MANY and crowd.cut == 0:
                api.publish_all([("loud", "x" * 16_000)] * 4)
                reader.events(4)
            took = served(server.port, 20)
            position = api.publish("loud", "last")
            assert reader.event().id == position
            wait_until(lambda: crowd.cut == MANY)
        assert median(took) < 0.2
        wait_until(lambda: inside(server.port)["feeds"] == 0)


def test_a_thousand_who_read_a_byte_now_and_then_cost_a_buffer_each() -> None:
    with serve() as server, Api(server.port) as api:
        crowd = Crowd(server.port, MANY, get("/sse?channel=loud"), receive_buffer=4096)
        step = attack(crowd, lambda all: all.step(lambda sock: sock.recv(1)), 0.1)
        with step, stream(server.port, "/sse?channel=loud") as reader:
            wait_until(lambda: inside(server.port)["feeds"] == MANY + 1)
            before = inside(server.port)["memory"]
            while inside(server.port)["full"] < MANY:
                api.publish_all([("loud", "x" * 16_000)] * 4)
                reader.events(4)
            full = inside(server.port)["memory"]
            for _ in range(25):
                api.publish_all([("loud", "x" * 16_000)] * 4)
                reader.events(4)
            took = served(server.port, 10)
            assert crowd.cut == 0
            now = inside(server.port)
            assert max(now["waiting"]) < 256 * 1024
            # What was published since is in the log, once.
            assert now["memory"] - full < 8 * MIB
            assert full - before < MANY * 160 * 1024
        assert median(took) < 0.2


# One who is not done


@pytest.fixture(scope="module")
def hasty() -> Iterator[Server]:
    with serve(TWINWIRE_HEADER_TIMEOUT="0.5", TWINWIRE_BODY_TIMEOUT="0.5") as server:
        yield server


def post(length: int) -> bytes:
    return b"POST /api/publish HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length


BODY = b'{"channel":"a","data":1}'


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"GET /sse?chan",
        b"GET / HTTP/1.1\r\nA: b\r\n",
        post(100) + b"{",
        b"POST /api/publish HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{",
        post(len(BODY)) + BODY + b"GET /ready HT",
        post(len(BODY)) + BODY + post(5) + b"{",
    ],
    ids=["nothing", "line", "head", "body", "chunks", "second head", "second body"],
)
def test_a_request_that_never_ends_is_ended(hasty: Server, begin: bytes) -> None:
    with connect(hasty.port) as sock:
        sock.sendall(begin)
        if begin.startswith(post(len(BODY))):
            assert "result" in Response(sock).json()
        try:
            assert sock.recv(1) == b""
        except ConnectionResetError:
            pass


@pytest.mark.parametrize("path", ["/api/publish", "/nothing", "/sse"])
def test_a_body_that_dribbles_is_ended_whoever_would_have_read_it(hasty: Server, path: str) -> None:
    with connect(hasty.port) as sock:
        sock.sendall(b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n" % path.encode())

        def dribble() -> bool:
            try:
                sock.send(b"x")
            except OSError:
                return True
            return False

        wait_until(dribble)


def test_a_body_that_comes_steadily_has_as_long_as_it_takes(hasty: Server) -> None:
    with Server("--set", "body_timeout=0.5", "--set", "request_max_bytes=2000000") as server:
        data = b'{"channel":"a","data":["' + b'","'.join([b"x" * 1000] * 1000) + b'"]}'
        with connect(server.port) as sock:
            sock.sendall(post(len(data)))
            begun = time.monotonic()
            for place in range(0, len(data), 70_000):
                sock.sendall(data[place : place + 70_000])
                threading.Event().wait(0.1)
            assert time.monotonic() - begun > 1.2
            # It came whole: what is wrong with it is its size as an event.
            assert "event_max_bytes" in Response(sock).json()["error"]["message"]


def test_a_connection_in_use_is_not_ended_by_the_time_for_heads_and_bodies(hasty: Server) -> None:
    port = hasty.port
    with Api(port) as api, stream(port, "/sse?channel=long") as reader, talk(port) as talking:
        talking.ask(subscribe={"channel": "long"})
        begun = time.monotonic()
        number = 0
        while time.monotonic() - begun < 1.5:
            api.publish("long", number)
            assert reader.event().json() == number
            assert talking.pub()["data"] == number
            number += 1


# One who sends too much


def test_a_head_without_an_end_is_refused_with_431_before_it_takes_memory() -> None:
    with serve() as server:
        before = inside(server.port)["memory"]
        with connect(server.port) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n")
            line = b"A: " + b"x" * 65_000 + b"\r\n"

            def cut_off() -> bool:
                # One who goes on after the answer is listened to for a second, and no longer.
                try:
                    sock.sendall(line)
                except OSError:
                    return True
                return False

            wait_until(cut_off)
            assert inside(server.port)["memory"] - before < 4 * MIB
        with connect(server.port) as sock:
            sock.sendall(b"GET /" + b"x" * 300_000)
            response = Response(sock)
            assert response.status == 431
            assert b"header_max_bytes" in response.body()


def test_a_head_with_a_thousand_channels_in_it_is_taken(hasty: Server) -> None:
    query = "&".join(f"channel=a{n:050d}" for n in range(1000))
    with stream(hasty.port, f"/sse?{query}") as reader, Api(hasty.port) as api:
        position = api.publish(f"a{999:050d}", 1)
        assert reader.event().id == position


@pytest.mark.parametrize("first", [get("/sse?channel=a"), get("/ready")])
def test_a_flood_of_requests_on_one_connection_takes_no_memory_to_speak_of(first: bytes) -> None:
    with serve() as server:
        ask(server.port, "/sse?channel=a", method="HEAD")
        before = inside(server.port)["memory"]
        socks = [connect(server.port) for _ in range(20)]
        try:
            flood = first + get("/ready") * 100_000
            for sock in socks:
                sock.setblocking(False)
                try:
                    sent = sock.send(flood)
                    while sent < len(flood):
                        sent += sock.send(flood[sent:])
                except OSError:
                    continue
            assert median(served(server.port, 5)) < 0.2
            assert inside(server.port)["memory"] - before < 20 * MIB
        finally:
            for sock in socks:
                sock.close()


def test_a_few_requests_in_a_row_are_answered_in_order() -> None:
    with Server() as server, connect(server.port) as sock:
        sock.sendall(get("/health") * 60 + get("/nothing"))
        response = None
        for _ in range(60):
            response = Response(sock, after=response)
            assert (response.status, response.body()) == (200, b"{}")
        assert Response(sock, after=response).status == 404


def test_streams_survive_all_of_this_next_to_them(hasty: Server) -> None:
    port = hasty.port
    with Api(port) as api, connect(port) as sock:
        sock.sendall(get("/sse?channel=witness"))
        response = Response(sock)
        body = response.piece()
        for begin in (b"GET", b"\x16\x03\x01" + b"\0" * 100, post(10), b"G" * 400_000):
            with connect(port) as bad:
                try:
                    bad.sendall(begin)
                    bad.recv(1)
                except OSError:
                    pass
            position = api.publish("witness", 1)
            deadline = time.monotonic() + PATIENCE
            while position.encode() not in body:
                assert time.monotonic() < deadline
                body += response.piece()
        assert len([b for b in parse_blocks(body)[0] if b.data]) == 4
