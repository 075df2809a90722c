"""Answers that are streams: each message waits for the client's socket, and nothing else waits."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import centrifuge  # type: ignore[import-untyped]  # it brings none
import pytest

from tests import ROOT
from tests.plain import Api, Talk, ask, talk
from tests.seen import Seen
from tests.servers import Server
from tests.waiting import wait_until

MIB = 1 << 20


@pytest.fixture(scope="module")
def streams() -> Iterator[Server]:
    with Server("--app", "tests.web.streams:app", cwd=ROOT) as running:
        yield running


@pytest.fixture
def port(streams: Server) -> int:
    return streams.port


def inside(port: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(port, "/inside")[1])
    return found


def call(talking: Talk, method: str, data: Any) -> str:
    """Call a command that answers with a stream; its channel. Other pushes are kept."""
    channel: str = talking.ask(rpc={"method": method, "data": data})["rpc"]["data"]["stream"]
    before = []
    while (push := talking.push()) != {"channel": channel, "subscribe": {}}:
        before.append(push)
    talking.pushes[:0] = before
    return channel


def test_a_stream_is_named_in_the_answer_and_has_its_messages_in_order_and_an_end(
    port: int,
) -> None:
    with talk(port) as talking:
        channel = call(talking, "count", {"upto": 5})
        pushes = talking.pushed(6)
    messages, end = pushes[:5], pushes[5]
    assert [m["channel"] for m in messages] == [channel] * 5
    assert [m["pub"]["data"] for m in messages] == [[n, ""] for n in range(5)]
    assert end == {"channel": channel, "unsubscribe": {"code": 2001, "reason": "end of stream"}}


@pytest.mark.parametrize(("code", "reason"), [(400, "as asked"), (0, "internal server error")])
def test_a_stream_that_fails_says_so_and_keeps_secrets(port: int, code: int, reason: str) -> None:
    with talk(port) as talking:
        channel = call(talking, "break", code)
        assert talking.pub() == {"data": "so far so good"}
        ended = talking.push()
        assert ended == {"channel": channel, "unsubscribe": {"code": 2002, "reason": reason}}
        assert talking.ask(rpc={"method": "add", "data": [1, 2]})["rpc"]["data"] == 3


def test_streams_of_one_connection_go_side_by_side(port: int) -> None:
    with talk(port, receive_buffer=4096) as talking:
        channels = [call(talking, "count", {"upto": 200, "size": 1000}) for _ in range(3)]
        got: dict[str, list[int]] = {channel: [] for channel in channels}
        ends = 0
        while ends < 3:
            push = talking.push()
            if "pub" in push:
                got[push["channel"]].append(push["pub"]["data"][0])
            else:
                assert push["unsubscribe"]["code"] == 2001
                ends += 1
    assert all(numbers == list(range(200)) for numbers in got.values())


def test_a_client_that_goes_away_ends_the_handler(port: int) -> None:
    before = inside(port)
    with talk(port) as waiting, talk(port, receive_buffer=4096) as reading_nothing:
        call(waiting, "wait", None)
        assert waiting.pub() == {"data": "waiting"}
        call(reading_nothing, "count", {"upto": 1_000_000_000, "size": 10_000})
        assert inside(port)["begun"] == before["begun"] + 2
        assert inside(port)["ended"] == before["ended"]
    wait_until(lambda: inside(port)["ended"] == before["ended"] + 2)


@pytest.mark.parametrize("method", ["wait", "count"])
def test_an_unsubscribe_ends_the_handler_and_nothing_but_that_stream(
    port: int, method: str
) -> None:
    before = inside(port)["ended"]
    with talk(port) as talking:
        asked = {"upto": 1_000_000_000, "size": 100} if method == "count" else None
        channel = call(talking, method, asked)
        call(talking, "wait", None)
        assert talking.ask(unsubscribe={"channel": channel})["unsubscribe"] == {}
        wait_until(lambda: inside(port)["ended"] == before + 1)
        assert talking.ask(rpc={"method": "add", "data": [1, 2]})["rpc"]["data"] == 3


def test_a_stream_counts_as_a_command_in_flight_until_it_has_ended(streams: Server) -> None:
    with talk(streams.port) as talking:
        channels = [call(talking, "wait", None) for _ in range(64)]
        error = talking.ask(rpc={"method": "wait", "data": None})["error"]
        assert (error["code"], error["temporary"]) == (111, True)
        talking.ask(unsubscribe={"channel": channels[0]})
        call(talking, "wait", None)


def test_a_handler_that_waits_for_nothing_and_a_client_that_reads_all_hold_up_nobody(
    port: int,
) -> None:
    with talk(port) as talking, Api(port) as api:
        call(talking, "count", {"upto": 1_000_000_000, "size": 20_000})
        stop = threading.Event()
        read = count()

        def drink() -> None:
            while not stop.is_set():
                talking.push()
                next(read)

        drinking = threading.Thread(target=drink)
        drinking.start()
        try:
            wait_until(lambda: inside(port)["yielded"] > 100)
            took = []
            for number in range(30):
                begun = time.monotonic()
                api.publish("a", number)
                took.append(time.monotonic() - begun)
        finally:
            stop.set()
            drinking.join()
    assert sorted(took)[15] < 0.1


class Slowly:
    """Reads a stream at a rate, and notes how late the ticks are that come between."""

    def __init__(self, port: int, rate: float, size: int) -> None:
        self.port = port
        self.rate = rate
        self.size = size
        self.lateness: list[float] = []
        self.pings = 0
        self.memory: list[int] = []

    def run(self, total: int) -> float:
        """Read a stream of `total` bytes and return how long it took."""
        with talk(self.port, receive_buffer=65536) as talking:
            talking.ask(subscribe={"channel": "ticks"})
            stop = threading.Event()
            watching = threading.Thread(target=self._watch, args=(stop,))
            begun = time.monotonic()
            got = 0
            channel = call(talking, "count", {"upto": total // self.size, "size": self.size})
            watching.start()
            try:
                while True:
                    frame = talking.socket.read()
                    arrived = time.time()
                    got += len(frame.payload)
                    for line in frame.payload.split(b"\n"):
                        if self._take(talking, line, arrived, channel):
                            return time.monotonic() - begun
                    ahead = begun + got / self.rate - time.monotonic()
                    if ahead > 0:
                        time.sleep(ahead)
            finally:
                stop.set()
                watching.join()

    def _take(self, talking: Talk, line: bytes, arrived: float, channel: str) -> bool:
        """One reply; whether it is the stream's end."""
        if line == b"{}":
            talking.say({})
            self.pings += 1
            return False
        push = json.loads(line)["push"]
        if push["channel"] == "ticks":
            self.lateness.append(arrived - push["pub"]["data"])
        elif "unsubscribe" in push:
            assert push["unsubscribe"]["code"] == 2001
            assert push["channel"] == channel
            return True
        return False

    def _watch(self, stop: threading.Event) -> None:
        with Api(self.port) as api:
            while not stop.wait(0.05):
                api.publish("ticks", time.time())
                self.memory.append(inside(self.port)["memory"])


def test_a_large_answer_to_a_slow_reader_takes_a_buffer_and_delays_neither_ticks_nor_pings() -> (
    None
):
    # A client that reads 5 MB a second; by hand the same was run with 100 MB.
    total, rate = 20 * MIB, 5 * MIB
    with Server("--app", "tests.web.streams:app", cwd=ROOT, env={"TWINWIRE_PING": "1"}) as server:
        Slowly(server.port, 20 * MIB, 16_384).run(2 * MIB)  # so that all code has run once
        reader = Slowly(server.port, rate, 16_384)
        took = reader.run(total)
        before, *during = reader.memory
        assert inside(server.port)["ended"] == 2
    assert took > 0.9 * total / rate
    assert max(during) - before < MIB
    assert reader.pings >= 2
    assert len(reader.lateness) > 20
    assert sorted(reader.lateness)[len(reader.lateness) // 2] < 0.15


class _Events(centrifuge.ClientEventHandler):  # type: ignore[misc]  # it has no types
    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    async def on_subscribed(self, ctx: centrifuge.ServerSubscribedContext) -> None:
        self._seen.add({"on": "subscribed", "channel": ctx.channel})

    async def on_publication(self, ctx: centrifuge.ServerPublicationContext) -> None:
        self._seen.add({"on": "publication", "channel": ctx.channel, "data": ctx.pub.data})

    async def on_unsubscribed(self, ctx: centrifuge.ServerUnsubscribedContext) -> None:
        self._seen.add({"on": "unsubscribed", "channel": ctx.channel})


async def test_the_official_python_client_reads_a_stream_as_a_subscription_of_the_server(
    streams: Server,
) -> None:
    before = asyncio.all_tasks()
    seen = Seen()
    client = centrifuge.Client(f"{streams.ws_url}/ws", _Events(seen), proxy=None)
    await client.connect()
    await client.ready()
    try:
        channel = (await client.rpc("count", {"upto": 3})).data["stream"]
        await seen.count(1, "unsubscribed")
    finally:
        await client.disconnect()
        # Its closing is a task of its own, with its connection's.
        while tasks := asyncio.all_tasks() - before:
            await asyncio.wait(tasks)
    assert seen.items == [
        {"on": "subscribed", "channel": channel},
        *({"on": "publication", "channel": channel, "data": [n, ""]} for n in range(3)),
        {"on": "unsubscribed", "channel": channel},
    ]
