"""Who is in a channel, over both wires and from two nodes, with real connections.

What a node tells another takes a moment. Tests of two nodes wait for it; on one node what has been
answered is so.
"""

import itertools
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import pytest

from tests import ROOT
from tests.plain import Api, Stream, Talk, ask, connect, get, stream, talk
from tests.servers import Server
from tests.waiting import wait_until

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("--app", "tests.web.nodes:app", cwd=ROOT) as running:
        yield running


@pytest.fixture
def port(server: Server) -> Iterator[int]:
    yield server.port
    for node in ("one", "two"):
        do(server.port, "mend", node=node)
    # Nobody stays, and nobody's traces.
    for node in ("one", "two", "deep"):
        wait_until(lambda: inside(server.port, node)["feeds"] == 0)  # noqa: B023 (asked at once)
        left = inside(server.port, node)
        assert (left["members"], left["listeners"], left["memory"]) == (0, 0, 0)


@pytest.fixture
def one(port: int) -> Iterator[Api]:
    with Api(port, "/one") as opened:
        yield opened


@pytest.fixture
def two(port: int) -> Iterator[Api]:
    with Api(port, "/two") as opened:
        yield opened


@pytest.fixture
def room() -> str:
    """A channel that no other test uses."""
    return f"rooms.{next(_numbers)}"


def do(port: int, action: str, **query: str) -> None:
    with connect(port) as sock:
        sock.sendall(get(f"/do/{action}?{urlencode(query)}", method="POST", connection="close"))
        assert sock.recv(100).startswith(b"HTTP/1.1 200")


def inside(port: int, node: str) -> Any:
    return json.loads(ask(port, f"/inside?node={node}")[1])


def present(api: Api, room: str) -> dict[str, Any]:
    """Who is there, by client."""
    members: dict[str, Any] = api.result("presence", channel=room)["presence"]
    return members


def users(api: Api, room: str) -> list[str]:
    return sorted(member["user"] for member in present(api, room).values())


def sse(
    port: int, room: str, user: str = "", node: str = "one", **more: str
) -> AbstractContextManager[Stream]:
    query = "".join(f"&{name}={quote(value)}" for name, value in more.items())
    return stream(port, f"/{node}/sse?channel={room}&user={user}{query}")


def ws(port: int, user: str = "", node: str = "one", **more: str) -> AbstractContextManager[Talk]:
    query = "".join(f"&{name}={quote(value)}" for name, value in more.items())
    return talk(port, f"/{node}/ws?user={user}{query}")


def subscribe(talking: Talk, channel: str, **request: Any) -> dict[str, Any]:
    result: dict[str, Any] = talking.ask(subscribe={"channel": channel, **request})["subscribe"]
    return result


@contextmanager
def member(port: int, room: str, user: str, node: str = "one") -> Iterator[Talk]:
    with ws(port, user, node) as talking:
        subscribe(talking, room)
        yield talking


class Watch:
    """Somebody who is there and hears who joins and leaves."""

    def __init__(self, talking: Talk, room: str) -> None:
        self.talking = talking
        self.room = room
        self.client = talking.result["client"]
        subscribe(talking, room, join_leave=True)
        assert self.next() == ("+", "watch")

    def next(self) -> tuple[str, str]:
        """What it is told next: who has joined or left."""
        push = self.talking.push()
        assert push["channel"] == self.room
        (kind,) = push.keys() - {"channel"}
        return {"join": "+", "leave": "-"}[kind], push[kind]["info"]["user"]


@contextmanager
def watch(port: int, room: str, node: str = "one") -> Iterator[Watch]:
    with ws(port, "watch", node) as talking:
        yield Watch(talking, room)


# Asking


def test_a_websocket_is_asked_who_is_there_and_told_by_the_client_id(
    port: int, one: Api, room: str
) -> None:
    with ws(port, "ada", info='{"name": "Ada"}') as ada, ws(port, "bob") as bob:
        subscribe(ada, room)
        subscribe(bob, room)
        a, b = ada.result["client"], bob.result["client"]
        said = {
            a: {"user": "ada", "client": a, "conn_info": {"name": "Ada"}},
            b: {"user": "bob", "client": b},
        }
        assert bob.ask(presence={"channel": room})["presence"] == {"presence": said}
        assert present(one, room) == said
        counts = {"num_clients": 2, "num_users": 2}
        assert bob.ask(presence_stats={"channel": room})["presence_stats"] == counts
        assert one.result("presence_stats", channel=room) == counts


def test_in_an_empty_channel_nobody_is(port: int, one: Api, room: str) -> None:
    with ws(port) as talking:
        assert talking.ask(presence={"channel": room})["presence"] == {"presence": {}}
        assert talking.ask(presence_stats={"channel": room})["presence_stats"] == {
            "num_clients": 0,
            "num_users": 0,
        }
    assert present(one, room) == {}


def test_one_user_with_two_clients_is_two_clients_and_one_user(
    port: int, one: Api, room: str
) -> None:
    with member(port, room, "ada"), sse(port, room, "ada"), sse(port, room), sse(port, room):
        counts = {"num_clients": 4, "num_users": 2}
        assert one.result("presence_stats", channel=room) == counts


@pytest.mark.parametrize("command", ["presence", "presence_stats"])
def test_where_no_rule_says_so_nobody_is_told_who_is_there(
    port: int, one: Api, command: str
) -> None:
    with ws(port) as talking, ws(port) as other:
        for channel in ("plain.a", "rooms.closed.a"):
            subscribe(talking, channel, join_leave=True)
            subscribe(other, channel)
            error = talking.ask(**{command: {"channel": channel}})["error"]
            assert error["code"] == 108
            assert "presence = true" in error["message"]
            status, answer = one.post(command, {"channel": channel})
            assert (status, answer["error"]["code"]) == (200, 108)
        assert inside(port, "one")["members"] == inside(port, "one")["listeners"] == 0
        # Nothing has been pushed either.
        one.publish("plain.a", 1)
        assert "pub" in talking.push()


@pytest.mark.parametrize("command", ["presence", "presence_stats"])
def test_who_may_not_read_a_channel_is_not_told_who_does(port: int, one: Api, command: str) -> None:
    with ws(port) as talking:
        assert talking.ask(**{command: {"channel": "secret.a"}})["error"]["code"] == 103
        assert talking.ask(**{command: {"channel": "rooms.*"}})["error"]["code"] == 107
        assert talking.ask(**{command: {}})["error"]["code"] == 107
    for channel in ("rooms.*", ""):
        assert one.post(command, {"channel": channel})[1]["error"]["code"] == 107


def test_more_than_an_answer_may_list_are_counted_and_not_listed(
    port: int, one: Api, room: str
) -> None:
    with ExitStack() as stack:
        for _ in range(21):
            stack.enter_context(sse(port, room))
        answer = one.post("presence", {"channel": room})[1]
        assert answer["error"] == {
            "code": 106,
            "message": "limit exceeded: 21 clients, 20 are listed (presence_members)",
        }
        assert one.result("presence_stats", channel=room)["num_clients"] == 21


# Who is a member


def test_an_event_stream_is_a_member_of_each_of_its_channels_by_one_id(
    port: int, one: Api, room: str
) -> None:
    with sse(port, room, "ada", channel=f"{room}.b", info="7"):
        ((client, said),) = present(one, room).items()
        assert said == {"user": "ada", "client": client, "conn_info": 7}
        assert present(one, f"{room}.b") == {client: said}


def test_a_subscription_to_a_pattern_is_no_member_of_what_it_matches(
    port: int, one: Api, room: str
) -> None:
    with sse(port, f"{room}.*"), ws(port) as talking:
        subscribe(talking, f"{room}.>", join_leave=True)
        assert present(one, f"{room}.a") == {}
        with sse(port, f"{room}.a", "ada"):
            assert users(one, f"{room}.a") == ["ada"]
            assert inside(port, "one")["members"] == 1


def test_a_head_request_is_nobody(port: int, one: Api, room: str) -> None:
    assert ask(port, f"/one/sse?channel={room}", method="HEAD")[0].status == 200
    assert present(one, room) == {}


def test_a_client_is_a_member_also_at_a_pace_and_leaves_alike(
    port: int, one: Api, room: str
) -> None:
    with ws(port, "ada") as talking:
        subscribe(talking, room, data={"mode": "latest", "max_age": 50})
        subscribe(talking, f"{room}.b", data={"mode": "latest"})
        assert users(one, room) == users(one, f"{room}.b") == ["ada"]
        talking.ask(unsubscribe={"channel": room})
        assert users(one, room) == []
        assert users(one, f"{room}.b") == ["ada"]


def test_what_others_see_of_a_client_is_in_what_it_publishes(port: int, room: str) -> None:
    with sse(port, room, format="event"), ws(port, "ada", info='{"name":"Ada"}') as talking:
        subscribe(talking, room)
        talking.ask(publish={"channel": room, "data": 1})
        assert talking.pub()["info"] == {
            "user": "ada",
            "client": talking.result["client"],
            "conn_info": {"name": "Ada"},
        }


# Hearing of it


def test_who_asks_for_it_hears_who_joins_and_leaves_itself_too(port: int, room: str) -> None:
    with watch(port, room) as watching, ws(port, "ada", info="[1]") as ada:
        subscribe(ada, room)
        a = ada.result["client"]
        info = {"user": "ada", "client": a, "conn_info": [1]}
        assert watching.talking.push() == {"channel": room, "join": {"info": info}}
        ada.ask(unsubscribe={"channel": room})
        assert watching.talking.push() == {"channel": room, "leave": {"info": info}}


def test_the_answer_to_a_subscription_comes_before_any_push_of_its_channel(
    port: int, room: str
) -> None:
    with ws(port) as talking:
        rooms = [f"{room}.{n}" for n in range(50)]
        talking.say(
            *(
                {"id": 100 + n, "subscribe": {"channel": name, "join_leave": True}}
                for n, name in enumerate(rooms)
            )
        )
        for n in range(50):
            assert "subscribe" in talking.reply(100 + n)
        assert talking.pushes == []
        assert [push["channel"] for push in talking.pushed(50)] == rooms


def test_who_does_not_ask_hears_nothing_of_it(port: int, one: Api, room: str) -> None:
    with (
        watch(port, room) as watching,
        member(port, room, "quiet") as quiet,
        sse(port, room, "stream") as streaming,
    ):
        assert sorted(watching.next() for _ in range(2)) == [("+", "quiet"), ("+", "stream")]
        with member(port, room, "ada"):
            assert watching.next() == ("+", "ada")
        assert watching.next() == ("-", "ada")
        one.publish(room, "said")
        assert quiet.pub()["data"] == "said"
        assert streaming.event().data == '"said"'


def test_an_event_stream_hears_of_it_if_it_asks_as_control_events_without_an_id(
    port: int, one: Api, room: str
) -> None:
    with sse(port, room, "ada", join_leave="1") as streaming:
        assert said(streaming)[:2] == ("join", "ada")
        with ws(port, "bob", info='{"a":"b\\nc"}') as bob:
            subscribe(bob, room)
            block = streaming.next()
            assert (block.id, block.event) == (None, "join")
            assert block.json() == {
                "channel": room,
                "info": {
                    "user": "bob",
                    "client": bob.result["client"],
                    "conn_info": {"a": "b\nc"},
                },
            }
        assert said(streaming) == ("leave", "bob", room)
        position = one.publish(room, 1)
        assert streaming.event().id == position


def said(streaming: Stream) -> tuple[str, str, str]:
    """The next join or leave of a stream: who, and where."""
    block = streaming.event()
    assert block.event in ("join", "leave")
    told = block.json()
    return block.event, told["info"]["user"], told["channel"]


def test_a_compressed_stream_hears_of_it_in_its_compression(port: int, room: str) -> None:
    path = f"/one/sse?channel={room}&join_leave=1&user=ada"
    with stream(port, path, accept_encoding="gzip") as streaming:
        assert streaming.response.headers["content-encoding"] == "gzip"
        assert said(streaming) == ("join", "ada", room)


def test_a_parameter_that_cannot_be_is_refused(port: int) -> None:
    response, body = ask(port, "/one/sse?channel=rooms.a&join_leave=yes")
    assert response.status == 400
    assert b"join_leave='yes' is not one of 0, 1" in body


# Leaving: whatever ends a subscription, it is told once


class Way(NamedTuple):
    """How somebody called ada comes to be in a room, and how that ends."""

    enter: Callable[[int, str], AbstractContextManager[Any]]
    leave: Callable[[int, Api, str, Any], object]


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def by_ws(port: int, room: str) -> AbstractContextManager[Any]:
    return member(port, room, "ada")


def by_sse(port: int, room: str) -> AbstractContextManager[Any]:
    return sse(port, room, "ada")


def by_sse_of_two(port: int, room: str) -> AbstractContextManager[Any]:
    return sse(port, room, "ada", channel="plain.a")


def order(method: str, **fields: Any) -> Callable[[int, Api, str, Any], object]:
    return lambda port, api, room, ada: api.result(method, user="ada", **fields)


def left_room(port: int, api: Api, room: str, ada: Any) -> object:
    return api.result("unsubscribe", user="ada", channel=room)


def bad_frame(port: int, api: Api, room: str, ada: Talk) -> object:
    ada.say({"id": 5})
    return ada.socket.closed()


WAYS = {
    "it unsubscribes": Way(by_ws, lambda p, a, room, ada: ada.ask(unsubscribe={"channel": room})),
    "its socket ends": Way(by_ws, lambda p, a, r, ada: ada.socket.sock.shutdown(socket.SHUT_WR)),
    "its socket breaks": Way(by_ws, lambda p, a, r, ada: _reset(ada.socket.sock)),
    "it breaks the protocol": Way(by_ws, bad_frame),
    "its events are gone": Way(by_ws, lambda port, a, r, ada: do(port, "forget", node="one")),
    "it is unsubscribed": Way(by_ws, left_room),
    "it is disconnected": Way(by_ws, order("disconnect")),
    "it has expired": Way(by_ws, order("refresh", expired=True)),
    "it expires": Way(by_ws, order("refresh", expire_at=1)),
    "a stream's socket ends": Way(by_sse, lambda p, a, r, ada: ada.sock.close()),
    "a stream's socket breaks": Way(by_sse, lambda p, a, r, ada: _reset(ada.sock)),
    "a stream is unsubscribed": Way(by_sse, left_room),
    "a stream is unsubscribed from one of two": Way(by_sse_of_two, left_room),
    "a stream is disconnected": Way(by_sse, order("disconnect")),
    "a stream has expired": Way(by_sse, order("refresh", expired=True)),
}


@pytest.mark.parametrize("why", WAYS)
def test_who_leaves_for_whatever_reason_is_gone_at_once_and_said_to_have_left_once(
    port: int, one: Api, two: Api, room: str, why: str
) -> None:
    # The one who watches is at the other node, whom what happens here does not touch.
    with watch(port, room, "two") as watching:
        with WAYS[why].enter(port, room) as ada:
            assert watching.next() == ("+", "ada")
            WAYS[why].leave(port, one, room, ada)
            assert watching.next() == ("-", "ada")
            assert users(one, room) == users(two, room) == ["watch"]
        # Nothing more comes of its connection's end.
        with member(port, room, "next"):
            assert watching.next() == ("+", "next")


def test_a_stream_that_goes_on_after_a_gap_stays_a_member(port: int, one: Api, room: str) -> None:
    with sse(port, room, "ada") as streaming:
        do(port, "forget", node="one")
        assert streaming.event().event == "gap"
        assert users(one, room) == ["ada"]


def test_a_client_whose_subscription_a_gap_has_ended_may_come_back(
    port: int, one: Api, room: str
) -> None:
    with member(port, room, "ada") as ada:
        subscribe(ada, f"{room}.b", data={"mode": "latest", "max_age": 50})
        do(port, "forget", node="one")
        ended = {push["channel"]: push["unsubscribe"]["code"] for push in ada.pushed(2)}
        assert ended == {room: 2500, f"{room}.b": 2500}
        assert users(one, room) == users(one, f"{room}.b") == []
        subscribe(ada, room)
        assert users(one, room) == ["ada"]


def test_a_subscription_that_begins_with_what_only_the_broker_has_is_one_as_any_other(
    port: int, room: str
) -> None:
    with Api(port, "/deep") as deep, ws(port, "ada", "deep") as ada:
        first = deep.publish(room, 0)
        deep.publish_all([(room, n) for n in range(1, 10)])
        epoch, offset = first.split("-")
        back = {"recover": True, "epoch": epoch, "offset": int(offset), "join_leave": True}
        assert subscribe(ada, room, **back)["recovered"]
        assert users(deep, room) == ["ada"]
        told = ada.pushed(10)
        assert [push["pub"]["data"] for push in told if "pub" in push] == list(range(1, 10))
        (joined,) = [push["join"]["info"]["user"] for push in told if "join" in push]
        assert joined == "ada"
        ada.ask(unsubscribe={"channel": room})
        assert users(deep, room) == []
        subscribe(ada, room, **back)
        assert users(deep, room) == ["ada"]
        deep.result("unsubscribe", user="ada", channel=room)
        while "unsubscribe" not in ada.push():
            pass
        assert users(deep, room) == []
        # More than the broker gives: it begins anew, and is there all the same.
        assert "recovered" not in subscribe(ada, room, recover=True, epoch="1", offset=1)
        assert users(deep, room) == ["ada"]


# Two nodes


def test_both_nodes_know_of_the_members_of_both(port: int, one: Api, two: Api, room: str) -> None:
    with (
        watch(port, room, "one") as here,
        member(port, room, "ada", "one"),
        sse(port, room, "bob", "two", info='{"n":1}'),
    ):
        assert sorted(here.next() for _ in range(2)) == [("+", "ada"), ("+", "bob")]
        wait_until(lambda: users(two, room) == ["ada", "bob", "watch"])
        assert present(one, room) == present(two, room)
        (bob,) = [m for m in present(one, room).values() if m["user"] == "bob"]
        assert bob["conn_info"] == {"n": 1}
        counts = {"num_clients": 3, "num_users": 3}
        assert two.result("presence_stats", channel=room) == counts
    wait_until(lambda: users(one, room) == users(two, room) == [])


def test_who_changes_the_node_is_there_once(port: int, one: Api, two: Api, room: str) -> None:
    with watch(port, room, "two") as watching:
        with member(port, room, "ada", "one"):
            assert watching.next() == ("+", "ada")
        with member(port, room, "ada", "two"):
            assert sorted(watching.next() for _ in range(2)) == [("+", "ada"), ("-", "ada")]
            wait_until(lambda: users(one, room) == users(two, room) == ["ada", "watch"])


def test_a_node_that_is_cut_off_takes_its_members_with_it_and_brings_them_back(
    port: int, one: Api, two: Api, room: str
) -> None:
    with watch(port, room, "two") as watching, member(port, room, "ada", "one"):
        assert watching.next() == ("+", "ada")
        do(port, "cut", node="one")
        assert watching.next() == ("-", "ada")
        assert users(two, room) == ["watch"]
        # To each of them it is the other one that is gone.
        wait_until(lambda: users(one, room) == ["ada"])
        with member(port, room, "bob", "one"):
            assert len(two.result("info")["nodes"]) == 1
            do(port, "mend", node="one")
            assert sorted(watching.next() for _ in range(2)) == [("+", "ada"), ("+", "bob")]
            wait_until(lambda: users(one, room) == ["ada", "bob", "watch"])
            assert len(two.result("info")["nodes"]) == 2


def test_who_comes_and_goes_while_a_node_is_cut_off_for_a_moment_is_found_out(
    port: int, one: Api, two: Api, room: str
) -> None:
    with member(port, room, "ada", "one"), ExitStack() as bob, ExitStack() as eve:
        bob.enter_context(member(port, room, "bob", "one"))
        wait_until(lambda: users(two, room) == ["ada", "bob"])
        do(port, "cut", node="one")
        bob.close()
        eve.enter_context(member(port, room, "eve", "one"))
        # What is told now is lost: the members have another version then.
        wait_until(lambda: users(one, room) == ["ada", "eve"])
        do(port, "mend", node="one")
        wait_until(lambda: users(two, room) == ["ada", "eve"])


def test_info_lists_all_nodes_with_what_each_says_of_itself(
    port: int, one: Api, two: Api, room: str
) -> None:
    with sse(port, room, node="two"), sse(port, room, node="two"):
        wait_until(lambda: [node["num_clients"] for node in one.result("info")["nodes"]] == [0, 2])
        first, second = one.result("info")["nodes"]
        assert (first["name"], second["name"]) == ("one", "two")
        assert first["uid"] != second["uid"]
        assert first["version"] == second["version"]
        assert second["uptime"] >= 0
        assert [node["name"] for node in two.result("info")["nodes"]] == ["two", "one"]


def test_what_is_no_notice_is_passed_over_with_one_line(
    server: Server, port: int, one: Api, two: Api, room: str
) -> None:
    for _ in range(3):
        for notice in ("hello", "twinwire 1 x", "twinwire 2 x", ""):
            do(port, "tell", notice=notice)
    with member(port, room, "ada", "one"):
        wait_until(lambda: users(two, room) == ["ada"])
    # One of each node.
    assert server.output.count("a notice that cannot be read was passed over") == 2
    assert "Traceback" not in server.output


# What the backend orders


@pytest.mark.parametrize("node", ["one", "two"])
def test_a_user_is_disconnected_on_both_wires_wherever_it_is(
    port: int, one: Api, room: str, node: str
) -> None:
    with (
        member(port, room, "ada", node) as ada,
        sse(port, room, "ada", node) as streaming,
        member(port, room, "bob", node) as bob,
    ):
        assert one.result("disconnect", user="ada") == {}
        closed = ada.socket.closed()
        assert (closed.code, closed.reason) == (3503, "force disconnect")
        (last,) = streaming.rest()
        assert last.event == "error"
        assert last.json() == {"code": 3503, "reason": "force disconnect"}
        assert "ping" in bob.ask(ping={})


def test_a_client_is_disconnected_by_its_id_and_others_of_its_user_are_not(
    port: int, one: Api, room: str
) -> None:
    with ws(port, "ada", "two") as ada, ws(port, "ada") as other:
        one.result("disconnect", client=ada.result["client"], user="bob")
        assert "ping" in ada.ask(ping={})
        one.result("disconnect", client=ada.result["client"], user="ada")
        assert ada.socket.closed().code == 3503
        assert "ping" in other.ask(ping={})
        one.result("disconnect", client=other.result["client"])
        assert other.socket.closed().code == 3503


def test_a_stream_is_disconnected_by_the_id_that_presence_tells(
    port: int, one: Api, room: str
) -> None:
    with sse(port, room, "ada", node="two") as streaming:
        wait_until(lambda: users(one, room) == ["ada"])
        (client,) = present(one, room)
        one.result("disconnect", client=client)
        assert streaming.rest()[-1].event == "error"


def test_those_on_the_whitelist_stay(port: int, one: Api, room: str) -> None:
    with ws(port, "ada") as ada, ws(port, "ada") as spared:
        one.result("disconnect", user="ada", whitelist=[spared.result["client"]], session="x")
        assert ada.socket.closed().code == 3503
        assert "ping" in spared.ask(ping={})


@pytest.mark.parametrize(
    ("code", "reason", "event"),
    [
        (3000, "connection closed", "reconnect"),
        (3012, "as I say", "reconnect"),
        (4000, "moved: ü", "reconnect"),
        (4500, "banned", "error"),
    ],
)
def test_the_backend_says_why_in_its_own_words(
    port: int, one: Api, room: str, code: int, reason: str, event: str
) -> None:
    for node in ("one", "two"):
        with ws(port, "ada", node) as ada, sse(port, room, "ada", node) as streaming:
            why = {"code": code, "reason": reason}
            one.result("disconnect", user="ada", disconnect=why)
            closed = ada.socket.closed()
            assert (closed.code, closed.reason) == (code, reason)
            (last,) = streaming.rest()
            assert last.event == event
            assert (last.json()["code"], last.json()["reason"]) == (code, reason)


@pytest.mark.parametrize(
    ("method", "request_", "text"),
    [
        ("disconnect", {}, "say a user, a client or both"),
        ("disconnect", {"user": "", "client": ""}, "say a user"),
        ("unsubscribe", {"channel": "a"}, "say a user"),
        ("refresh", {"expired": True}, "say a user"),
        ("unsubscribe", {"user": "ada"}, "it is empty"),
        ("unsubscribe", {"user": "ada", "channel": "a..b"}, "single dots"),
        ("disconnect", {"user": "ada", "disconnect": {"code": 1000, "reason": "x"}}, "no code"),
        ("disconnect", {"user": "ada", "disconnect": {"code": 5000, "reason": "x"}}, "no code"),
        ("disconnect", {"user": "ada", "disconnect": {"code": 4000}}, "say one"),
        (
            "disconnect",
            {"user": "ada", "disconnect": {"code": 4000, "reason": "x" * 124}},
            "at most 123 bytes",
        ),
        (
            "disconnect",
            {"user": "ada", "disconnect": {"code": 4000, "reason": "a\nb"}},
            "printable",
        ),
    ],
)
def test_an_order_that_cannot_be_meant_is_refused(
    one: Api, method: str, request_: dict[str, Any], text: str
) -> None:
    status, answer = one.post(method, request_)
    assert (status, answer["error"]["code"]) == (200, 107)
    assert text in answer["error"]["message"]


def test_orders_can_be_in_a_batch(port: int, one: Api, room: str) -> None:
    with member(port, room, "ada") as ada:
        commands = [
            {"presence_stats": {"channel": room}},
            {"disconnect": {"user": "ada"}},
            {"presence_stats": {"channel": room}},
            {"unsubscribe": {"channel": room}},
        ]
        _, answer = one.post("batch", {"commands": commands})
        replies = answer["replies"]
        assert replies[0] == {"presence_stats": {"num_clients": 1, "num_users": 1}}
        assert replies[1] == {"disconnect": {}}
        assert replies[2] == {"presence_stats": {"num_clients": 0, "num_users": 0}}
        assert replies[3]["error"]["code"] == 107
        assert ada.socket.closed().code == 3503


@pytest.mark.parametrize("node", ["one", "two"])
def test_a_client_is_unsubscribed_and_told_and_may_subscribe_again(
    port: int, one: Api, room: str, node: str
) -> None:
    with ws(port, "ada", node) as ada:
        for channel in (room, f"{room}.b", f"{room}.c.*"):
            subscribe(ada, channel)
        subscribe(ada, f"{room}.d", data={"mode": "latest", "max_age": 10})
        for channel in (room, f"{room}.c.*", f"{room}.d"):
            assert one.result("unsubscribe", user="ada", channel=channel) == {}
            assert ada.push() == {
                "channel": channel,
                "unsubscribe": {"code": 2000, "reason": "server unsubscribe"},
            }
        # It had none of these.
        one.result("unsubscribe", user="ada", channel=f"{room}.c.x")
        one.result("unsubscribe", user="ada", channel=room)
        for channel in (room, f"{room}.c.x", f"{room}.d", f"{room}.b"):
            one.publish(channel, channel)
        assert ada.pub()["data"] == f"{room}.b"
        subscribe(ada, room)
        one.publish(room, "again")
        assert ada.pub()["data"] == "again"


@pytest.mark.parametrize("node", ["one", "two"])
def test_a_stream_is_told_of_a_channel_that_is_taken_from_it_and_goes_on_with_the_others(
    port: int, one: Api, room: str, node: str
) -> None:
    path = f"/{node}/sse?user=ada&channel={room}&channel={room}.b&channel={room}.c.*&format=event"
    with stream(port, path) as streaming:
        one.publish(room, 1)
        assert streaming.event().json()["channel"] == room
        for channel in (room, f"{room}.c.*"):
            one.result("unsubscribe", user="ada", channel=channel)
            block = streaming.event()
            assert (block.id, block.event) == (None, "unsubscribe")
            assert block.json() == {
                "channel": channel,
                "code": 2000,
                "reason": "server unsubscribe",
            }
        one.publish(room, 2)
        one.publish(f"{room}.c.x", 3)
        last = one.publish(f"{room}.b", 4)
        assert streaming.event().id == last
        one.result("unsubscribe", user="ada", channel=f"{room}.b")
        assert [block.event for block in streaming.rest() if block.data] == ["unsubscribe", "error"]


@pytest.mark.parametrize("node", ["one", "two"])
def test_a_connection_ends_when_it_expires_and_not_before(
    port: int, one: Api, room: str, node: str
) -> None:
    with ws(port, "ada", node) as ada, sse(port, room, "ada", node) as streaming:
        at = int(time.time()) + 2
        assert one.result("refresh", user="ada", expire_at=at) == {}
        closed = ada.socket.closed()
        assert (closed.code, closed.reason) == (3005, "connection expired")
        last = streaming.rest()[-1]
        assert (last.event, last.json()["code"]) == ("reconnect", 3005)
        assert at - 0.1 < time.time() < at + 2


def test_a_connection_that_is_refreshed_again_does_not_end(port: int, one: Api, room: str) -> None:
    with ws(port, "ada") as ada, sse(port, room, "ada") as streaming, ws(port, "bob") as bob:
        at = int(time.time()) + 1
        for user in ("ada", "bob"):
            one.result("refresh", user=user, expire_at=at)
        one.result("refresh", user="ada")
        assert bob.socket.closed().code == 3005
        assert "ping" in ada.ask(ping={})
        position = one.publish(room, 1)
        assert streaming.event().id == position
