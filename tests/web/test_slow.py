"""Clients that read slowly or not at all: what becomes of them, and who does not notice."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests import ROOT
from tests.plain import Api, Block, Stream, Talk, ask, connect, get, stream, talk
from tests.servers import Server, unused_port
from tests.waiting import wait_until

SIZE = 8_000
RULES = '[{"pattern": "strict.*", "log_events": 20, "slow": "close"}]'


def serve(**env: str) -> Server:
    return Server("--app", "tests.web.streams:app", cwd=ROOT, env=env)


def inside(port: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(port, "/inside")[1])
    return found


def fill(port: int, api: Api, channel: str, count: int = 1, reader: Stream | None = None) -> int:
    """Publish until so many clients are full; how many events that took. A reader keeps up."""
    published = 0
    while inside(port)["full"] < count:
        api.publish_all([(channel, [published + n, "x" * SIZE]) for n in range(10)])
        published += 10
        if reader is not None:
            reader.events(10)
    return published


@pytest.fixture(scope="module")
def strict() -> Iterator[Server]:
    with serve(TWINWIRE_CHANNELS=RULES) as server:
        yield server


def test_a_stream_too_slow_for_a_strict_channel_is_told_to_come_back_with_3008(
    strict: Server,
) -> None:
    port = strict.port
    with (
        Api(port) as api,
        stream(port, "/sse?channel=strict.a", receive_buffer=4096) as slow,
        stream(port, "/sse?channel=strict.a") as reader,
    ):
        published = fill(port, api, "strict.a", 1, reader)
        for number in range(30):
            api.publish("strict.a", [published + number, ""])
        reader.events(30)
        *before, last = slow.rest()
        assert [block.json()[0] for block in before] == list(range(len(before)))
        assert last.event == "reconnect"
        assert (last.json()["code"], last.json()["reason"]) == (3008, "slow")
        with stream(port, "/sse?channel=strict.a", last_event_id=str(before[-1].id)) as again:
            assert again.event().json()["reason"] == "evicted"
            assert [again.event().json()[0] for _ in range(20)] == list(
                range(published + 10, published + 30)
            )


def test_a_websocket_too_slow_for_a_strict_channel_is_closed_with_3008(strict: Server) -> None:
    port = strict.port
    with (
        Api(port) as api,
        talk(port, receive_buffer=4096) as slow,
        stream(port, "/sse?channel=strict.b") as reader,
    ):
        slow.ask(subscribe={"channel": "strict.b"})
        fill(port, api, "strict.b", 1, reader)
        for number in range(30):
            api.publish("strict.b", number)
        reader.events(30)
        closed = slow.socket.closed()
    assert (closed.code, closed.reason) == (3008, "slow")


def test_a_channel_without_that_rule_has_a_gap_instead(strict: Server) -> None:
    port = strict.port
    path = "/sse?channel=strict.c&channel=mild.c"
    with Api(port) as api, stream(port, path, receive_buffer=4096) as slow:
        fill(port, api, "mild.c")
        last = api.publish("mild.c", "last")
        assert slow.until(lambda block: block.id == last)[-1].json() == "last"


def test_after_a_restart_a_position_is_a_gap_that_says_so_and_the_stream_goes_on() -> None:
    port = unused_port()
    with Server(port=port, cwd=ROOT) as server, Api(port) as api:
        old = api.publish("a", 1)
        server.kill()
        server.process.returncode = 0  # as was meant
    with (
        Server(port=port, cwd=ROOT),
        Api(port) as api,
        stream(port, "/sse?channel=a", last_event_id=old) as again,
    ):
        gap = again.event()
        assert gap.event == "gap"
        assert (gap.json()["from"], gap.json()["reason"]) == (old, "restarted")
        position = api.publish("a", 2)
        assert again.event() == Block(id=position, data="2")


@pytest.fixture(scope="module")
def impatient() -> Iterator[Server]:
    with serve(TWINWIRE_WRITE_TIMEOUT="1.5") as server:
        yield server


def stalled_by_events(port: int, api: Api, slow: Talk) -> None:
    slow.ask(subscribe={"channel": "stalled"})
    fill(port, api, "stalled")


def stalled_by_a_stream(port: int, api: Api, slow: Talk) -> None:
    slow.say({"id": 9, "rpc": {"method": "count", "data": {"upto": 1_000_000_000, "size": 1000}}})
    wait_until(lambda: inside(port)["full"] == 1)


def stalled_by_answers(port: int, api: Api, slow: Talk) -> None:
    api.publish_all([("asked", "x" * SIZE)] * 10)
    for _ in range(10):
        slow.say(*({"id": 9, "history": {"channel": "asked", "limit": -1}} for _ in range(10)))
    wait_until(lambda: inside(port)["full"] == 1)


@pytest.mark.parametrize("stall", [stalled_by_events, stalled_by_a_stream, stalled_by_answers])
def test_one_who_takes_nothing_is_closed_after_the_timeout_whatever_it_is_not_taking(
    impatient: Server, stall: Any
) -> None:
    port = impatient.port
    with Api(port) as api, talk(port, receive_buffer=4096) as slow:
        stall(port, api, slow)
        wait_until(lambda: inside(port)["feeds"] == 0)
        wait_until(lambda: (now := inside(port))["begun"] == now["ended"])


def test_one_who_reads_slowly_but_steadily_is_not_closed(impatient: Server) -> None:
    port = impatient.port
    with Api(port) as api, stream(port, "/sse?channel=steady", receive_buffer=4096) as slow:
        for number in range(0, 200, 10):
            api.publish_all([("steady", [number + n, "x" * SIZE]) for n in range(10)])
        wait_until(lambda: inside(port)["full"] == 1)
        fulls = 0
        for number in range(20):
            # 40 KB a second, for twice the timeout and more: full from the first to the last.
            time.sleep(0.2)
            fulls += inside(port)["full"]
            assert slow.event().json()[0] == number
        assert fulls > 15
        rest = slow.until(lambda block: block.json()[0] == 199)
        assert [block.json()[0] for block in rest] == list(range(20, 200))


def test_when_all_together_hold_too_much_the_fullest_are_closed_and_the_others_are_not() -> None:
    with (
        serve(TWINWIRE_BUFFERED_BYTES=str(1 << 20)) as server,
        Api(server.port) as api,
        ExitStack() as stack,
        stream(server.port, "/sse?channel=a") as reader,
    ):
        port = server.port
        for _ in range(20):
            sock = stack.enter_context(connect(port, receive_buffer=4096))
            sock.sendall(get("/sse?channel=a"))
        wait_until(lambda: inside(port)["feeds"] == 21)
        published = 0
        while inside(port)["feeds"] == 21:
            api.publish_all([("a", [published + n, "x" * SIZE]) for n in range(10)])
            assert [block.json()[0] for block in reader.events(10)] == list(
                range(published, published + 10)
            )
            published += 10
        wait_until(lambda: sum(inside(port)["waiting"]) <= 1 << 20)
        assert 1 < inside(port)["feeds"] < 21
        last = api.publish("a", "last")
        assert reader.event().id == last
