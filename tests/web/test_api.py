"""`POST /api/…`, as a backend or one of Centrifugo's server libraries would call it."""

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests import ROOT
from tests.plain import Api, Response, ask, connect, get, stream, talk
from tests.servers import Server


def post(path: str, body: bytes, **headers: str) -> bytes:
    """A request with a body, whose length is announced unless the headers say otherwise."""
    if "transfer_encoding" not in headers:
        headers = {"content_length": str(len(body)), **headers}
    return get(path, method="POST", **headers) + body


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


def failed(api: Api, method: str, body: Any) -> dict[str, Any]:
    """The error of a call that was understood and failed."""
    status, answer = api.post(method, body)
    assert status == 200
    error: dict[str, Any] = answer["error"]
    return error


# publish, broadcast


def test_a_publish_is_answered_with_its_position(api: Api, channel: str) -> None:
    first = api.result("publish", channel=channel, data={"n": 1})
    second = api.result("publish", channel=channel, data=None)
    assert second == {"epoch": first["epoch"], "offset": first["offset"] + 1}
    assert isinstance(first["epoch"], str)
    assert abs(int(first["epoch"]) / 1000 - time.time()) < 3600


def test_fields_that_are_not_known_are_passed_over(api: Api, channel: str) -> None:
    api.result("publish", channel=channel, data=1, skip_history=True, delta=True, other={"a": []})


def test_data_is_passed_on_as_it_came(port: int, api: Api, channel: str) -> None:
    data = b'{"a":1.10,"b":1e400,"a":"\\u00fc\\/"}'
    with stream(port, f"/sse?channel={channel}") as watching:
        status, _ = api.post("publish", b'{"channel":"%b","data":%b}' % (channel.encode(), data))
        assert status == 200
        assert watching.event().data == data.decode()


def test_a_broadcast_publishes_to_each_channel_in_order(port: int, api: Api, channel: str) -> None:
    names = [f"{channel}.b", f"{channel}.a", f"{channel}.b"]
    with stream(port, f"/sse?channel={channel}.*&format=event") as watching:
        result = api.result(
            "broadcast", channels=names, data=[1], key="k", type="t", tags={"a": "b"}
        )
        blocks = watching.events(3)
    places = [response["result"] for response in result["responses"]]
    assert [block.id for block in blocks] == [f"{p['epoch']}-{p['offset']}" for p in places]
    assert [place["offset"] - places[0]["offset"] for place in places] == [0, 1, 2]
    for block, name in zip(blocks, names, strict=True):
        said = block.json()
        assert (said["channel"], said["data"], said["key"], said["tags"]) == (
            name,
            [1],
            "k",
            {"a": "b"},
        )
        assert block.event == "t"


def test_a_broadcast_to_one_bad_channel_publishes_to_none(
    port: int, api: Api, channel: str
) -> None:
    with stream(port, f"/sse?channel={channel}") as watching:
        assert failed(api, "broadcast", {"channels": [channel, "a b"], "data": 1})["code"] == 107
        last = api.publish(channel, "last")
        assert watching.event().id == last


@pytest.mark.parametrize(
    ("event", "code", "says"),
    [
        ({}, 107, "there is no data"),
        ({"channel": "open.a"}, 107, "there is no data"),
        ({"data": 1}, 107, "it is empty"),
        ({"channel": "", "data": 1}, 107, "it is empty"),
        ({"channel": "x" * 300, "data": 1}, 107, "300 characters"),
        ({"channel": "a\nb", "data": 1}, 107, "control character"),
        ({"channel": "a.*", "data": 1}, 107, "are for patterns"),
        ({"channel": "a", "data": 1, "key": "a\nb"}, 107, "bad key"),
        ({"channel": "a", "data": 1, "key": ""}, 107, "bad key"),
        ({"channel": "a", "data": 1, "type": "gap"}, 107, "bad type"),
        ({"channel": "a", "data": 1, "tags": {"a": "\r"}}, 107, "bad tag"),
        ({"channel": "a", "b64data": "?"}, 107, "not base64"),
        ({"channel": "a", "b64data": "é"}, 107, "not base64"),
        ({"channel": "a", "data": 1, "idempotency_key": "x\n"}, 107, "idempotency_key"),
    ],
)
def test_an_event_that_cannot_be_published_is_an_error_that_says_why(
    api: Api, event: dict[str, Any], code: int, says: str
) -> None:
    error = failed(api, "publish", event)
    assert error["code"] == code
    assert says in error["message"]


def test_bytes_come_as_base64(api: Api, channel: str) -> None:
    raw = bytes(range(256))
    api.result("publish", channel=channel, b64data=base64.b64encode(raw).decode())
    (publication,) = api.result("history", channel=channel, limit=1)["publications"]
    assert base64.b64decode(publication["b64data"]) == raw


# history, channels, info


def test_history_gives_what_was_published_with_all_that_was_said(api: Api, channel: str) -> None:
    for n in range(3):
        place = api.result(
            "publish", channel=channel, data=n, key=f"k{n}", type="t", tags={"n": str(n)}
        )
    result = api.result("history", channel=channel, limit=-1)
    assert (result["epoch"], result["offset"]) == (place["epoch"], place["offset"])
    assert [p["offset"] for p in result["publications"]] == [place["offset"] - n for n in (2, 1, 0)]
    for n, publication in enumerate(result["publications"]):
        assert publication.pop("time") > 1_700_000_000_000
        publication.pop("offset")
        assert publication == {"data": n, "key": f"k{n}", "type": "t", "tags": {"n": str(n)}}


def test_history_names_the_client_that_published(port: int, api: Api, channel: str) -> None:
    with talk(port) as talking:
        talking.ask(publish={"channel": channel, "data": 1})
        client = talking.result["client"]
    (publication,) = api.result("history", channel=channel, limit=1)["publications"]
    assert publication["info"] == {"user": "", "client": client}


def test_history_can_be_limited_reversed_and_gone_on_with(api: Api, channel: str) -> None:
    places = [api.result("publish", channel=channel, data=n) for n in range(5)]

    def values(**request: Any) -> list[Any]:
        result = api.result("history", channel=channel, **request)
        return [publication["data"] for publication in result["publications"]]

    assert values() == []
    assert values(limit=2) == [0, 1]
    assert values(limit=-1) == [0, 1, 2, 3, 4]
    assert values(limit=2, reverse=True) == [4, 3]
    assert values(limit=-1, since=places[2]) == [3, 4]
    assert values(limit=1, since=places[2]) == [3]
    assert values(limit=-1, since=places[2], reverse=True) == [1, 0]


def test_history_is_answered_in_portions_that_say_whether_there_is_more(
    api: Api, channel: str
) -> None:
    for n in range(12):
        api.publish(channel, [n, "x" * 15_000])
    given: list[int] = []
    request: dict[str, Any] = {"channel": channel, "limit": -1}
    answers = 0
    more = True
    while more:
        result = api.result("history", **request)
        answers += 1
        given += [publication["data"][0] for publication in result["publications"]]
        last = result["publications"][-1]["offset"]
        request["since"] = {"epoch": result["epoch"], "offset": last}
        more = result.get("more", False)
    assert given == list(range(12))
    assert answers == 2


@pytest.mark.parametrize(
    "since",
    [{"epoch": "1", "offset": 1}, {"epoch": "x", "offset": 1}, {"offset": -1}, {"epoch": ""}],
)
def test_history_after_an_unknown_position_is_an_error(
    api: Api, channel: str, since: dict[str, Any]
) -> None:
    error = failed(api, "history", {"channel": channel, "limit": -1, "since": since})
    assert error["code"] == 112


def test_channels_are_listed_with_who_listens(port: int, api: Api, channel: str) -> None:
    for name in ("a", "b", "c.d"):
        api.publish(f"{channel}.{name}", 1)
    with (
        stream(port, f"/sse?channel={channel}.a"),
        stream(port, f"/sse?channel={channel}.*"),
        talk(port) as talking,
    ):
        talking.ask(subscribe={"channel": f"{channel}.>"})
        # They stand in their lanes once they have got something.
        api.publish(f"{channel}.a", 2)
        talking.push()
        assert api.result("channels", pattern=f"{channel}.>")["channels"] == {
            f"{channel}.a": {"num_clients": 3},
            f"{channel}.b": {"num_clients": 2},
            f"{channel}.c.d": {"num_clients": 1},
        }
        assert set(api.result("channels", pattern=f"{channel}.a")["channels"]) == {f"{channel}.a"}
    assert f"{channel}.a" in api.result("channels")["channels"]
    assert failed(api, "channels", {"pattern": "a*"})["code"] == 107


def test_info_tells_what_the_node_has(port: int, api: Api, channel: str) -> None:
    api.publish(channel, 1)
    with stream(port, f"/sse?channel={channel}"):
        (node,) = api.result("info")["nodes"]
    assert node["name"] == "twinwire"
    assert node["num_clients"] >= 1
    assert node["num_channels"] >= 1
    assert node["num_events"] >= 1
    assert node["uptime"] >= 0


# batch


def test_a_batch_is_answered_command_by_command(api: Api, channel: str) -> None:
    commands = [
        {"publish": {"channel": channel, "data": 0}},
        {"publish": {"channel": "a b", "data": 1}},
        {"publish": {"channel": channel, "data": 2}},
        {"history": {"channel": channel, "limit": -1}},
        {"none": {}},
        {"publish": {"channel": channel, "data": 3}, "history": {}},
        {},
        {"publish": {"channel": channel, "data": "x" * 20_000}},
        {"publish": []},
        {"batch": {"commands": []}},
        {"broadcast": {"channels": [channel], "data": 4}},
        {"publish": {"channel": channel, "data": 5}},
    ]
    status, answer = api.post("batch", {"commands": commands})
    assert status == 200
    replies = answer["replies"]
    kinds = [next(iter(reply)) for reply in replies]
    assert kinds == [
        "publish", "error", "publish", "history", "error", "error", "error", "error", "error",
        "error", "broadcast", "publish",
    ]  # fmt: skip
    codes = [reply["error"]["code"] for reply in replies if "error" in reply]
    assert codes == [107, 104, 107, 107, 106, 107, 104]
    # The history in the middle knows what was before it.
    assert [p["data"] for p in replies[3]["history"]["publications"]] == [0, 2]
    history = api.result("history", channel=channel, limit=-1)
    assert [p["data"] for p in history["publications"]] == [0, 2, 4, 5]
    assert [p["offset"] for p in history["publications"]] == [
        replies[0]["publish"]["offset"],
        replies[2]["publish"]["offset"],
        replies[10]["broadcast"]["responses"][0]["result"]["offset"],
        replies[11]["publish"]["offset"],
    ]


def test_an_empty_batch_has_no_replies(api: Api) -> None:
    assert api.post("batch", {"commands": []}) == (200, {"replies": []})
    assert api.post("batch", b"") == (200, {"replies": []})


# What is wrong with the request itself


@pytest.mark.parametrize("method", ["publish", "broadcast", "history", "channels", "info", "batch"])
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nothing",
        b"[]",
        b"1",
        b'{"channel":"a","data":1}x',
        b'{"channel":"\xff","data":1}',
        b'{"channel":"a","data":"\xff"}',
        b'{"channel":"a","data":"\xed\xa0\x80"}',
        b"\xef\xbb\xbf{}",
        b"\x00",
        b'{"a":' * 10_000,
        b'{"channel":"a","data":' + b"[" * 60_000,
    ],
    ids=lambda body: repr(body[:30]),
)
def test_a_body_that_is_not_the_json_that_was_asked_for_is_a_bad_request(
    api: Api, method: str, body: bytes
) -> None:
    status, answer = api.post(method, body)
    assert status == 400
    assert answer["error"]["code"] == 107
    assert answer["error"]["message"].startswith("bad request: ")


@pytest.mark.parametrize(
    "body",
    [
        b'{"channel":7,"data":1}',
        b'{"channel":"a","data":1,"key":7}',
        b'{"channel":"a","data":1,"tags":[]}',
        b'{"channel":"a","data":1,"tags":{"a":1}}',
        b'{"channel":"a","b64data":1}',
    ],
)
def test_a_field_of_the_wrong_type_is_a_bad_request(api: Api, body: bytes) -> None:
    status, answer = api.post("publish", body)
    assert status == 400
    assert "$." in answer["error"]["message"]


def test_a_hundred_thousand_brackets_are_a_bad_request(port: int) -> None:
    with Server("--set", "request_max_bytes=1000000", cwd=ROOT) as server, Api(server.port) as api:
        for method in ("publish", "batch"):
            for body in (
                b'{"channel":"a","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
                b'{"commands":[{"publish":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}]}",
            ):
                status, _ = api.post(method, body)
                assert status == 400


def test_a_body_over_the_limit_is_refused_and_the_limit_named(port: int) -> None:
    body = b'{"channel":"open.a","data":"' + b"x" * 70_000 + b'"}'
    for request in (
        post("/api/publish", body),
        post("/api/publish", chunks(body[:50_000], body[50_000:]), transfer_encoding="chunked"),
        # Refused at the announcement: the rest is never sent.
        post("/api/publish", b"{", content_length="70000000000"),
    ):
        with connect(port) as sock:
            sock.sendall(request)
            response = Response(sock)
            assert response.status == 413
            error = response.json()["error"]
            assert error["code"] == 106
            assert "65536 (request_max_bytes)" in error["message"]


def test_a_chunked_body_is_a_body(port: int, channel: str) -> None:
    body = b'{"channel":"%b","data":1}' % channel.encode()
    with connect(port) as sock:
        sock.sendall(
            post(
                "/api/publish",
                chunks(*[b"%c" % byte for byte in body]),
                transfer_encoding="chunked",
            )
        )
        assert "result" in Response(sock).json()


def test_a_body_that_waits_to_be_asked_for_is_asked_for(port: int, channel: str) -> None:
    body = b'{"channel":"%b","data":1}' % channel.encode()
    with connect(port) as sock:
        sock.sendall(
            post("/api/publish", b"", content_length=str(len(body)), expect="100-continue")
        )
        assert Response(sock).status == 100
        sock.sendall(body)
        assert "result" in Response(sock).json()


def test_an_event_over_its_limit_is_refused_and_the_limit_named(api: Api, channel: str) -> None:
    status, answer = api.post("publish", {"channel": channel, "data": "x" * 20_000})
    assert status == 413
    assert "16384 (event_max_bytes)" in answer["error"]["message"]
    api.publish(channel, "x" * (16384 - 2))


def test_a_method_that_is_not_there_is_not_found(port: int, api: Api) -> None:
    status, answer = api.post("dance", {})
    assert status == 404
    assert answer["error"]["code"] == 104
    assert "publish" in answer["error"]["message"]
    assert api.post("x" * 1000, {})[0] == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_told_which_there_is(port: int, method: str) -> None:
    response, body = ask(port, "/api/publish", method=method)
    assert response.status == 405
    assert response.headers["allow"] == "POST"
    assert json.loads(body)["error"]["message"] == "/api/publish answers POST"


def test_requests_in_a_row_on_one_connection_are_answered_in_order(port: int, channel: str) -> None:
    bodies = [b'{"channel":"%b","data":%d}' % (channel.encode(), n) for n in range(20)]
    with connect(port) as sock:
        sock.sendall(b"".join(post("/api/publish", body) for body in bodies))
        offsets = []
        response = None
        for _ in bodies:
            response = Response(sock, after=response)
            offsets.append(response.json()["result"]["offset"])
    assert offsets == list(range(offsets[0], offsets[0] + 20))


# The key


@pytest.fixture(scope="module")
def locked() -> Iterator[Server]:
    with Server(cwd=ROOT, env={"TWINWIRE_API_KEY": "schlüssel"}) as running:
        yield running


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "wrong"},
        {"X-API-Key": "schl"},
        {"X-API-Key": "\xff\xfe"},
        {"Authorization": "apikey wrong"},
        {"Authorization": "Bearer schluessel"},
        {"Authorization": "apikey"},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["publish", "info", "dance"])
def test_without_the_key_nothing_is_done_nor_told(
    locked: Server, method: str, headers: dict[str, str]
) -> None:
    with Api(locked.port) as api:
        status, answer = api.post(method, {"channel": "a", "data": 1}, headers)
        assert status == 401
        assert answer["error"]["code"] == 101


def test_with_the_key_everything_is(locked: Server) -> None:
    key = "schlüssel".encode().decode("latin-1")
    with Api(locked.port) as api:
        for headers in (
            {"X-API-Key": key},
            {"Authorization": f"apikey {key}"},
            {"Authorization": f"APIKEY  {key} "},
        ):
            assert api.post("publish", {"channel": "a", "data": 1}, headers)[0] == 200


def test_clients_need_no_key(locked: Server) -> None:
    with stream(locked.port, "/sse?channel=a"), talk(locked.port):
        assert ask(locked.port, "/health")[0].status == 200
