"""The Centrifuge protocol over WebSocket, frame by frame, from a real server."""

import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests import ROOT
from tests.plain import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Api,
    Frame,
    Socket,
    Talk,
    ask,
    frame,
    socket_to,
    stream,
    talk,
)
from tests.servers import Server


def subscribed(talking: Talk, channel: str, **request: Any) -> dict[str, Any]:
    result: dict[str, Any] = talking.ask(subscribe={"channel": channel, **request})["subscribe"]
    return result


def recover(position: str) -> dict[str, Any]:
    epoch, offset = position.split("-")
    return {"recover": True, "epoch": epoch, "offset": int(offset)}


def position_of(pub: dict[str, Any], result: dict[str, Any]) -> str:
    return f"{result['epoch']}-{pub['offset']}"


# Beginning


@pytest.mark.parametrize(
    "path", ["/ws", "/connection/websocket", "/ws?cf_protocol=json&format=json"]
)
def test_a_connect_is_answered_on_each_path(port: int, path: str) -> None:
    with socket_to(port, path) as socket:
        talking = Talk(socket)
        assert talking.result["client"]
        assert talking.result["version"].startswith("twinwire ")
        assert (talking.result["ping"], talking.result["pong"]) == (25, True)


def test_every_client_has_an_id_of_its_own(port: int) -> None:
    with talk(port) as one, talk(port) as two:
        assert one.result["client"] != two.result["client"]
        assert one.ask(rpc={"method": "who"})["rpc"]["data"] == one.result["client"]


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("centrifuge-json", "centrifuge-json"),
        ("other, centrifuge-json", "centrifuge-json"),
        ("other", None),
    ],
)
def test_the_json_subprotocol_is_taken_when_it_is_offered(
    port: int, offered: str, chosen: str | None
) -> None:
    with socket_to(port, sec_websocket_protocol=offered) as socket:
        assert socket.response.headers.get("sec-websocket-protocol") == chosen
        assert Talk(socket).result


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/ws", {"sec_websocket_protocol": "centrifuge-protobuf"}),
        ("/ws?cf_protocol=protobuf", {}),
        ("/ws?format=protobuf", {}),
    ],
)
def test_the_protobuf_protocol_is_refused_in_so_many_words(
    port: int, path: str, headers: dict[str, str]
) -> None:
    with socket_to(port, path, receive_buffer=0, **headers) as socket:
        closed = socket.closed()
        assert (closed.code, closed.reason) == (3506, "inappropriate protocol")


def test_compression_is_declined(port: int) -> None:
    with socket_to(port, sec_websocket_extensions="permessage-deflate") as socket:
        assert "sec-websocket-extensions" not in socket.response.headers


@pytest.mark.parametrize("path", ["/ws", "/connection/websocket", "/echo"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_request_that_is_no_websocket_is_told_so(port: int, path: str, method: str) -> None:
    response, body = ask(port, path, method=method)
    assert response.status == 400
    if method != "HEAD":
        assert body.decode().startswith(f"{path} speaks WebSocket")


def test_a_websocket_to_a_path_without_one_is_refused(port: int) -> None:
    for path in ("/nothing", "/sse", "/api/publish"):
        with pytest.raises(AssertionError), socket_to(port, path):
            pass


# Subscribing


def test_a_subscriber_gets_what_is_published_after_its_answer(
    port: int, api: Api, channel: str
) -> None:
    head = api.publish("open.other", 1)
    with talk(port) as talking:
        result = subscribed(talking, channel)
        assert result == {
            "recoverable": True,
            "positioned": True,
            "epoch": head.split("-")[0],
            "offset": int(head.split("-")[1]),
        }
        position = api.publish(channel, {"n": 6}, tags={"a": "b"})
        push = talking.push()
        assert push["channel"] == channel
        assert push["pub"].pop("time") > 1_700_000_000_000
        assert push["pub"] == {
            "data": {"n": 6},
            "offset": int(position.split("-")[1]),
            "tags": {"a": "b"},
        }


def test_a_subscriber_of_a_pattern_is_told_each_channel(port: int, api: Api, channel: str) -> None:
    with talk(port) as talking:
        subscribed(talking, f"{channel}.*")
        api.publish(f"{channel}.a.b", 0)
        api.publish(f"{channel}.a", 1)
        api.publish(f"{channel}.b", 2)
        pushes = talking.pushed(2)
        assert [push["channel"] for push in pushes] == [f"{channel}.*"] * 2
        assert [push["pub"]["channel"] for push in pushes] == [f"{channel}.a", f"{channel}.b"]


def test_overlapping_subscriptions_each_get_their_push(port: int, api: Api, channel: str) -> None:
    selectors = (f"{channel}.a", f"{channel}.*", f"{channel}.>")
    with talk(port) as talking:
        for selector in selectors:
            subscribed(talking, selector)
        api.publish(f"{channel}.a", 1)
        api.publish(f"{channel}.a.b", 2)
        pushes = talking.pushed(4)
        assert sorted(push["channel"] for push in pushes[:3]) == sorted(selectors)
        assert {push["pub"]["data"] for push in pushes[:3]} == {1}
        assert pushes[3]["channel"] == f"{channel}.>"


def test_after_an_unsubscribe_nothing_more_comes(port: int, api: Api, channel: str) -> None:
    with talk(port) as talking:
        subscribed(talking, channel)
        subscribed(talking, f"{channel}.kept")
        api.publish(channel, 1)
        assert talking.pub()["data"] == 1
        assert talking.ask(unsubscribe={"channel": channel})["unsubscribe"] == {}
        api.publish(channel, 2)
        api.publish(f"{channel}.kept", 3)
        assert talking.pub()["data"] == 3
        assert "subscribe" in talking.ask(subscribe={"channel": channel})


def test_what_is_published_together_comes_together_and_in_order(
    port: int, api: Api, channel: str
) -> None:
    with talk(port) as talking:
        result = subscribed(talking, channel)
        positions = api.publish_all([(channel, n) for n in range(500)])
        pubs = [push["pub"] for push in talking.pushed(500)]
        assert [pub["data"] for pub in pubs] == list(range(500))
        assert [position_of(pub, result) for pub in pubs] == positions


def test_commands_that_share_a_frame_are_answered_in_order(port: int, channel: str) -> None:
    with socket_to(port) as socket:
        talking = Talk(socket, connect=False)
        talking.say(
            {"id": 1, "connect": {}},
            {"id": 2, "subscribe": {"channel": channel}},
            {"id": 3, "subscribe": {"channel": channel}},
            {"id": 4, "ping": {}},
            {"id": 5, "unsubscribe": {"channel": channel}},
        )
        replies = [talking.reply(id) for id in range(1, 6)]
        assert [set(reply) - {"id"} for reply in replies] == [
            {"connect"}, {"subscribe"}, {"error"}, {"ping"}, {"unsubscribe"},
        ]  # fmt: skip


def test_commands_come_in_binary_frames_and_in_pieces_too(port: int, channel: str) -> None:
    with socket_to(port) as socket:
        talking = Talk(socket, connect=False)
        socket.send(BINARY, json.dumps({"id": 1, "connect": {}}))
        assert talking.reply(1)["connect"]
        command = json.dumps({"id": 2, "subscribe": {"channel": channel}})
        socket.send(TEXT, command[:10], fin=False)
        socket.send(PING, "between")
        assert socket.read() == Frame(PONG, b"between")
        socket.send(CONT, command[10:20], fin=False)
        socket.send(CONT, command[20:])
        assert talking.reply(2)["subscribe"]
        # And byte by byte.
        for byte in frame(TEXT, json.dumps({"id": 3, "ping": {}})):
            socket.sock.sendall(bytes([byte]))
        assert talking.reply(3) == {"id": 3, "ping": {}}


def test_ten_thousand_channels_are_over_the_limit_and_it_is_named(
    port: int, api: Api, channel: str
) -> None:
    with talk(port) as talking:
        for begin in range(0, 10_000, 500):
            talking.say(
                *(
                    {"id": n, "subscribe": {"channel": f"{channel}.{n}"}}
                    for n in range(begin + 1, begin + 501)
                )
            )
            for n in range(begin + 1, begin + 501):
                reply = talking.reply(n)
                if n <= 1000:
                    assert "subscribe" in reply
                else:
                    assert reply["error"]["code"] == 106
                    assert "channels_per_connection" in reply["error"]["message"]
        api.publish(f"{channel}.1001", 1)
        api.publish(f"{channel}.1000", 2)
        assert talking.pub()["data"] == 2


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("", 107),
        ("x" * 300, 107),
        ("a\nb", 107),
        ("a\u0000b", 107),
        ("a\u2028b", 107),
        ("a*", 107),
        ("closed.a", 103),
        (">", 103),
    ],
)
def test_a_channel_that_cannot_be_is_refused_and_the_session_goes_on(
    port: int, name: str, code: int
) -> None:
    with talk(port) as talking:
        assert talking.ask(subscribe={"channel": name})["error"]["code"] == code
        # A pattern can be neither published to nor remembered.
        code = 107 if name == ">" else code
        assert talking.ask(publish={"channel": name, "data": 1})["error"]["code"] == code
        assert talking.ask(history={"channel": name})["error"]["code"] == code
        assert talking.ask(ping={})["ping"] == {}


# Recovery


def test_what_was_missed_comes_with_the_answer(port: int, api: Api, channel: str) -> None:
    positions = api.publish_all([(channel, n) for n in range(5)])
    with talk(port) as talking:
        result = subscribed(talking, channel, **recover(positions[1]))
        assert (result["recovered"], result["was_recovering"]) == (True, True)
        assert f"{result['epoch']}-{result['offset']}" == positions[1]
        assert [position_of(pub, result) for pub in result["publications"]] == positions[2:]
        live = api.publish(channel, "live")
        assert position_of(talking.pub(), result) == live


def test_more_than_an_answer_holds_comes_after_it(port: int, api: Api, channel: str) -> None:
    first = api.publish(channel, 0)
    for begin in range(1, 301, 3):
        api.publish_all([(channel, [n, "x" * 5000]) for n in range(begin, begin + 3)])
    with talk(port) as talking:
        result = subscribed(talking, channel, **recover(first))
        assert result["recovered"]
        pubs = result["publications"]
        assert len(pubs) < 300
        pubs += [push["pub"] for push in talking.pushed(300 - len(pubs))]
        assert [pub["data"][0] for pub in pubs] == list(range(1, 301))


def test_nothing_missed_is_recovered_too(port: int, api: Api, channel: str) -> None:
    position = api.publish(channel, 1)
    with talk(port) as talking:
        result = subscribed(talking, channel, **recover(position))
        assert result["recovered"]
        assert "publications" not in result


def test_a_pattern_recovers_all_its_channels_in_order(port: int, api: Api, channel: str) -> None:
    names = [f"{channel}.{name}" for name in ("a", "b", "c", "a", "b")]
    positions = api.publish_all([(name, 0) for name in names])
    with talk(port) as talking:
        result = subscribed(talking, f"{channel}.*", **recover(positions[0]))
        assert [pub["channel"] for pub in result["publications"]] == names[1:]


@pytest.mark.parametrize("flag", [0, 2])
@pytest.mark.parametrize("position", ["future", "foreign", "garbage", "evicted"])
def test_a_position_that_cannot_be_recovered_is_said_so(
    port: int, api: Api, channel: str, position: str, flag: int
) -> None:
    short = channel.replace("open.", "open.short.")
    positions = api.publish_all([(short, n) for n in range(6)])
    epoch, head = positions[-1].split("-")
    asked = {
        "future": recover(f"{epoch}-{int(head) + 1000}"),
        "foreign": recover(f"{int(epoch) - 1}-1"),
        "garbage": {"recover": True, "epoch": "a\nb", "offset": -3},
        "evicted": recover(positions[0]),
    }[position]
    with talk(port) as talking:
        reply = talking.ask(subscribe={"channel": short, "flag": flag, **asked})
        if flag:
            assert reply["error"] == {"code": 112, "message": "unrecoverable position"}
            return
        result = reply["subscribe"]
        assert result["was_recovering"]
        assert "recovered" not in result
        assert "publications" not in result
        assert result["offset"] >= int(head)
        live = api.publish(short, "live")
        assert position_of(talking.pub(), result) == live


def test_the_mode_latest_begins_with_the_newest_of_each_key(
    port: int, api: Api, channel: str
) -> None:
    for key, value in [("a", 1), ("b", 2), ("a", 3)]:
        api.publish(channel, value, key=key)
    with talk(port) as talking:
        result = subscribed(talking, channel, data={"mode": "latest"})
        assert [pub["data"] for pub in result["publications"]] == [2, 3]
        api.publish(channel, 4, key="b")
        assert talking.pub()["data"] == 4


def test_a_position_taken_on_one_wire_resumes_on_the_other(
    port: int, api: Api, channel: str
) -> None:
    with stream(port, f"/sse?channel={channel}") as sse, talk(port) as ws:
        result = subscribed(ws, channel)
        api.publish(channel, 1)
        from_sse = sse.event().id
        from_ws = position_of(ws.pub(), result)
        assert from_sse == from_ws
    missed = api.publish_all([(channel, n) for n in range(3)])
    assert from_sse is not None
    with stream(port, f"/sse?channel={channel}", last_event_id=from_ws) as sse, talk(port) as ws:
        assert [block.id for block in sse.events(3)] == missed
        result = subscribed(ws, channel, **recover(from_sse))
        assert [position_of(pub, result) for pub in result["publications"]] == missed


def test_the_priming_position_and_the_answers_position_are_good_on_the_other_wire(
    port: int, api: Api, channel: str
) -> None:
    with stream(port, f"/sse?channel={channel}", primed=False) as sse, talk(port) as ws:
        primed = sse.next().id
        answered = subscribed(ws, channel)
    assert primed is not None
    missed = api.publish(channel, "missed")
    begin = f"{answered['epoch']}-{answered['offset']}"
    with stream(port, f"/sse?channel={channel}", last_event_id=begin) as sse, talk(port) as ws:
        assert sse.event().id == missed
        assert subscribed(ws, channel, **recover(primed))["publications"][0]["data"] == "missed"


# Publishing, calling, asking


def test_a_client_publishes_where_it_may_and_is_named(port: int, channel: str) -> None:
    with talk(port) as one, talk(port) as two:
        subscribed(two, channel)
        assert one.ask(publish={"channel": channel, "data": {"n": [1, None]}})["publish"] == {}
        pub = two.pub()
        assert pub["data"] == {"n": [1, None]}
        assert pub["info"] == {"user": "", "client": one.result["client"]}
        assert one.ask(publish={"channel": "other", "data": 1})["error"]["code"] == 103


def test_a_publish_over_the_limit_is_refused_and_the_limit_named(port: int, channel: str) -> None:
    with talk(port) as talking:
        error = talking.ask(publish={"channel": channel, "data": "x" * 20_000})["error"]
        assert "event_max_bytes" in error["message"]
        assert error["code"] in (106, 107)


def test_invalid_utf_8_reaches_no_other_client(port: int, channel: str) -> None:
    with talk(port) as one, talk(port) as two:
        subscribed(two, channel)
        command = b'{"id":9,"publish":{"channel":"%b","data":"\xff"}}' % channel.encode()
        one.socket.send(BINARY, command)
        assert one.socket.closed().code == 3501
        assert two.ask(ping={})["ping"] == {}


@pytest.mark.parametrize(
    ("rpc", "answer"),
    [
        ({"method": "add", "data": [1, 2]}, {"rpc": {"data": 3}}),
        ({"method": "add", "data": {"a": 1, "b": 2}}, {"rpc": {"data": 3}}),
        ({"method": "fail", "data": 1234}, {"error": {"code": 1234, "message": "as asked"}}),
        (
            {"method": "crash"},
            {"error": {"code": 100, "message": "internal server error", "temporary": True}},
        ),
        (
            {"method": "none"},
            {"error": {"code": 104, "message": "method not found: 'none'"}},
        ),
    ],
)
def test_a_command_is_answered(port: int, rpc: dict[str, Any], answer: dict[str, Any]) -> None:
    with talk(port) as talking:
        assert talking.ask(rpc=rpc) == {"id": 2, **answer}


def test_a_slow_command_holds_up_no_other(port: int, channel: str) -> None:
    with talk(port) as talking:
        talking.say({"id": 100, "rpc": {"method": "hang", "data": channel}})
        assert talking.ask(rpc={"method": "add", "data": [1, 2]})["rpc"]["data"] == 3
        assert talking.ask(ping={})["ping"] == {}


def test_commands_in_flight_are_bounded(port: int, channel: str) -> None:
    with talk(port) as talking:
        talking.say(*({"id": n, "rpc": {"method": "hang", "data": channel}} for n in range(10, 75)))
        error = talking.reply(74)["error"]
        assert (error["code"], error["temporary"]) == (111, True)
        assert "commands_in_flight" in error["message"]


def test_a_client_that_leaves_cancels_its_running_commands(port: int, channel: str) -> None:
    with stream(port, f"/sse?channel={channel}") as watching:
        with talk(port) as talking:
            talking.say({"id": 100, "rpc": {"method": "hang", "data": channel}})
            assert watching.event().data == "begun"
        assert watching.event().data == "cancelled"


def test_a_message_without_an_id_reaches_the_application(port: int) -> None:
    with stream(port, "/sse?channel=open.heard") as watching, talk(port) as talking:
        talking.say({"send": {"data": {"n": 1}}})
        assert watching.event().json() == {"from": talking.result["client"], "text": '{"n": 1}'}


def test_messages_that_the_application_does_not_take_end_the_connection(port: int) -> None:
    with talk(port) as talking:
        talking.say(*({"send": {"data": "hang"}} for _ in range(65)))
        closed = talking.socket.closed()
        assert (closed.code, closed.reason) == (3013, "too many requests")


def test_history_is_read_as_asked_for(port: int, api: Api, channel: str) -> None:
    positions = api.publish_all([(channel, n) for n in range(5)])
    epoch, head = positions[-1].split("-")
    place = {"epoch": epoch, "offset": int(positions[1].split("-")[1])}
    expected: list[tuple[dict[str, Any], list[int]]] = [
        ({}, []),
        ({"limit": 0}, []),
        ({"limit": 2}, [0, 1]),
        ({"limit": -1}, [0, 1, 2, 3, 4]),
        ({"limit": 2, "since": place}, [2, 3]),
        ({"limit": 2, "reverse": True}, [4, 3]),
        ({"limit": -1, "reverse": True, "since": place}, [0]),
    ]
    with talk(port) as talking:
        for request, values in expected:
            result = talking.ask(history={"channel": channel, **request})["history"]
            assert [pub["data"] for pub in result["publications"]] == values, request
            assert result["epoch"] == epoch
            assert result["offset"] >= int(head)
        result = talking.ask(history={"channel": f"{channel}.unknown", "limit": -1})["history"]
        assert result["publications"] == []


@pytest.mark.parametrize("since", ["evicted", "foreign", "future", "garbage"])
def test_history_after_a_position_that_is_gone_is_refused(
    port: int, api: Api, channel: str, since: str
) -> None:
    short = channel.replace("open.", "open.short.")
    positions = api.publish_all([(short, n) for n in range(6)])
    epoch, first = positions[0].split("-")
    place = {
        "evicted": {"epoch": epoch, "offset": int(first)},
        "foreign": {"epoch": "1", "offset": 1},
        "future": {"epoch": epoch, "offset": int(first) + 10_000},
        "garbage": {"epoch": "x", "offset": -1},
    }[since]
    with talk(port) as talking:
        reply = talking.ask(history={"channel": short, "limit": -1, "since": place})
        assert reply["error"]["code"] == 112


def test_an_answer_to_history_is_bounded_and_the_rest_can_be_asked_for(
    port: int, api: Api, channel: str
) -> None:
    for begin in range(0, 60, 3):
        api.publish_all([(channel, [n, "x" * 10_000]) for n in range(begin, begin + 3)])
    found: list[Any] = []
    since: dict[str, Any] = {}
    answers = 0
    with talk(port) as talking:
        while True:
            history = {"channel": channel, "limit": -1, **since}
            result = talking.ask(history=history)["history"]
            if not result["publications"]:
                break
            answers += 1
            assert len(json.dumps(result)) < 200_000
            found += [pub["data"][0] for pub in result["publications"]]
            since = {
                "since": {"epoch": result["epoch"], "offset": result["publications"][-1]["offset"]}
            }
    assert found == list(range(60))
    assert answers > 1


@pytest.mark.parametrize("name", ["presence", "presence_stats", "refresh", "sub_refresh"])
def test_what_is_not_served_says_so(port: int, channel: str, name: str) -> None:
    with talk(port) as talking:
        assert talking.ask(**{name: {"channel": channel}})["error"]["code"] == 108


def test_bytes_end_the_stream_of_a_json_client_and_of_no_other(
    port: int, api: Api, channel: str
) -> None:
    with (
        talk(port) as one,
        talk(port) as two,
        stream(port, f"/sse?channel={channel}&format=event") as sse,
    ):
        subscribed(one, channel)
        subscribed(two, f"{channel}.other")
        api.publish(channel, 1)
        api.result("publish", channel=channel, b64data="AP8=")
        assert one.pub()["data"] == 1
        closed = one.socket.closed()
        assert (closed.code, closed.reason) == (3506, "inappropriate protocol")
        assert [block.json().get("b64data") for block in sse.events(2)] == [None, "AP8="]
        api.publish(f"{channel}.other", 2)
        assert two.pub()["data"] == 2


def test_a_gap_in_a_live_subscription_ends_it_with_the_advice_to_come_back(
    port: int, api: Api, channel: str
) -> None:
    short = channel.replace("open.", "open.short.")
    size = 15_000
    with talk(port, receive_buffer=4096) as talking:
        result = subscribed(talking, short)
        sent: list[str] = []
        # It reads nothing until its buffers are full and the log has forgotten what it missed.
        while not json.loads(ask(port, "/inside")[1])["full"]:
            sent += api.publish_all([(short, [len(sent), "x" * size])])
        for _ in range(20):
            sent += api.publish_all([(short, [len(sent), "x" * size])])
        pushes = [talking.push()]
        while "pub" in pushes[-1]:
            pushes.append(talking.push())
        ended = pushes.pop()
        assert ended == {
            "channel": short,
            "unsubscribe": {"code": 2500, "reason": "insufficient state"},
        }
        got = [position_of(push["pub"], result) for push in pushes]
        assert got == sent[: len(got)]
        # It comes back with what it has, and is told that this cannot be recovered.
        again = subscribed(talking, short, **recover(got[-1]))
        assert "recovered" not in again
        live = api.publish(short, "live")
        assert position_of(talking.pub(), again) == live


# What is against the protocol

BAD_REQUEST = (3501, "bad request")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\n",
        b"{",
        b"null",
        b"[]",
        b"hello",
        b"{}",
        b'{"id":1}',
        b'{"id":-1,"connect":{}}',
        b'{"id":1,"subscribe":{"channel":"a"}}',
        b'{"id":1,"connect":{"subs":7}}',
        b'{"id":1,"rpc":{"data":' + b"[" * 30_000,
        b"[" * 60_000,
    ],
    ids=lambda payload: payload[:30].decode(),
)
def test_what_is_no_connect_closes_the_connection(port: int, payload: bytes) -> None:
    with socket_to(port) as socket:
        socket.send(TEXT, payload)
        closed = socket.closed()
        assert (closed.code, closed.reason) == BAD_REQUEST


@pytest.mark.parametrize(
    "payload",
    [b"\x00", b"\xff\xfe", b"\x0a\x05hello", bytes(range(256)), b'{"id":1,"connect":{}}\xff'],
)
def test_binary_garbage_closes_the_connection(port: int, payload: bytes) -> None:
    with socket_to(port) as socket:
        socket.send(BINARY, payload)
        assert (closed := socket.closed()).code == 3501, closed


@pytest.mark.parametrize(
    "command", [{}, {"id": 2}, {"id": 2, "dance": {}}, {"id": 2, "connect": {}}]
)
def test_a_command_against_the_rules_closes_the_connection(
    port: int, command: dict[str, Any]
) -> None:
    with talk(port) as talking:
        talking.say(command)
        closed = talking.socket.closed()
        assert (closed.code, closed.reason) == BAD_REQUEST


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (frame(TEXT, "{}", masked=False), 1002),
        (frame(TEXT, "{}", rsv=4), 1002),
        (frame(3, "{}"), 1002),
        (frame(11, "{}"), 1002),
        (frame(CONT, "{}"), 1002),
        (frame(TEXT, "{", fin=False) + frame(TEXT, "}"), 1002),
        (frame(PING, "x" * 126), 1002),
        (frame(PING, "x", fin=False), 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (frame(CLOSE, struct.pack("!H", 999)), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"x" * 65_537), 1009),
        (frame(TEXT, b"x" * 40_000, fin=False) + frame(CONT, b"x" * 40_000), 1009),
        (b"\x81\xff" + b"\x7f" + b"\xff" * 7, 1009),
    ],
)
def test_a_broken_frame_closes_the_connection_with_what_the_standard_says(
    port: int, raw: bytes, code: int
) -> None:
    with socket_to(port) as socket:
        Talk(socket)
        socket.sock.sendall(raw)
        assert socket.closed().code == code


def test_a_client_that_is_still_sending_is_told_that_it_is_too_much(port: int) -> None:
    with socket_to(port) as socket:
        Talk(socket)
        socket.sock.sendall(frame(TEXT, b"x" * (4 << 20)))
        assert socket.closed().code == 1009


def test_a_message_of_just_the_limit_is_taken(port: int) -> None:
    with talk(port) as talking:
        command = b'{"id":2,"ping":{}}'
        talking.socket.send(TEXT, command + b" " * (65_536 - len(command)))
        assert talking.reply(2) == {"id": 2, "ping": {}}


def test_a_close_is_answered_and_ends_the_connection(port: int) -> None:
    with talk(port) as talking:
        talking.socket.send(CLOSE, struct.pack("!H", 1000) + b"bye")
        assert talking.socket.closed(answer=False).code == 1000


def test_a_flood_of_pings_is_answered_and_disturbs_nobody(
    port: int, api: Api, channel: str
) -> None:
    with talk(port) as flooding, talk(port) as other:
        subscribed(other, channel)
        pings = 2000
        flooding.socket.sock.sendall(b"".join(frame(PING, str(n)) for n in range(pings)))
        api.publish(channel, 1)
        assert other.pub()["data"] == 1
        answers = [flooding.socket.read() for _ in range(pings)]
        assert answers == [Frame(PONG, str(n).encode()) for n in range(pings)]


def test_one_who_pings_and_never_reads_costs_one_buffer(port: int, api: Api, channel: str) -> None:
    with talk(port, receive_buffer=4096) as flooding, talk(port) as other:
        subscribed(other, channel)
        flood(flooding.socket, frame(PING, "x" * 100))
        api.publish(channel, 1)
        assert other.pub()["data"] == 1
        # The limit, and the answers to as much as is read at once.
        assert max(json.loads(ask(port, "/inside")[1])["waiting"]) <= 65536 + 262144


def test_one_who_asks_and_never_reads_costs_one_buffer(port: int, api: Api, channel: str) -> None:
    api.publish_all([(channel, "x" * 10_000) for _ in range(5)])
    history = json.dumps({"id": 2, "history": {"channel": channel, "limit": -1}})
    with talk(port, receive_buffer=4096) as flooding, talk(port) as other:
        subscribed(other, channel)
        flood(flooding.socket, frame(TEXT, "\n".join([history] * 500)))
        api.publish(channel, 1)
        assert other.pub()["data"] == 1
        assert max(json.loads(ask(port, "/inside")[1])["waiting"]) <= 65536 + 16384 + 60_000


def flood(socket: Socket, bytes_: bytes, most: int = 16 << 20) -> None:
    """Send it again and again, until the other side takes no more."""
    socket.sock.settimeout(0.3)
    sent = 0
    try:
        while sent < most:
            socket.sock.sendall(bytes_)
            sent += len(bytes_)
    except TimeoutError:
        return


def test_replies_that_could_not_be_read_at_once_all_come(port: int, api: Api, channel: str) -> None:
    api.publish_all([(channel, "x" * 10_000) for _ in range(5)])
    with talk(port, receive_buffer=4096) as talking:
        count = 100
        talking.say(
            *({"id": n, "history": {"channel": channel, "limit": -1}} for n in range(2, 2 + count)),
            {"id": 500, "ping": {}},
        )
        for n in range(2, 2 + count):
            assert len(talking.reply(n)["history"]["publications"]) == 5
        assert talking.reply(500) == {"id": 500, "ping": {}}


def test_a_client_that_is_gone_is_forgotten(port: int, api: Api, channel: str) -> None:
    for leave in ("close", "reset", "in a frame"):
        with talk(port) as talking:
            subscribed(talking, channel)
            assert clients(api, channel) == 1
            if leave == "reset":
                talking.socket.sock.setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")  # SO_LINGER of 0 s
            if leave == "in a frame":
                talking.socket.sock.sendall(frame(TEXT, "{}")[:3])
        for _ in range(1000):
            if clients(api, channel) == 0:
                break
        else:
            raise AssertionError("the client is still there")


def clients(api: Api, channel: str) -> int:
    """How many get what is published to the channel now."""
    api.publish(channel, "for the channel to be known")
    count: int = api.result("channels", pattern=channel)["channels"][channel]["num_clients"]
    return count


# Time, on a server that has little of it


@pytest.fixture(scope="module")
def hasty() -> Iterator[Server]:
    with Server(
        "--set", "connect_timeout=0.2", "--set", "ping=0.5", "--set", "pong_timeout=0.5", cwd=ROOT
    ) as running:
        yield running


def test_one_who_never_connects_is_stale(hasty: Server) -> None:
    with socket_to(hasty.port) as socket:
        closed = socket.closed()
        assert (closed.code, closed.reason) == (3502, "stale")


def test_one_who_does_not_answer_a_ping_is_closed(hasty: Server) -> None:
    with talk(hasty.port) as talking:
        closed = talking.socket.closed()
        assert (closed.code, closed.reason) == (3012, "no pong")


def test_one_who_answers_its_pings_stays(hasty: Server) -> None:
    with talk(hasty.port) as talking:
        for _ in range(3):
            assert talking.socket.read() == Frame(TEXT, b"{}")
            talking.say({})
        assert talking.ask(ping={})["ping"] == {}


# /echo


def test_echo_returns_each_message_as_it_came(port: int) -> None:
    with socket_to(port, "/echo") as socket:
        for message in [
            Frame(TEXT, "hello ü".encode()),
            Frame(TEXT, b""),
            Frame(BINARY, bytes(range(256))),
            Frame(BINARY, b""),
            Frame(TEXT, b"x" * 65_536),
            Frame(TEXT, "\u0000\u2028".encode()),
        ]:
            socket.send(message.opcode, message.payload)
            assert socket.read() == message
        socket.send(BINARY, b"a", fin=False)
        socket.send(CONT, b"b", fin=False)
        socket.send(CONT, b"")
        assert socket.read() == Frame(BINARY, b"ab")
        socket.send(PING, b"p")
        assert socket.read() == Frame(PONG, b"p")
        socket.send(CLOSE, struct.pack("!H", 1000))
        assert socket.closed(answer=False).code == 1000


def test_echo_is_off_by_default(hasty: Server) -> None:
    for path in ("/echo", "/nothing"):
        with pytest.raises(AssertionError), socket_to(hasty.port, path):
            pass
        assert ask(hasty.port, path)[0].status == 404
