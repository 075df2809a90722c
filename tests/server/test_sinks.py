"""Our own server under clients that are slow, impatient or gone."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests import ROOT
from tests.plain import Api, Block, Socket, Stream, Talk, ask, connect, get, stream, talk
from tests.servers import Server
from tests.waiting import wait_until

HIGH = 65_536
"""What may wait for one client, by the settings of the application."""

BATCH = 5
SIZE = 12_000


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("--app", "tests.web.app:app", cwd=ROOT) as running:
        yield running


@pytest.fixture
def port(server: Server) -> int:
    return server.port


@pytest.fixture
def api(port: int) -> Iterator[Api]:
    with Api(port) as opened:
        yield opened


def inside(port: int) -> Any:
    return json.loads(ask(port, "/inside")[1])


def batch(api: Api, channel: str, first: int) -> list[str]:
    """Publish some large events; their positions."""
    return api.publish_all([(channel, [first + n, "x" * SIZE]) for n in range(BATCH)])


def until_full(port: int, api: Api, channel: str, reader: Stream) -> list[str]:
    """Publish until the slow clients are full. Others get everything at once, all the time."""
    positions: list[str] = []
    full = 0
    while len(positions) < 300 or not full:
        assert len(positions) < 3000
        positions += batch(api, channel, len(positions))
        assert [block.id for block in reader.events(BATCH)] == positions[-BATCH:]
        state = inside(port)
        full = state["full"]
        # The limit, and what was joined into one write when there was still room.
        assert max(state["waiting"]) <= HIGH + 2 * BATCH * (SIZE + 100)
    return positions


def test_a_slow_event_stream_holds_up_nobody_and_then_gets_everything_once(
    port: int, api: Api
) -> None:
    path = "/sse?channel=open.slow.sse"
    with stream(port, path, receive_buffer=4096) as slow, stream(port, path) as reader:
        positions = until_full(port, api, "open.slow.sse", reader)
        assert [block.id for block in slow.events(len(positions))] == positions
        # And it is live again.
        wait_until(lambda: inside(port)["full"] == 0)
        last = api.publish("open.slow.sse", "last")
        assert slow.event().id == reader.event().id == last


def test_a_slow_websocket_holds_up_nobody_and_then_gets_everything_once(
    port: int, api: Api
) -> None:
    channel = "open.slow.ws"
    with (
        talk(port, receive_buffer=4096) as slow,
        stream(port, f"/sse?channel={channel}") as reader,
    ):
        epoch = slow.ask(subscribe={"channel": channel})["subscribe"]["epoch"]
        positions = until_full(port, api, channel, reader)
        got = [f"{epoch}-{push['pub']['offset']}" for push in slow.pushed(len(positions))]
        assert got == positions
        last = api.publish(channel, "last")
        assert f"{epoch}-{slow.pub()['offset']}" == last


def test_what_the_log_forgot_meanwhile_is_a_gap_that_says_from_where_to_where(
    port: int, api: Api
) -> None:
    channel = "open.short.slow"
    path = f"/sse?channel={channel}"
    with stream(port, path, receive_buffer=4096) as slow, stream(port, path) as reader:
        positions = until_full(port, api, channel, reader)
        blocks = slow.until(lambda block: block.id == positions[-1])
    (gap,) = [block for block in blocks if block.event == "gap"]
    index = blocks.index(gap)
    before = [block.id for block in blocks[:index]]
    after = [block.id for block in blocks[index + 1 :]]
    assert before == positions[: len(before)]
    assert after == positions[-len(after) :]
    assert len(before) + len(after) < len(positions)
    assert gap.json() == {
        "from": before[-1],
        "to": positions[-len(after) - 1],
        "reason": "too_slow",
    }


def test_many_who_read_nothing_hurt_nobody_and_cost_a_buffer_each(port: int, api: Api) -> None:
    path = "/sse?channel=open.many"
    with stream(port, path) as reader:
        stalled = [connect(port, receive_buffer=4096) for _ in range(30)]
        try:
            for sock in stalled:
                sock.sendall(get(path))
            # In their lane, that is: they have read nothing and will not.
            wait_until(lambda: len(inside(port)["waiting"]) == 31)
            until_full(port, api, "open.many", reader)
            assert inside(port)["full"] == 30
            api.publish("open.many", "last")
            assert reader.event().json() == "last"
        finally:
            for sock in stalled:
                sock.close()
    wait_until(lambda: inside(port)["feeds"] == 0)


def test_a_slow_client_is_sent_only_what_is_still_current_in_the_mode_latest(
    port: int, api: Api
) -> None:
    path = "/sse?channel=open.current&mode=latest"
    with stream(port, path, receive_buffer=4096) as slow:
        count = 0
        while count < 300 or not inside(port)["full"]:
            for _ in range(BATCH):
                data = [count, "x" * SIZE]
                api.publish("open.current", data, key=f"k{count % 3}")
                count += 1
        blocks = slow.until(lambda block: block.json()[0] == count - 1)
    numbers = [block.json()[0] for block in blocks]
    assert numbers == sorted(set(numbers))
    assert numbers[-3:] == [count - 3, count - 2, count - 1]
    assert len(numbers) < count
    assert not [block for block in blocks if block.event == "gap"]


@pytest.mark.parametrize(("wire", "behind"), [("sse", True), ("ws", False)])
def test_a_client_that_takes_nothing_at_all_is_closed_after_the_timeout(
    wire: str, behind: bool
) -> None:
    with (
        Server("--set", "write_timeout=0.1", cwd=ROOT) as server,
        Api(server.port) as api,
        stream(server.port, "/sse?channel=a") as reader,
    ):
        begin = api.publish("a", "begin")
        reader.event()

        def fill() -> None:
            for _ in range(60):
                api.publish_all([("a", "x" * 50_000)] * 5)
                reader.events(5)

        if behind:
            fill()
        epoch, offset = begin.split("-")
        with connect(server.port, receive_buffer=4096) as sock:
            if wire == "sse":
                sock.sendall(get("/sse?channel=a", last_event_id=begin))
            else:
                opened = Talk(Socket(sock, "/ws"))
                place = {"recover": True, "epoch": epoch, "offset": int(offset)}
                opened.say({"id": 9, "subscribe": {"channel": "a", **place}})
            if not behind:
                wait_until(lambda: clients(api) == 2)
                fill()
            wait_until(lambda: clients(api) == 1)


# Streams behind something else than us


def test_a_stream_under_a_middleware_that_recodes_still_streams(port: int) -> None:
    with Server("--app", "tests.server.app:recoding", cwd=ROOT) as server:
        with Api(server.port, "/live") as api, connect(server.port) as sock:
            sock.sendall(get("/live/sse?channel=a", accept_encoding="gzip"))
            opened = Stream(sock)
            assert opened.response.headers["content-encoding"] == "gzip"
            opened.next()
            for n in range(3):
                position = api.publish("a", n)
                assert opened.event() == Block(id=position, data=str(n))
        assert "Traceback" not in server.output


@pytest.mark.parametrize("app", ["recoding", "tasks"])
def test_a_stream_through_plain_send_is_told_of_the_end(app: str) -> None:
    with Server("--app", f"tests.server.app:{app}", cwd=ROOT) as server:
        with stream(server.port, "/live/sse?channel=a") as opened:
            assert "content-encoding" not in opened.response.headers
            server.process.terminate()
            (last,) = [block for block in opened.rest() if block.event]
            assert last.event == "reconnect"
        assert server.process.wait(5) == 0
        assert "Traceback" not in server.output


def test_one_who_is_gone_before_the_application_answers_is_forgotten() -> None:
    with (
        Server("--app", "tests.server.app:slow", cwd=ROOT) as server,
        Api(server.port, "/live") as api,
    ):
        with connect(server.port) as sock:
            sock.sendall(get("/live/sse?channel=a"))
            wait_until(lambda: ask(server.port, "/waiting")[1] == b"1")
        ask(server.port, "/go")
        wait_until(lambda: ask(server.port, "/waiting")[1] == b"0")
        wait_until(lambda: clients(api) == 0)


@pytest.mark.parametrize("app", ["plain", "recoding", "tasks"])
def test_one_who_leaves_with_requests_still_waiting_is_forgotten(app: str) -> None:
    with (
        Server("--app", f"tests.server.app:{app}", cwd=ROOT) as server,
        Api(server.port, "/live") as api,
    ):
        with connect(server.port) as sock:
            sock.sendall(get("/live/sse?channel=a") + get("/live/health") * 2)
            Stream(sock).next()
            assert clients(api) == 1
        # With requests waiting nothing is read any more: a write finds out that nobody is there.
        wait_until(lambda: api.publish("a", 1) and clients(api) == 0)
        assert "without completing" not in server.output


def clients(api: Api) -> int:
    count: int = api.result("info")["nodes"][0]["num_clients"]
    return count


@pytest.mark.parametrize(
    ("request_line", "body"),
    [(b"GET /sse?channel=open.one HTTP/1.1", b"retry: "), (b"GET /health HTTP/1.1", b"{}")],
    ids=["a stream", "an answer"],
)
def test_a_response_and_the_beginning_of_its_body_come_in_one_packet(
    port: int, request_line: bytes, body: bytes
) -> None:
    with connect(port) as raw:
        raw.sendall(request_line + b"\r\nHost: x\r\n\r\n")
        packet = raw.recv(65_536)
    head, _, rest = packet.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body in rest
