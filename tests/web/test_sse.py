"""The event stream, byte by byte, from a real server."""

import json
import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests import ROOT
from tests.plain import Api, Block, Response, Stream, ask, connect, get, stream, talk
from tests.servers import Server


def channels(*names: str, **more: str) -> str:
    query = [f"channel={quote(name)}" for name in names]
    query += [f"{name}={quote(value)}" for name, value in more.items()]
    return "/sse?" + "&".join(query)


# What a stream is


def test_a_stream_begins_with_where_it_starts_and_when_to_come_back(
    port: int, api: Api, channel: str
) -> None:
    head = api.publish("open.other", 0)
    with stream(port, channels(channel), primed=False) as opened:
        assert opened.response.headers["content-type"] == "text/event-stream"
        assert opened.response.headers["cache-control"] == "no-cache"
        assert opened.response.headers["x-accel-buffering"] == "no"
        first = opened.next()
        assert first == Block(id=head, retry=first.retry)


def test_the_time_to_come_back_is_spread_over_half_to_one_and_a_half(
    port: int, channel: str
) -> None:
    retries = []
    for _ in range(20):
        with stream(port, channels(channel), primed=False) as opened:
            retries.append(opened.next().retry)
    assert all(retry is not None and 1000 <= retry <= 3000 for retry in retries)
    assert len(set(retries)) > 10


def test_an_event_is_its_position_and_its_data(port: int, api: Api, channel: str) -> None:
    with stream(port, channels(channel)) as opened:
        one = api.publish(channel, {"bid": 1.1})
        two = api.publish(channel, "text", type="news")
        assert opened.event() == Block(id=one, data='{"bid":1.1}')
        assert opened.event() == Block(id=two, event="news", data='"text"')


def test_the_format_event_tells_all_about_an_event(port: int, api: Api, channel: str) -> None:
    with stream(port, channels(channel, format="event")) as opened:
        api.publish(channel, {"bid": 1.1}, key="K", type="tick", tags={"a": "b"})
        api.result("publish", channel=channel, b64data="AP8=")
        full, raw = opened.events(2)
        assert full.event == "tick"
        said = full.json()
        assert said.pop("time") > 1_700_000_000_000
        assert said == {
            "channel": channel,
            "data": {"bid": 1.1},
            "key": "K",
            "type": "tick",
            "tags": {"a": "b"},
        }
        assert raw.json()["b64data"] == "AP8="


def test_bytes_in_the_format_data_are_base64(port: int, api: Api, channel: str) -> None:
    with stream(port, channels(channel, format="data")) as opened:
        api.result("publish", channel=channel, b64data="AP8=")
        assert opened.event().data == "AP8="


def test_a_stream_has_all_its_channels_and_patterns_in_the_order_of_positions_once(
    port: int, api: Api, channel: str
) -> None:
    wanted = (f"{channel}.a", f"{channel}.b", f"{channel}.*", f"{channel}.deep.>")
    names = [f"{channel}.{name}" for name in ("a", "x", "deep.er", "b", "deep.er.still", "a")]
    others = [channel, f"{channel}.x.y", f"{channel}.deep"[:-1]]
    with stream(port, channels(*wanted, format="event")) as opened:
        positions = api.publish_all([(name, 0) for name in names])
        api.publish(others[0], 1)
        api.publish(others[1], 1)
        last = api.publish(f"{channel}.a", "last")
        blocks = opened.until(lambda block: block.json()["data"] == "last")
        assert [block.json()["channel"] for block in blocks] == [*names, f"{channel}.a"]
        assert [block.id for block in blocks] == [*positions, last]


def test_what_is_published_together_comes_together(port: int, api: Api, channel: str) -> None:
    with stream(port, channels(channel)) as opened:
        api.publish_all([(channel, n) for n in range(500)])
        assert [block.json() for block in opened.events(500)] == list(range(500))


# Where it starts


def test_a_stream_goes_on_after_the_position_that_it_is_given(
    port: int, api: Api, channel: str
) -> None:
    positions = api.publish_all([(channel, n) for n in range(10)])
    for path, headers in [
        (channels(channel), {"last_event_id": positions[3]}),
        (channels(channel, last_event_id=positions[3]), {}),
        # After a reconnect the header is newer than what the page was opened with.
        (channels(channel, last_event_id=positions[0]), {"last_event_id": positions[3]}),
        (channels(channel, last_event_id="earliest"), {"last_event_id": positions[3]}),
        (channels(channel, last_event_id=positions[3]), {"last_event_id": ""}),
    ]:
        with stream(port, path, receive_buffer=0, primed=False, **headers) as opened:
            assert opened.next().id == positions[3]
            assert [block.id for block in opened.events(6)] == positions[4:]


def test_the_priming_block_is_enough_to_resume_from(port: int, api: Api, channel: str) -> None:
    with stream(port, channels(channel), primed=False) as opened:
        begin = opened.next().id
        assert begin is not None
    missed = api.publish(channel, "missed")
    with stream(port, channels(channel), last_event_id=begin) as opened:
        assert opened.event().id == missed


def test_a_stream_from_the_earliest_has_all_that_is_retained(
    port: int, api: Api, channel: str
) -> None:
    positions = api.publish_all([(channel, n) for n in range(5)])
    with stream(port, channels(channel, last_event_id="earliest")) as opened:
        assert [block.id for block in opened.events(5)] == positions
    # And of a channel whose log is short the rest: what was not asked for is no gap.
    short = channel.replace("open.", "open.short.")
    positions = api.publish_all([(short, n) for n in range(5)])
    with stream(port, channels(short, last_event_id="earliest")) as opened:
        assert [(block.id, block.event) for block in opened.events(3)] == [
            (position, None) for position in positions[2:]
        ]


def test_what_is_gone_after_a_position_is_told_as_a_gap_before_the_rest(
    port: int, api: Api, channel: str
) -> None:
    short = channel.replace("open.", "open.short.")
    positions = api.publish_all([(short, n) for n in range(6)])
    with stream(port, channels(short), last_event_id=positions[0]) as opened:
        gap, *rest = opened.events(4)
        assert gap.event == "gap"
        assert gap.id is None
        assert gap.json() == {"from": positions[0], "to": positions[2], "reason": "evicted"}
        assert [block.id for block in rest] == positions[3:]


@pytest.mark.parametrize(
    "position",
    [
        "garbage",
        "1-",
        "-1",
        "0-0",
        "1-1",
        "9007199254740991-1",
        "1763800000000-5",
        "1-1\u00e9",
        "x" * 5000,
    ],
)
def test_a_position_that_nobody_knows_is_a_gap_and_the_stream_goes_on(
    port: int, api: Api, channel: str, position: str
) -> None:
    kept = api.publish(channel, "kept")
    with stream(port, channels(channel), last_event_id=position) as opened:
        gap, event = opened.events(2)
        assert gap.event == "gap"
        assert gap.json()["reason"] == "restarted"
        assert event.id == kept
        live = api.publish(channel, "live")
        assert opened.event().id == live


def test_a_position_in_the_future_is_a_gap_too(port: int, api: Api, channel: str) -> None:
    kept = api.publish(channel, "kept")
    epoch, seq = kept.split("-")
    with stream(port, channels(channel), last_event_id=f"{epoch}-{int(seq) + 1000}") as opened:
        gap, event = opened.events(2)
        assert gap.json()["reason"] == "restarted"
        assert event.id == kept


def test_the_mode_latest_begins_with_the_newest_of_each_key(
    port: int, api: Api, channel: str
) -> None:
    for key, value in [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("b", 5)]:
        api.publish(channel, value, key=key)
    with stream(port, channels(channel, mode="latest")) as opened:
        assert [block.json() for block in opened.events(3)] == [3, 4, 5]
        api.publish(channel, 6, key="a")
        assert opened.event().json() == 6


def test_the_mode_latest_is_brought_up_to_date_from_any_position_without_a_gap(
    port: int, api: Api, channel: str
) -> None:
    short = channel.replace("open.", "open.short.")
    first = api.publish(short, 0, key="a")
    for n in range(1, 20):
        api.publish(short, n, key=f"k{n % 4}")
    with stream(port, channels(short, mode="latest"), last_event_id=first) as opened:
        assert [block.json() for block in opened.events(4)] == [16, 17, 18, 19]


# Heartbeats, on a server whose heart beats fast


@pytest.fixture(scope="module")
def fast() -> Iterator[Server]:
    with Server("--set", "heartbeat=0.05", "--set", "retry=0.2", cwd=ROOT) as running:
        yield running


def test_a_heartbeat_moves_the_position_and_fires_nothing(fast: Server) -> None:
    with Api(fast.port) as api, stream(fast.port, channels("quiet")) as opened:
        moved = api.publish("other", 1)
        while (block := opened.next()).id != moved:
            assert block == Block(id=block.id)
        assert block == Block(id=moved)


def test_a_heartbeat_never_runs_ahead_of_the_events(fast: Server) -> None:
    with Api(fast.port) as api, stream(fast.port, channels("busy")) as opened:
        sent = [api.publish("busy", n) for n in range(300)]
        reached = (0, 0)
        seen: list[str | None] = []
        while len(seen) < len(sent):
            block = opened.next()
            assert block.position > reached or block.data is None
            assert block.position >= reached
            reached = block.position
            if block.data is not None:
                seen.append(block.id)
        assert seen == sent


def test_visible_heartbeats_are_events_that_page_code_can_see(fast: Server) -> None:
    with stream(fast.port, channels("quiet", heartbeat="event")) as opened:
        for _ in range(3):
            block = opened.event()
            assert block.event == "heartbeat"
            assert block.json() == {"position": block.id}


def test_heartbeats_are_spread(fast: Server) -> None:
    # By the clock of who waits, a first heartbeat comes after half a period at the earliest.
    with Api(fast.port) as api, stream(fast.port, channels("quiet"), primed=False) as opened:
        begin = opened.next()
        moved = api.publish("other", 1)
        assert begin.id != moved
        assert opened.next() == Block(id=moved)


# Requests that are not quite right


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "no channel"),
        ("?channel=", "it is empty"),
        ("?channel=a&channel=", "it is empty"),
        ("?channel=" + "x" * 300, "300 characters"),
        ("?channel=a%0Ab", "control character"),
        ("?channel=a%00b", "control character"),
        ("?channel=a%E2%80%A8b", "control character"),
        ("?channel=a%20b", "a space"),
        ("?channel=a*", "whole token"),
        ("?channel=%3E.a", "whole last one"),
        ("?channel=a&mode=some", "mode='some' is not one of every, latest"),
        ("?channel=a&format=xml", "format='xml' is not one of data, event"),
        ("?channel=a&heartbeat=off", "heartbeat='off' is not one of id, event"),
        ("?channel=a&last_event_id=garbage", "bad position"),
        ("?" + "&".join(f"channel=open.{n}" for n in range(1001)), "channels_per_connection"),
    ],
    ids=lambda value: value[:40],
)
def test_a_request_that_cannot_be_served_is_told_why(port: int, query: str, says: str) -> None:
    response, body = ask(port, "/sse" + query)
    assert response.status == 400
    error = json.loads(body)["error"]
    assert error["code"] == 107
    assert says in error["message"]


def test_ten_thousand_channels_are_refused(port: int) -> None:
    # So long a URL is refused before anybody counts.
    query = "&".join(f"channel=open.{n}" for n in range(10_000))
    response, _ = ask(port, "/sse?" + query)
    assert response.status == 400


@pytest.mark.parametrize("query", ["?channel=closed.a", "?channel=open.a&channel=%3E"])
def test_a_channel_that_is_not_granted_is_forbidden(port: int, query: str) -> None:
    response, body = ask(port, "/sse" + query)
    assert response.status == 403
    assert json.loads(body)["error"]["code"] == 103


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_told_which_there_are(port: int, method: str, channel: str) -> None:
    response, body = ask(port, channels(channel), method=method)
    assert response.status == 405
    assert response.headers["allow"] == "GET, HEAD"
    assert json.loads(body)["error"]["message"] == "/sse answers GET"


def test_head_answers_with_the_head_alone_and_the_connection_lives_on(
    port: int, channel: str
) -> None:
    with connect(port) as sock:
        sock.sendall(get(channels(channel), method="HEAD"))
        response = Response(sock, "HEAD")
        assert response.status == 200
        assert response.headers["content-type"] == "text/event-stream"
        sock.sendall(get("/health"))
        assert Response(sock).body() == b"{}"


def test_a_client_of_http_1_0_gets_the_stream_without_chunks(
    port: int, api: Api, channel: str
) -> None:
    with stream(port, channels(channel), version="1.0") as opened:
        assert "transfer-encoding" not in opened.response.headers
        assert opened.response.headers["connection"] == "close"
        position = api.publish(channel, "plain")
        assert opened.event() == Block(id=position, data='"plain"')


def test_a_client_of_http_1_0_gets_ordinary_answers_as_ever(port: int) -> None:
    response, body = ask(port, "/health", version="1.0")
    assert response.headers["content-length"] == "2"
    assert body == b"{}"
    response, body = ask(port, "/sse", version="1.0")
    assert json.loads(body)["error"]["code"] == 107


def test_requests_behind_a_stream_wait_for_ever_and_disturb_nothing(
    port: int, api: Api, channel: str
) -> None:
    with connect(port) as sock:
        sock.sendall(get(channels(channel)) + get("/health") + get(channels("open.other")))
        opened = Stream(sock)
        opened.next()
        position = api.publish(channel, 1)
        assert opened.event().id == position
        sock.sendall(get("/health") * 100 + b"and this is no request at all")
        position = api.publish(channel, 2)
        assert opened.event().id == position


def test_a_stream_may_be_asked_for_behind_another_request(
    port: int, api: Api, channel: str
) -> None:
    with connect(port) as sock:
        sock.sendall(get("/health") + get(channels(channel)))
        first = Response(sock)
        assert first.body() == b"{}"
        opened = Stream(sock, after=first)
        opened.next()
        position = api.publish(channel, 1)
        assert opened.event().id == position


def test_a_body_that_nobody_asked_for_is_no_matter(port: int, api: Api, channel: str) -> None:
    with connect(port) as sock:
        sock.sendall(get(channels(channel), content_length="100000") + b"x" * 50_000)
        opened = Stream(sock)
        opened.next()
        position = api.publish(channel, 1)
        assert opened.event().id == position
        sock.sendall(b"y" * 50_000)
        position = api.publish(channel, 2)
        assert opened.event().id == position


def test_a_stream_that_is_left_is_forgotten(port: int, api: Api, channel: str) -> None:
    # Whether by a good-bye, by a reset, or with requests of its own still waiting.
    for leave in ("close", "reset", "pipelined"):
        with connect(port) as sock:
            request = get(channels(channel))
            sock.sendall(request + get("/health") if leave == "pipelined" else request)
            Stream(sock).next()
            assert count(api, channel) == 1
            if leave == "reset":
                sock.setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")  # SO_LINGER of 0 seconds
        wait_for_none(api, channel)


def count(api: Api, channel: str) -> int:
    """How many streams get what is published to the channel now."""
    api.publish(channel, "for the channel to be known")
    clients: int = api.result("channels", pattern=channel)["channels"][channel]["num_clients"]
    return clients


def wait_for_none(api: Api, channel: str) -> None:
    for _ in range(1000):
        if count(api, channel) == 0:
            return
    raise AssertionError("a stream is still there")


# Forging

NASTY = [
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "a\nid: 9-9\n\n",
    "\rid: 9-9\r\revent: gap\rdata: x\r\r",
    "\nevent: reconnect\ndata: {}\n\n",
    "x\n\nretry: 1\n\n",
    ":comment\n:",
    "data: \ndata:",
    " leading and trailing ",
    "\x00",
    "nul\x00id: 1-1\x00",
    "\u2028id: 9-9\u2028",
    "\u2029\u0085\x0b\x0c\x1c\x1d\x1e",
    "\ufeff",
    "\ufffe\uffff\U0010ffff",
    "colon: and more: colons",
    "",
    "\x1b[31m",
    "\u202e\u200b",
]


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_data_cannot_forge_a_field(port: int, api: Api, channel: str, text: str) -> None:
    with (
        stream(port, channels(channel)) as plain,
        stream(port, channels(channel, format="event")) as full,
    ):
        api.publish(channel, text)
        api.publish(channel, {text: [text]})
        assert [block.json() for block in plain.events(2)] == [text, {text: [text]}]
        assert [block.json()["data"] for block in full.events(2)] == [text, {text: [text]}]


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_plain_text_cannot_forge_a_field(port: int, channel: str, text: str) -> None:
    with (
        stream(port, channels(channel)) as plain,
        stream(port, channels(channel, format="event")) as full,
        talk(port) as talking,
    ):
        position = talking.ask(rpc={"method": "text", "data": [channel, text]})["rpc"]["data"]
        # An event stream has one kind of line end.
        lines = text.replace("\r\n", "\n").replace("\r", "\n")
        assert plain.event() == Block(id=position, data=lines)
        block = full.event()
        assert block.id == position
        assert block.json()["data"] == text


@pytest.mark.parametrize("text", NASTY, ids=ascii)
@pytest.mark.parametrize("field", ["channel", "key", "type", "tag", "value"])
def test_a_name_with_anything_dubious_in_it_is_refused_or_comes_as_it_was(
    port: int, api: Api, channel: str, field: str, text: str
) -> None:
    event: dict[str, Any] = {"channel": channel, "data": 1}
    if field == "channel":
        event["channel"] = f"forged.{channel}.{text}"
    elif field in ("key", "type"):
        event[field] = text
    else:
        event["tags"] = {text: "v"} if field == "tag" else {"t": text}
    with (
        stream(port, channels(channel, f"forged.{channel}.>")) as plain,
        stream(port, channels(channel, f"forged.{channel}.>", format="event")) as full,
    ):
        status, answer = api.post("publish", event)
        last = api.publish(channel, "last")
        assert status == 200
        expected = [last]
        if "error" in answer:
            assert answer["error"]["code"] == 107
        else:
            expected = [f"{answer['result']['epoch']}-{answer['result']['offset']}", last]
        assert [block.id for block in plain.until(lambda b: b.data == '"last"')] == expected
        blocks = full.until(lambda b: b.json()["data"] == "last")
        assert [block.id for block in blocks] == expected
        if len(blocks) == 2:
            said = blocks[0].json()
            assert said["channel"] == event["channel"]
            assert [said.get(name) for name in ("key", "type", "tags")] == [
                event.get(name) for name in ("key", "type", "tags")
            ]
            assert blocks[0].event == event.get("type")


@pytest.mark.parametrize("type", ["gap", "heartbeat", "reconnect", "error", "open", "token"])
def test_the_types_of_the_streams_own_events_cannot_be_published(
    api: Api, channel: str, type: str
) -> None:
    _, answer = api.post("publish", {"channel": channel, "data": 1, "type": type})
    assert "one of the stream's own" in answer["error"]["message"]


def test_raw_json_with_line_ends_between_its_tokens_is_one_line(
    port: int, api: Api, channel: str
) -> None:
    with stream(port, channels(channel)) as opened:
        body = b'{"channel":"%b","data":{\r\n"a"\n:\r[\n\n1]}}' % channel.encode()
        status, _ = api.post("publish", body)
        assert status == 200
        assert opened.event().data == '{"a":[1]}'


def test_random_strings_come_as_they_were_published(port: int, api: Api, channel: str) -> None:
    dice = random.Random(7)
    alphabet = "\n\r\0:\u2028\u2029\u0085 aid:event\ufeff\U0001f600"
    texts = ["".join(dice.choices(alphabet, k=dice.randint(0, 30))) for _ in range(300)]
    with stream(port, channels(channel)) as opened:
        positions = api.publish_all([(channel, text) for text in texts])
        blocks = opened.events(len(texts))
        assert [block.json() for block in blocks] == texts
        assert [block.id for block in blocks] == positions
        assert all(block.event is None for block in blocks)
