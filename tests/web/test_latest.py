"""The mode `latest`: conflated for who is behind, exact for who keeps up, paced for who asks."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests import ROOT
from tests.plain import Api, Stream, ask, connect, get, stream, talk
from tests.servers import Server
from tests.waiting import wait_until

KEYS = 50
EVENTS = 10_000


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    """Retains next to nothing of some channels."""
    rules = '[{"pattern": "short.*", "log_events": 5}]'
    env = {"TWINWIRE_CHANNELS": rules}
    with Server("--app", "tests.web.streams:app", cwd=ROOT, env=env) as server:
        yield server


@pytest.fixture
def port(running: Server) -> int:
    return running.port


@pytest.fixture
def api(port: int) -> Iterator[Api]:
    with Api(port) as opened:
        yield opened


def inside(port: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(port, "/inside")[1])
    return found


def publish(api: Api, channel: str, numbers: range, keys: int = KEYS, size: int = 0) -> list[str]:
    """Publish `[key, number, …]` under its key, key by key; the positions."""
    positions = []
    for begin in range(numbers.start, numbers.stop, 100):
        commands = [
            {
                "publish": {
                    "channel": channel,
                    "key": f"k{number % keys}",
                    "data": [f"k{number % keys}", number, "x" * size],
                }
            }
            for number in range(begin, min(begin + 100, numbers.stop))
        ]
        status, answer = api.post("batch", {"commands": commands})
        assert status == 200
        positions += [
            f"{p['epoch']}-{p['offset']}" for p in (r["publish"] for r in answer["replies"])
        ]
    return positions


def newest(numbers: range, keys: int = KEYS) -> dict[str, int]:
    return {f"k{number % keys}": number for number in numbers}


def check_conflated(rows: list[list[Any]]) -> None:
    """What somebody was told who was stalled while `EVENTS` were published."""
    assert len(rows) < 400
    numbers = [number for _, number, _ in rows]
    assert numbers == sorted(set(numbers))
    assert {key: number for key, number, _ in rows} == newest(range(EVENTS))


def test_a_stalled_stream_wakes_to_the_newest_of_each_key_and_resumes_in_the_mode_every(
    port: int, api: Api
) -> None:
    path = "/sse?channel=stalled.a"
    with stream(port, f"{path}&mode=latest", receive_buffer=4096) as slow:
        positions = publish(api, "stalled.a", range(EVENTS), size=800)
        blocks = slow.until(lambda block: block.json()[1] == EVENTS - 1)
    check_conflated([block.json() for block in blocks])
    assert blocks[-1].id == positions[-1]
    assert not [block for block in blocks if block.event is not None]
    after = publish(api, "stalled.a", range(EVENTS, EVENTS + 120))
    with stream(port, path, last_event_id=str(blocks[-1].id)) as again:
        assert [block.id for block in again.events(120)] == after


def test_a_stalled_subscription_wakes_to_the_newest_of_each_key_and_resumes_in_the_mode_every(
    port: int, api: Api
) -> None:
    with talk(port, receive_buffer=4096) as slow:
        asked = {"channel": "stalled.b", "data": {"mode": "latest"}}
        epoch = slow.ask(subscribe=asked)["subscribe"]["epoch"]
        positions = publish(api, "stalled.b", range(EVENTS), size=800)
        pubs = [slow.pub()]
        while pubs[-1]["data"][1] != EVENTS - 1:
            pubs.append(slow.pub())
    check_conflated([pub["data"] for pub in pubs])
    assert f"{epoch}-{pubs[-1]['offset']}" == positions[-1]
    after = publish(api, "stalled.b", range(EVENTS, EVENTS + 120))
    place = {"recover": True, "epoch": epoch, "offset": pubs[-1]["offset"]}
    with talk(port) as again:
        missed = again.ask(subscribe={"channel": "stalled.b", **place})["subscribe"]
        assert missed["recovered"] is True
        # The answer holds a beginning.
        found = missed["publications"]
        found += [again.pub() for _ in range(120 - len(found))]
    assert [f"{epoch}-{pub['offset']}" for pub in found] == after


def test_who_keeps_up_gets_each_event_on_both_wires(port: int, api: Api) -> None:
    with stream(port, "/sse?channel=exact&mode=latest") as reader, talk(port) as talking:
        talking.ask(subscribe={"channel": "exact", "data": {"mode": "latest"}})
        for number in range(300):
            publish(api, "exact", range(number, number + 1), keys=1)
            assert reader.event().json()[1] == number
            assert talking.pub()["data"][1] == number


def test_however_old_the_position_only_the_keys_that_changed_since_come_on_both_wires(
    port: int, api: Api
) -> None:
    old = publish(api, "short.a", range(1000))[-1]
    publish(api, "short.a", range(1000, 1003))
    publish(api, "short.a", range(1050, 1053))
    assert len(api.result("history", channel="short.a", limit=-1)["publications"]) == 5
    path = "/sse?channel=short.a&mode=latest"
    with stream(port, path, last_event_id=old) as reader:
        assert [block.json()[1] for block in reader.events(3)] == [1050, 1051, 1052]
        publish(api, "short.a", range(7, 8))
        assert reader.event().json()[1] == 7
    epoch, offset = old.split("-")
    place = {"recover": True, "epoch": epoch, "offset": int(offset)}
    with talk(port) as talking:
        result = talking.ask(subscribe={"channel": "short.a", "data": {"mode": "latest"}, **place})
    assert result["subscribe"]["recovered"] is True
    assert [pub["data"][1] for pub in result["subscribe"]["publications"]] == [1050, 1051, 1052, 7]


# Paced


@contextmanager
def publishing(port: int, channel: str, keys: int) -> Iterator[None]:
    """A thread that publishes again and again, key by key, until the block ends."""
    stop = threading.Event()

    def run() -> None:
        number = 0
        with Api(port) as api:
            while not stop.wait(0.005):
                publish(api, channel, range(number, number + 1), keys=keys)
                number += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class Told:
    """What a paced client is told, piece by piece, with the age of what is in it."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.oldest: list[float] = []
        self.keys: list[list[str]] = []

    def add(self, events: list[dict[str, Any]]) -> None:
        now = time.time()
        self.times.append(now)
        self.oldest.append(max(now - event["time"] / 1000 for event in events))
        self.keys.append([event["data"][0] for event in events])

    def check(self, pace: float) -> None:
        # One more than fit in, since a piece that was late may be followed by one that is on time.
        assert len(self.times) <= (self.times[-1] - self.times[0]) / pace + 2
        for keys in self.keys:
            assert len(keys) == len(set(keys))
        # The first two have what was published before, and as the stream was opened.
        assert sorted(self.oldest[2:])[len(self.oldest) // 2] <= pace + 0.1


def test_a_paced_stream_is_told_as_often_as_it_asked_and_ends_up_with_the_newest_of_each_key(
    port: int, api: Api
) -> None:
    told = Told()
    shown: dict[str, str | None] = {}
    path = "/sse?channel=paced.a&mode=latest&format=event&max_age=100"
    with stream(port, path) as reader:
        with publishing(port, "paced.a", keys=3):
            for _ in range(12):
                first = reader.event()
                blocks = [first, *reader._blocks]
                reader._blocks.clear()
                told.add([block.json() for block in blocks])
                shown |= {block.json()["key"]: block.id for block in blocks}
        last = publish(api, "paced.a", range(30, 33), keys=3)
        for block in reader.until(lambda block: block.id == last[-1]):
            shown[block.json()["key"]] = block.id
    told.check(0.1)
    assert shown == dict(zip(("k0", "k1", "k2"), last, strict=True))


def test_a_paced_subscription_is_told_as_it_asked_beside_others_that_are_not(
    port: int, api: Api
) -> None:
    with talk(port) as talking:
        for channel, data in (
            ("mixed.every", {}),
            ("mixed.latest", {"mode": "latest"}),
            ("mixed.paced", {"mode": "latest", "max_age": 200}),
            ("mixed.slower", {"mode": "latest", "max_age": 300}),
        ):
            talking.ask(subscribe={"channel": channel, "data": data})
        begun = time.monotonic()
        for number in range(40):
            api.publish_all(
                [(f"mixed.{name}", number) for name in ("paced", "slower", "every", "latest")]
            )
        got: dict[str, list[int]] = {}
        while any(got.get(f"mixed.{name}", [0])[-1] != 39 for name in ("paced", "slower")):
            push = talking.push()
            got.setdefault(push["channel"], []).append(push["pub"]["data"])
        took = time.monotonic() - begun
    assert got["mixed.every"] == got["mixed.latest"] == list(range(40))
    assert len(got["mixed.paced"]) <= took / 0.2 + 2
    assert len(got["mixed.slower"]) <= took / 0.3 + 2


def test_clients_of_one_pace_stand_in_one_lane_and_are_told_together(port: int, api: Api) -> None:
    path = "/sse?channel=shared&mode=latest&max_age=50"
    wait_until(lambda: inside(port)["lanes"] == 0)
    with stream(port, path) as one, stream(port, path) as two, stream(port, path) as three:
        wait_until(lambda: inside(port)["lanes"] == 1)
        position = api.publish("shared", 1)
        assert [each.event().id for each in (one, two, three)] == [position] * 3
        assert inside(port)["lanes"] == 1


def test_who_comes_to_a_slow_pace_sees_the_newest_of_each_key_at_once(port: int, api: Api) -> None:
    path = "/sse?channel=late&mode=latest&max_age=3600000"
    with stream(port, path):
        wait_until(lambda: inside(port)["lanes"] == 1)
        publish(api, "late", range(9), keys=3)
        with stream(port, path) as late:
            assert [block.json()[1] for block in late.events(3)] == [6, 7, 8]


def test_a_paced_client_that_was_stalled_catches_up_and_is_paced_again(port: int, api: Api) -> None:
    path = "/sse?channel=paced.b&mode=latest&max_age=50"
    with connect(port, receive_buffer=4096) as sock:
        sock.sendall(get(path))
        slow = Stream(sock)
        slow.next()
        number = 0
        while not inside(port)["full"]:
            publish(api, "paced.b", range(number, number + KEYS), size=4000)
            number += KEYS
        publish(api, "paced.b", range(number, number + 3 * KEYS), size=4000)
        number += 3 * KEYS
        rows = [b.json() for b in slow.until(lambda block: block.json()[1] == number - 1)]
        assert {key: value for key, value, _ in rows} == newest(range(number))
        assert [value for _, value, _ in rows] == sorted({value for _, value, _ in rows})
        publish(api, "paced.b", range(number, number + 1), keys=1)
        assert slow.event().json()[1] == number
