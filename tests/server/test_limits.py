"""Limits: what is over one of them is told which, and the rest goes on."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest

from tests import ROOT
from tests.plain import TEXT, Api, Response, Socket, Talk, ask, connect, get, stream, talk
from tests.servers import Server
from tests.waiting import wait_until


def serve(*settings: str) -> Server:
    flags = [part for setting in settings for part in ("--set", setting)]
    return Server(*flags, cwd=ROOT)


def refused(port: int, path: str = "/sse?channel=a") -> Response:
    """The answer to somebody who is one too many."""
    with connect(port) as sock:
        sock.sendall(get(path))
        response = Response(sock)
        response.body()
        return response


# Connections


@pytest.fixture(scope="module")
def few() -> Iterator[Server]:
    with serve("connections=6") as server:
        yield server


def has_room(port: int) -> bool:
    return refused(port, "/ready").status == 200


@contextmanager
def crowd(port: int) -> Iterator[ExitStack]:
    """Six connections of all kinds: streams, WebSockets, and one that has said nothing yet."""
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(stream(port, "/sse?channel=a"))
        for _ in range(2):
            stack.enter_context(talk(port)).ask(subscribe={"channel": "a"})
        silent = stack.enter_context(closing(connect(port)))
        silent.sendall(b"GET /sse?channel=a HT")
        wait_until(lambda: not has_room(port))
        yield stack


@pytest.mark.parametrize("path", ["/sse?channel=a", "/ready", "/api/info"])
def test_over_the_limit_of_connections_whoever_comes_is_told_so_with_503(
    few: Server, path: str
) -> None:
    wait_until(lambda: has_room(few.port))
    with crowd(few.port):
        response = refused(few.port, path)
        assert response.status == 503
        assert response.headers["retry-after"] == "1"
        assert response.headers["connection"] == "close"


def test_websockets_count_as_connections_and_are_refused_like_others(few: Server) -> None:
    wait_until(lambda: has_room(few.port))
    with crowd(few.port), connect(few.port) as sock:
        opened = Socket(sock, "/ws")
        assert opened.response.status == 503
        assert b"connections" in opened.response.body()


def test_one_too_many_with_much_to_say_still_hears_why(few: Server) -> None:
    wait_until(lambda: has_room(few.port))
    with crowd(few.port), connect(few.port) as sock:
        for _ in range(20):
            sock.sendall(b"x" * 10_000)
        response = Response(sock)
        assert response.status == 503
        assert response.body() == b"too many connections (connections), retry.\n"


def test_those_who_are_in_notice_nothing_and_who_leaves_makes_room(few: Server) -> None:
    port = few.port
    wait_until(lambda: has_room(port))
    with Api(port) as api, stream(port, "/sse?channel=b") as reader, ExitStack() as stack:
        api.publish("b", 0)
        for _ in range(4):
            stack.enter_context(stream(port, "/sse?channel=a"))
        for _ in range(20):
            assert refused(port).status == 503
        position = api.publish("b", 1)
        assert [block.data for block in reader.events(2)] == ["0", "1"]
        stack.close()
        wait_until(lambda: has_room(port))
        with stream(port, "/sse?channel=b", last_event_id=position) as again:
            api.publish("b", 2)
            assert again.event().data == "2"


# Streams of one address


@pytest.fixture(scope="module")
def crowded() -> Iterator[Server]:
    with serve("connections_per_address=3", "connect_timeout=30") as server:
        yield server


def test_streams_of_one_address_are_limited_on_both_wires_together_and_the_limit_named(
    crowded: Server,
) -> None:
    port = crowded.port
    with stream(port, "/sse?channel=a"), stream(port, "/sse?channel=a"), talk(port):
        response, body = ask(port, "/sse?channel=a")
        assert response.status == 429
        assert json.loads(body)["error"]["code"] == 106
        assert "3 are allowed (connections_per_address)" in json.loads(body)["error"]["message"]
        with connect(port) as sock:
            closed = Socket(sock, "/ws").closed()
            assert (closed.code, closed.reason) == (3504, "connection limit")
        assert ask(port, "/ready")[0].status == 200
    wait_until(lambda: ask(port, "/sse?channel=a", method="HEAD")[0].status == 200)


def test_a_stream_that_ends_makes_room_for_another_of_its_address(crowded: Server) -> None:
    port = crowded.port
    for _ in range(5):
        wait_until(lambda: ask(port, "/sse?channel=a", method="HEAD")[0].status == 200)
        with stream(port, "/sse?channel=a") as one, talk(port) as two:
            assert one.response.status == 200
            assert two.result["client"]


# What all subscriptions together take


def test_over_the_limit_of_memory_no_more_is_subscribed_to_and_who_leaves_makes_room() -> None:
    with serve(f"feeds_bytes={1 << 20}", "channels_per_connection=2000") as server:
        port = server.port
        with talk(port) as talking, stream(port, "/sse?channel=a") as reader, Api(port) as api:
            answer: dict[str, Any] = {"subscribe": {}}
            count = 0
            while "subscribe" in answer:
                count += 1
                answer = talking.ask(subscribe={"channel": f"channel.{count}"})
                assert count < 2000
            assert count > 1000
            assert answer["error"]["code"] == 106
            assert "feeds_bytes" in answer["error"]["message"]
            refused_one = refused(port)
            assert refused_one.status == 503
            assert refused_one.headers["retry-after"] == "1"
            # An EventSource would give up for good after that.
            with stream(port, "/sse?channel=a", accept="text/event-stream", primed=False) as told:
                assert told.rest()[-1].event == "reconnect"
            # Those who are in go on.
            api.publish_all([("a", 1), ("channel.1", 2)])
            assert reader.event().json() == 1
            assert talking.pub()["data"] == 2
        wait_until(lambda: refused_or_not(port) == 200)


def refused_or_not(port: int) -> int:
    return ask(port, "/sse?channel=a", method="HEAD")[0].status


# Commands


@pytest.fixture(scope="module")
def busy() -> Iterator[Server]:
    with serve("commands_per_second=20") as server:
        yield server


def test_commands_over_their_rate_are_refused_for_now_and_taken_again_later(busy: Server) -> None:
    with talk(busy.port) as talking:
        answers = [talking.ask(ping={}) for _ in range(60)]
        refused = [answer["error"] for answer in answers if "error" in answer]
        assert len(refused) >= 60 - 20 - 20
        assert {error["code"] for error in refused} == {111}
        assert all(error["temporary"] for error in refused)
        assert "20 a second (commands_per_second)" in refused[0]["message"]
        wait_until(lambda: "ping" in talking.ask(ping={}))


def test_many_commands_in_one_frame_are_counted_one_by_one(busy: Server) -> None:
    with talk(busy.port) as talking:
        talking.say(*({"id": n, "ping": {}} for n in range(1001, 1101)))
        answers = [talking.reply(n) for n in range(1001, 1101)]
    assert 20 <= sum("ping" in answer for answer in answers) <= 25


def test_messages_over_the_rate_which_cannot_be_answered_end_the_connection(busy: Server) -> None:
    with talk(busy.port) as talking:
        talking.say(*({"send": {"data": n}} for n in range(100)))
        assert talking.socket.closed().code == 3013


def test_one_who_is_over_its_rate_takes_nothing_from_another(busy: Server) -> None:
    with talk(busy.port) as loud, talk(busy.port) as other:
        while "error" not in loud.ask(ping={}):
            continue
        assert "ping" in other.ask(ping={})


# Lifetime


@pytest.fixture(scope="module")
def mortal() -> Iterator[Server]:
    with serve("lifetime=1") as server:
        yield server


def test_at_the_end_of_its_lifetime_a_stream_is_told_to_come_back_whatever_its_heartbeat(
    mortal: Server,
) -> None:
    with Api(mortal.port) as api, stream(mortal.port, "/sse?channel=a") as reader:
        position = api.publish("a", 1)
        first, last = reader.rest()
    assert first.id == position
    assert last.event == "reconnect"
    assert (last.json()["code"], last.json()["reason"]) == (3011, "force reconnect")
    assert last.retry == last.json()["retry"]


def test_at_the_end_of_its_lifetime_a_websocket_is_told_to_come_back(mortal: Server) -> None:
    with talk(mortal.port) as talking:
        talking.ask(subscribe={"channel": "a"})
        closed = talking.socket.closed()
    assert (closed.code, closed.reason) == (3011, "force reconnect")


def test_lifetimes_are_spread(mortal: Server) -> None:
    with ExitStack() as stack, Api(mortal.port) as api:
        opened = [stack.enter_context(stream(mortal.port, "/sse?channel=b")) for _ in range(20)]
        # One publishes until nobody is left: the last event of each tells when it ended.
        number = 0
        left = 20
        while left:
            api.publish("b", number)
            number += 1
            left = api.result("channels")["channels"]["b"]["num_clients"]
        ends = {[b.json() for b in each.rest() if b.data and not b.event][-1] for each in opened}
    assert len(ends) > 3


# A message that is too large ends the conversation; what is just as large as allowed does not.


def test_a_message_over_its_limit_ends_the_conversation_with_1009() -> None:
    with serve("message_max_bytes=1024") as server, talk(server.port) as talking:
        talking.socket.send(TEXT, b'{"id":9,"ping":{}}' + b" " * 1006)
        assert talking.reply(9) == {"id": 9, "ping": {}}
        talking.socket.send(TEXT, b'{"id":9,"ping":{}}' + b" " * 1007)
        assert talking.socket.closed().code == 1009


def test_channels_of_one_connection_are_limited_whatever_their_pace() -> None:
    with serve("channels_per_connection=3") as server, talk(server.port) as talking:
        for n in range(3):
            data = {"mode": "latest", "max_age": 1000} if n else {}
            assert "subscribe" in talking.ask(subscribe={"channel": f"c{n}", "data": data})
        error = talking.ask(subscribe={"channel": "c3", "data": {"mode": "latest"}})["error"]
        assert error["code"] == 106
        assert "3 channels (channels_per_connection)" in error["message"]
        talking.ask(unsubscribe={"channel": "c1"})
        assert "subscribe" in talking.ask(subscribe={"channel": "c3"})


def test_a_conversation_is_not_one_before_it_has_begun() -> None:
    with serve("connect_timeout=1", "connections_per_address=1") as server:
        with connect(server.port) as sock:
            stale = Talk(Socket(sock, "/ws"), connect=False)
            assert stale.socket.closed().code == 3502
        wait_until(lambda: ask(server.port, "/sse?channel=a", method="HEAD")[0].status == 200)
