"""A hub in somebody's application, under every server that the application may run on."""

import json
import signal
import sys
from collections.abc import Iterator

import pytest

from tests import ROOT
from tests.plain import CLOSE, Api, Stream, ask, connect, get, stream, talk
from tests.servers import Command, Server, unused_port
from tests.waiting import wait_until

SERVED = [
    "ours-fast",
    "ours-star",
    "ours-wrapped",
    "uvicorn-fast",
    "uvicorn-wrapped",
    "hypercorn-fast",
    "hypercorn-wrapped",
    "granian-star",
]


def serving(server: str, app: str) -> Command:
    """The application of `tests/embedded.py`, not started yet."""
    if server == "ours":
        return Server("--app", f"tests.embedded:{app}", cwd=ROOT)
    port = unused_port()
    address = ["--host", "127.0.0.1", "--port", str(port)]
    argv, codes = {
        "uvicorn": ([*address, "--ws", "websockets-sansio", "--log-level", "warning"], (0, -15)),
        # In this process: workers of their own are not told of the signal.
        "hypercorn": (["--bind", f"127.0.0.1:{port}", "--workers", "0"], (0,)),
        "granian": ([*address, "--interface", "asgi"], (0,)),
    }[server]
    return Command(
        [sys.executable, "-m", server, f"tests.embedded:{app}", *argv],
        port,
        cwd=ROOT,
        exit_codes=codes,
    )


@pytest.fixture(scope="module", params=SERVED)
def served(request: pytest.FixtureRequest) -> Iterator[Command]:
    server, app = request.param.split("-")
    with serving(server, app) as running:
        yield running


@pytest.fixture
def port(served: Command) -> int:
    return served.port


@pytest.fixture
def api(port: int) -> Iterator[Api]:
    with Api(port, "/live") as opened:
        yield opened


def test_both_wires_get_the_same_events(port: int, api: Api) -> None:
    with (
        stream(port, "/live/sse?channel=prices.*") as sse,
        talk(port, "/live/ws") as ws,
        talk(port, "/live/connection/websocket") as other,
    ):
        epoch = ws.ask(subscribe={"channel": "prices.*"})["subscribe"]["epoch"]
        other.ask(subscribe={"channel": "prices.b"})
        positions = [api.publish(f"prices.{'ab'[n % 2]}", {"n": n}) for n in range(6)]
        blocks = sse.events(6)
        pubs = [push["pub"] for push in ws.pushed(6)]
        assert [block.id for block in blocks] == positions
        assert [f"{epoch}-{pub['offset']}" for pub in pubs] == positions
        assert [block.json() for block in blocks] == [pub["data"] for pub in pubs]
        assert [push["pub"]["data"]["n"] for push in other.pushed(3)] == [1, 3, 5]


def test_a_stream_with_gzip_is_the_same_stream(port: int, api: Api) -> None:
    path = "/live/sse?channel=coded"
    with stream(port, path) as plain, stream(port, path, accept_encoding="gzip") as coded:
        assert "content-encoding" not in plain.response.headers
        assert coded.response.headers["content-encoding"] == "gzip"
        for count in (1, 100):
            api.publish_all([("coded", {"n": n, "price": 1.1}) for n in range(count)])
            assert coded.events(count) == plain.events(count)


def test_a_position_from_one_wire_resumes_on_the_other(port: int, api: Api) -> None:
    first = api.publish("resume", 1)
    missed = api.publish_all([("resume", n) for n in range(3)])
    epoch, offset = first.split("-")
    with stream(port, "/live/sse?channel=resume", last_event_id=first) as sse:
        assert [block.id for block in sse.events(3)] == missed
    with talk(port, "/live/ws") as ws:
        place = {"recover": True, "epoch": epoch, "offset": int(offset)}
        result = ws.ask(subscribe={"channel": "resume", **place})["subscribe"]
        assert [f"{epoch}-{pub['offset']}" for pub in result["publications"]] == missed


def test_a_route_of_the_applications_own_publishes(port: int) -> None:
    with stream(port, "/live/sse?channel=orders.*&format=event") as sse:
        response, body = ask(port, "/orders/EURUSD", method="POST", content_length="0")
        assert response.status == 200
        block = sse.event()
        assert block.id == json.loads(body)["position"]
        assert block.json()["data"] == {"symbol": "EURUSD"}


def test_a_heartbeat_keeps_a_quiet_stream_alive(port: int) -> None:
    with stream(port, "/live/sse?channel=quiet&heartbeat=event") as sse:
        assert [block.event for block in sse.events(2)] == ["heartbeat"] * 2


def test_head_and_errors_are_answered(port: int) -> None:
    response, _ = ask(port, "/live/sse?channel=a", method="HEAD")
    assert response.status == 200
    assert ask(port, "/live/sse")[0].status == 400
    assert ask(port, "/live/ws")[0].status == 400
    assert ask(port, "/live/nothing")[0].status == 404


@pytest.mark.parametrize(
    ("method", "data", "answer"),
    [
        ("model", {"symbol": "A", "amount": 2}, {"symbol": "A", "amount": 2}),
        ("model", {"symbol": "A", "amount": 0}, 107),
        ("model", {"symbol": "A"}, 107),
        ("struct", {"symbol": "A", "amount": 2}, {"symbol": "A", "amount": 2}),
        ("struct", {"symbol": "A", "amount": 0}, 107),
        ("data", {"symbol": "A", "amount": 2}, {"symbol": "A", "amount": 2}),
        ("data", {"symbol": "A", "amount": "2"}, 107),
        ("several", {"symbol": "A", "amount": 2}, ["A", 2]),
        ("several", ["A"], ["A", 1]),
        ("several", {"amount": 2}, 107),
        ("plain", "ab", "abab"),
        ("plain", 1, 107),
        ("refuse", None, 1001),
        ("crash", None, 100),
        ("none", None, 104),
    ],
)
def test_a_command_is_called_with_what_it_declares_or_refused(
    port: int, method: str, data: object, answer: object
) -> None:
    with talk(port, "/live/ws") as ws:
        reply = ws.ask(rpc={"method": method, "data": data})
        if isinstance(answer, int):
            assert reply["error"]["code"] == answer
        else:
            assert reply["rpc"]["data"] == answer


def test_a_command_may_answer_with_a_stream(port: int) -> None:
    with talk(port, "/live/ws") as ws:
        channel = ws.ask(rpc={"method": "count", "data": 100})["rpc"]["data"]["stream"]
        assert ws.push() == {"channel": channel, "subscribe": {}}
        assert [push["pub"]["data"] for push in ws.pushed(100)] == list(range(100))
        assert ws.push()["unsubscribe"]["code"] == 2001


def test_a_client_that_leaves_cancels_its_running_command(port: int) -> None:
    with stream(port, "/live/sse?channel=hang") as watching:
        with talk(port, "/live/ws") as ws:
            ws.say({"id": 9, "rpc": {"method": "hang"}})
            assert watching.event().data == "begun"
        assert watching.event().data == "cancelled"


def test_a_client_publishes_and_a_broken_frame_closes(port: int) -> None:
    with talk(port, "/live/ws") as one, talk(port, "/live/ws") as two:
        two.ask(subscribe={"channel": "chat.a"})
        assert one.ask(publish={"channel": "chat.a", "data": "hello"})["publish"] == {}
        pub = two.pub()
        assert (pub["data"], pub["info"]["client"]) == ("hello", one.result["client"])
        one.say({"id": 5})
        closed = one.socket.read()
        assert (closed.code, closed.reason) == (3501, "bad request")


def test_clients_that_leave_are_forgotten(port: int, api: Api) -> None:
    with stream(port, "/live/sse?channel=left"), talk(port, "/live/ws") as ws:
        ws.ask(subscribe={"channel": "left"})
        assert listening(api) == 2
    wait_until(lambda: listening(api) == 0)


def listening(api: Api) -> int:
    api.publish("left", 1)
    count: int = api.result("channels", pattern="left")["channels"]["left"]["num_clients"]
    return count


def test_a_slow_reader_holds_up_nobody_and_gets_everything_once(port: int, api: Api) -> None:
    with (
        stream(port, "/live/sse?channel=slow", receive_buffer=4096) as sse,
        talk(port, "/live/ws", receive_buffer=4096) as ws,
        stream(port, "/live/sse?channel=slow") as reader,
    ):
        ws.ask(subscribe={"channel": "slow"})
        positions: list[str] = []
        for begin in range(0, 200, 10):
            positions += api.publish_all([("slow", [begin + n, "x" * 50_000]) for n in range(10)])
            assert [block.id for block in reader.events(10)] == positions[-10:]
        assert [block.id for block in sse.events(200)] == positions
        assert [push["pub"]["data"][0] for push in ws.pushed(200)] == list(range(200))


def test_an_application_is_served_from_python_with_its_hub() -> None:
    port = unused_port()
    script = (
        "from tests.embedded import fast, fast_hub\n"
        "from twinwire import Settings\n"
        "from twinwire.server import run\n"
        f"raise SystemExit(run(Settings.load(given={{'port': {port}}}), fast_hub, fast))\n"
    )
    with (
        Command([sys.executable, "-c", script], port, cwd=ROOT) as running,
        Api(port, "/live") as api,
        stream(port, "/live/sse?channel=a") as sse,
    ):
        position = api.publish("a", 1)
        assert sse.event().id == position
        assert running.stop() == 0
        assert [block.event for block in sse.rest() if block.event] == ["reconnect"]


# With middleware in between


@pytest.fixture(scope="module", params=["ours", "uvicorn", "hypercorn"])
def between(request: pytest.FixtureRequest) -> Iterator[int]:
    with serving(request.param, "wrapped") as running:
        yield running.port


def test_a_compressed_stream_still_streams(between: int) -> None:
    with Api(between, "/live") as api, connect(between) as sock:
        sock.sendall(get("/live/sse?channel=a", accept_encoding="gzip"))
        opened = Stream(sock)
        assert opened.response.headers["content-encoding"] == "gzip"
        opened.next()
        for n in range(3):
            position = api.publish("a", n)
            block = opened.event()
            assert (block.id, block.json()) == (position, n)


def test_another_origins_page_is_told_that_it_may_listen(between: int) -> None:
    path = "/live/sse?channel=a"
    with stream(between, path, origin="https://page.example") as opened:
        allowed = opened.response.headers["access-control-allow-origin"]
        assert allowed == "https://page.example"
    with stream(between, path, origin="https://other.example") as opened:
        assert "access-control-allow-origin" not in opened.response.headers


# The end


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("server", ["ours", "uvicorn", "hypercorn", "granian"])
def test_a_signal_ends_the_server_and_tells_everybody_to_come_back(
    server: str, number: signal.Signals
) -> None:
    with (
        serving(server, "fast") as running,
        stream(running.port, "/live/sse?channel=a") as sse,
        talk(running.port, "/live/ws") as ws,
    ):
        running.process.send_signal(number)
        blocks = [block for block in sse.rest() if block.event]
        assert [block.event for block in blocks] == ["reconnect"]
        # uvicorn's own code comes first at times; Granian ends a WebSocket without a word.
        told = {"ours": {3001}, "uvicorn": {3001, 1012}, "hypercorn": {3001}}
        try:
            while (read := ws.socket.read()).opcode != CLOSE:
                continue
            assert read.code in told.get(server, {3001})
        except (AssertionError, ConnectionError):
            if server != "granian":
                raise
        running.process.wait(10)
