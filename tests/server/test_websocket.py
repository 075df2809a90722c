"""WebSockets of any ASGI application under our own server, and who is let in there."""

import json
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests import ROOT
from tests.plain import (
    BINARY,
    CLOSE,
    TEXT,
    Response,
    Socket,
    ask,
    connect,
    get,
    socket_to,
    stream,
    talk,
)
from tests.servers import Server
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("--app", "tests.server.sockets:app", cwd=ROOT) as running:
        yield running


@pytest.fixture
def port(server: Server) -> int:
    return server.port


def inside(port: int) -> Any:
    return json.loads(ask(port, "/inside")[1])


def refused(port: int, path: str) -> tuple[int, bytes, dict[str, str]]:
    with connect(port) as sock:
        response = Socket(sock, path).response
        return response.status, response.body(), dict(response.headers)


def test_an_application_chooses_the_subprotocol_and_adds_headers(port: int) -> None:
    with socket_to(port, "/polite", sec_websocket_protocol="one, two") as socket:
        assert socket.response.headers["sec-websocket-protocol"] == "two"
        assert socket.response.headers["x-mood"] == "good"
        socket.send(TEXT, "héllo")
        assert socket.read().payload == "héllo".encode()


def test_an_application_is_told_with_which_code_its_client_has_left(port: int) -> None:
    with socket_to(port, "/polite") as socket:
        socket.send(CLOSE, (4321).to_bytes(2) + b"enough")
        closed = socket.read()
        assert (closed.opcode, closed.code) == (CLOSE, 4321)
    wait_until(lambda: [4321, "enough"] in inside(port)["heard"] or "over" in inside(port)["heard"])


def test_a_message_waits_until_the_application_asks_and_stops_the_client_meanwhile(
    port: int,
) -> None:
    with socket_to(port, "/count") as socket:

        def send() -> None:
            for _ in range(18):
                socket.send(BINARY, b"x" * 60_000)

        sent = threading.Thread(target=send)
        sent.start()
        ask(port, "/go")
        assert int(socket.read().payload) >= 1 << 20
        sent.join()
        closed = socket.closed()
        assert (closed.code, closed.reason) == (4001, "enough")


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/refuse", 403, b""),
        ("/respond", 418, b"no, thank you"),
        ("/fail_early", 500, b"Internal Server Error\n"),
        ("/silent", 500, b"Internal Server Error\n"),
        ("/forge", 500, b"Internal Server Error\n"),
    ],
)
def test_a_websocket_that_is_not_opened_is_answered(
    port: int, path: str, status: int, body: bytes
) -> None:
    assert refused(port, path)[:2] == (status, body)
    # And the next one is not touched by that.
    with socket_to(port, "/polite") as socket:
        socket.send(TEXT, "on")
        assert socket.read().payload == b"on"


def test_an_answer_in_place_of_the_opening_has_its_headers(port: int) -> None:
    assert refused(port, "/respond")[2]["x-mood"] == "bad"
    assert "x-forged" not in refused(port, "/forge")[2]


@pytest.mark.parametrize(("path", "code"), [("/fail_late", 1011), ("/leave", 1000)])
def test_an_application_that_ends_ends_its_websocket(port: int, path: str, code: int) -> None:
    with socket_to(port, path) as socket:
        assert socket.closed().code == code


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("sec-websocket-key", "short", 400),
        ("sec-websocket-version", "8", 426),
    ],
)
def test_a_handshake_that_is_wrong_is_refused_with_a_sentence(
    port: int, header: str, value: str, status: int
) -> None:
    headers = {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec_websocket_version": "13",
        "sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==",
        header.replace("-", "_"): value,
    }
    with connect(port) as sock:
        sock.sendall(get("/polite", **headers))
        response = Response(sock)
        body = response.body()
    assert response.status == status
    assert b"13" in body if status == 426 else header.encode() in body
    if status == 426:
        assert response.headers["sec-websocket-version"] == "13"


def test_at_the_end_of_the_server_an_application_s_websocket_is_told_to_come_back() -> None:
    with Server("--app", "tests.server.sockets:app", cwd=ROOT) as server:
        with socket_to(server.port, "/polite") as socket:
            server.process.send_signal(signal.SIGINT)
            assert socket.closed().code == 1012
        assert server.process.wait(5) == 0
        assert "Traceback" not in server.output


def test_no_task_stays_alive_for_a_stream(port: int) -> None:
    with stream(port, "/sse?channel=news&user=a") as _, talk(port, "/ws?user=b") as second:
        second.ask(subscribe={"channel": "news"})
        # What is left are the server's own and the one that answers this.
        alone = inside(port)["tasks"]
        with stream(port, "/sse?channel=news&user=a") as _, talk(port, "/ws?user=b") as other:
            other.ask(subscribe={"channel": "news"})
            assert inside(port)["tasks"] == alone


# Who is let in


def test_one_whom_the_application_does_not_know_is_refused_on_both_wires(port: int) -> None:
    response, body = ask(port, "/sse?channel=news")
    assert response.status == 401
    assert json.loads(body)["error"] == {"code": 101, "message": "unauthorized"}
    with socket_to(port, "/ws") as socket:
        closed = socket.closed()
        assert (closed.code, closed.reason) == (3507, "permission denied")


def test_one_who_is_known_may_do_what_it_is_granted_and_no_more(port: int) -> None:
    with stream(port, "/sse?channel=user.c.orders&user=c") as reader:
        assert reader.response.status == 200
    assert ask(port, "/sse?channel=user.d.orders&user=c")[0].status == 403
    with talk(port, "/ws?user=c") as talking:
        assert "subscribe" in talking.ask(subscribe={"channel": "user.c.>"})
        assert talking.ask(subscribe={"channel": "user.d.>"})["error"]["code"] == 103
        assert "publish" in talking.ask(publish={"channel": "news", "data": 1})
        assert talking.ask(publish={"channel": "user.c.x", "data": 1})["error"]["code"] == 103


def test_commands_and_events_tell_whose_they_are(port: int) -> None:
    with stream(port, "/sse?channel=news&user=e&format=event"), talk(port, "/ws?user=e") as talking:
        assert talking.ask(rpc={"method": "who"})["rpc"]["data"] == "e"
        talking.ask(subscribe={"channel": "news"})
        talking.ask(publish={"channel": "news", "data": 1})
        assert talking.pub()["info"]["user"] == "e"


def test_streams_of_one_user_are_limited_on_both_wires_together_and_the_limit_named(
    port: int,
) -> None:
    with stream(port, "/sse?channel=news&user=f"), talk(port, "/ws?user=f"):
        response, body = ask(port, "/sse?channel=news&user=f")
        assert response.status == 429
        assert "2 are allowed (connections_per_user)" in json.loads(body)["error"]["message"]
        with socket_to(port, "/ws?user=f") as socket:
            assert socket.closed().code == 3504
        with stream(port, "/sse?channel=news&user=g") as other:
            assert other.response.status == 200
    wait_until(lambda: ask(port, "/sse?channel=news&user=f", method="HEAD")[0].status == 200)
