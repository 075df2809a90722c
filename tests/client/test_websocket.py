"""The client's side of the Centrifuge protocol: what it says, what it yields, where it goes on."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from twinwire.client.errors import ComeBack, Refused
from twinwire.client.items import EARLIEST, Connected, Item, Since
from twinwire.client.websocket import ANSWER_TIME, PING_LEEWAY, Send, WebSocketReader
from twinwire.core.event import Event, Position
from twinwire.core.feed import Gap, Mode, Why
from twinwire.errors import BadFrame, Closed, CloseReason, CommandError

EPOCH = 1_763_800_000_000


def at(seq: int) -> Position:
    return Position(EPOCH, seq)


class Talk:
    """A reader and what it has said and yielded."""

    def __init__(
        self, channels: Sequence[str] = ("a",), since: Since = None, mode: Mode = Mode.EVERY
    ) -> None:
        self.reader = WebSocketReader(channels, mode, since)
        self.said: list[Any] = []
        self.items: list[Item] = []
        self.open()

    def open(self) -> None:
        """Open a connection and be let in."""
        assert "connect" in msgspec.json.decode(self.reader.open().text)
        self.said.clear()
        self.hear({"id": 1, "connect": {"client": "c", "ping": 25, "pong": True}})

    def hear(self, *replies: dict[str, Any]) -> list[Item]:
        """A message with these replies; returns the items that it brings."""
        before = len(self.items)
        for item in self.reader.receive(b"\n".join(map(msgspec.json.encode, replies))):
            if isinstance(item, Send):
                self.said += map(msgspec.json.decode, item.text.split("\n"))
            else:
                self.items.append(item)
        return self.items[before:]

    def asked(self) -> dict[str, dict[str, Any]]:
        """The newest subscribe request for each channel."""
        return {s["subscribe"]["channel"]: s["subscribe"] for s in self.said if "subscribe" in s}

    def answer(self, channel: str, **result: Any) -> list[Item]:
        """The server's answer to the newest subscribe request for a channel."""
        (*_, id) = (
            said["id"] for said in self.said if said.get("subscribe", {}).get("channel") == channel
        )
        return self.hear({"id": id, "subscribe": {"epoch": str(EPOCH), **result}})


def pub(seq: int, channel: str = "", **more: Any) -> dict[str, Any]:
    return {
        "data": {"n": seq},
        "offset": seq,
        "time": 1,
        **({"channel": channel} if channel else {}),
        **more,
    }


def push(name: str, seq: int, channel: str = "") -> dict[str, Any]:
    return {"push": {"channel": name, "pub": pub(seq, channel)}}


def seqs(items: Sequence[Item]) -> list[int]:
    return [item.seq for item in items if isinstance(item, Event)]


def test_channels_are_subscribed_once_the_client_is_let_in() -> None:
    talk = Talk(["a", "b.*"])
    assert talk.items == [Connected(None)]
    assert talk.asked() == {"a": {"channel": "a"}, "b.*": {"channel": "b.*"}}
    assert len({said["id"] for said in talk.said}) == 2


def test_the_mode_goes_into_the_requests_data() -> None:
    assert Talk(mode=Mode.LATEST).asked()["a"]["data"] == {"mode": "latest"}


def test_many_channels_go_into_messages_of_bounded_size() -> None:
    reader = WebSocketReader([f"channel-{n:04}.{'x' * 200}" for n in range(1000)], Mode.EVERY, None)
    reader.open()
    sends = [i for i in reader.receive('{"id":1,"connect":{}}') if isinstance(i, Send)]
    assert max(len(send.text) for send in sends) <= 32 * 1024
    assert sum(send.text.count("\n") + 1 for send in sends) == 1000


def test_a_publication_is_an_event() -> None:
    talk = Talk(["a.*"])
    talk.answer("a.*", offset=4)
    said = pub(5, "a.b", key="k", type="t", tags={"x": "y"}, info={"user": "7", "client": "c-1"})
    (item,) = talk.hear({"push": {"channel": "a.*", "pub": said}})
    assert isinstance(item, Event)
    assert (item.channel, item.position, item.json()) == ("a.b", at(5), {"n": 5})
    assert (item.key, item.type, item.tags, item.time) == ("k", "t", {"x": "y"}, 1)
    assert item.publisher is not None
    assert (item.publisher.user, item.publisher.client) == ("7", "c-1")


def test_the_data_is_what_was_published_to_the_byte() -> None:
    talk = Talk()
    talk.answer("a", offset=4)
    (item,) = talk.reader.receive(b'{"push":{"channel":"a","pub":{"data":{"b" :1.10},"offset":5}}}')
    assert isinstance(item, Event)
    assert item.data == b'{"b" :1.10}'


def test_a_ping_is_answered() -> None:
    talk = Talk()
    talk.said.clear()
    talk.hear({})
    assert talk.said == [{}]


def test_a_ping_of_a_server_that_wants_no_pong_is_not() -> None:
    talk = Talk()
    talk.reader.open()
    talk.hear({"id": 1, "connect": {"ping": 25}})
    talk.said.clear()
    talk.hear({})
    assert talk.said == []


def test_silence_is_measured_by_the_servers_pings() -> None:
    talk = Talk()
    assert talk.reader.patience == ANSWER_TIME
    talk.answer("a", offset=0)
    assert talk.reader.patience == 25 + PING_LEEWAY
    talk.reader.open()
    assert talk.reader.patience == ANSWER_TIME


def test_a_server_without_pings_may_be_silent_for_ever() -> None:
    talk = Talk()
    talk.reader.open()
    talk.hear({"id": 1, "connect": {}})
    talk.said.clear()
    talk.hear({"id": 2, "subscribe": {"epoch": "1", "offset": 0}})
    assert talk.reader.patience is None


def test_a_lost_connection_is_resumed_after_the_last_event() -> None:
    talk = Talk()
    talk.answer("a", offset=4)
    talk.hear(push("a", 5), push("a", 6))
    talk.open()
    assert talk.items[-1] == Connected(at(6))
    assert talk.asked()["a"] == {
        "channel": "a", "recover": True, "epoch": str(EPOCH), "offset": 6,
    }  # fmt: skip
    items = talk.answer("a", offset=6, recovered=True, publications=[pub(7), pub(8)])
    assert seqs(items) == [7, 8]
    assert not [item for item in talk.items if isinstance(item, Gap)]


def test_a_subscription_without_events_is_resumed_where_it_began() -> None:
    talk = Talk()
    talk.answer("a", offset=4)
    talk.open()
    assert talk.asked()["a"]["offset"] == 4


def test_an_event_moves_the_position_of_every_channel() -> None:
    talk = Talk(["a", "b"])
    talk.answer("a", offset=4)
    talk.answer("b", offset=4)
    talk.hear(push("a", 9))
    assert talk.reader.position == at(9)
    talk.open()
    assert {name: asked["offset"] for name, asked in talk.asked().items()} == {"a": 9, "b": 9}


def test_nothing_is_yielded_until_all_channels_are_answered_and_then_in_order() -> None:
    talk = Talk(["a", "b"], since=at(4))
    assert talk.answer("a", offset=4, recovered=True, publications=[pub(6), pub(9)]) == []
    assert talk.hear(push("a", 10)) == []
    items = talk.answer("b", offset=4, recovered=True, publications=[pub(5), pub(8)])
    assert seqs(items) == [5, 6, 8, 9, 10]
    assert seqs(talk.hear(push("b", 11))) == [11]


def test_a_push_before_a_channels_answer_says_nothing_about_that_channel() -> None:
    talk = Talk(["a", "b"], since=at(4))
    talk.answer("a", offset=4, recovered=True)
    talk.hear(push("a", 20))
    # The server gives a part of what was missed, and will push the rest.
    talk.answer("b", offset=4, recovered=True, publications=[pub(5, "")])
    talk.open()
    assert talk.asked()["b"]["offset"] == 5


def test_what_was_held_when_the_connection_broke_is_asked_for_again() -> None:
    talk = Talk(["a", "b"], since=at(4))
    assert talk.answer("a", offset=4, recovered=True, publications=[pub(6)]) == []
    talk.open()
    assert talk.asked()["a"]["offset"] == 4
    talk.answer("a", offset=4, recovered=True, publications=[pub(6)])
    assert seqs(talk.answer("b", offset=4, recovered=True)) == [6]


def test_who_stops_in_the_middle_of_a_message_loses_nothing() -> None:
    talk = Talk()
    talk.answer("a", offset=4)
    message = b"\n".join(msgspec.json.encode(push("a", seq)) for seq in (5, 6, 7))
    items = talk.reader.receive(message)
    assert isinstance(next(items), Event)
    assert talk.reader.position == at(5)
    del items
    talk.open()
    assert talk.asked()["a"]["offset"] == 5


def test_what_cannot_be_recovered_is_a_gap() -> None:
    talk = Talk(since=at(4))
    (gap,) = talk.answer("a", offset=90, recovered=False, was_recovering=True)
    assert gap == Gap(at(4), at(90), Why.EVICTED, ("a",))
    assert seqs(talk.hear(push("a", 91))) == [91]
    talk.open()
    assert talk.asked()["a"]["offset"] == 91


@pytest.mark.parametrize("start", [Position(EPOCH + 1, 3), Position(EPOCH - 1, 300)])
def test_another_log_is_a_gap_too(start: Position) -> None:
    talk = Talk(since=at(4))
    (gap,) = talk.answer("a", epoch=str(start.epoch), offset=start.seq)
    assert gap == Gap(at(4), start, Why.RESTARTED, ("a",))
    assert talk.reader.position == start


def test_a_position_beyond_the_head_is_another_logs() -> None:
    (gap,) = Talk(since=at(100)).answer("a", offset=7)
    assert gap == Gap(at(100), at(7), Why.RESTARTED, ("a",))


def test_a_new_subscription_has_no_gap() -> None:
    assert Talk().answer("a", offset=90) == []


def test_the_earliest_is_asked_for_by_no_position() -> None:
    talk = Talk(since=EARLIEST)
    assert talk.asked()["a"] == {"channel": "a", "recover": True}
    items = talk.answer("a", offset=0, recovered=True, publications=[pub(1), pub(2)])
    assert seqs(items) == [1, 2]


def test_the_earliest_that_is_not_the_first_is_after_a_gap() -> None:
    (gap,) = Talk(since=EARLIEST).answer("a", offset=50)
    assert gap == Gap(at(0), at(50), Why.EVICTED, ("a",))


def test_a_snapshot_is_yielded_and_resumed_after_what_has_come_of_it() -> None:
    talk = Talk(mode=Mode.LATEST)
    items = talk.answer("a", offset=90, recovered=False, publications=[pub(10), pub(20)])
    assert seqs(items) == [10, 20]
    assert talk.reader.position == at(20)
    assert seqs(talk.hear(push("a", 30))) == [30]


def test_of_a_snapshot_anew_only_what_is_news_is_yielded() -> None:
    talk = Talk(since=at(5), mode=Mode.LATEST)
    items = talk.answer("a", recovered=False, offset=7, publications=[pub(2), pub(4)])
    assert items == [Gap(at(5), at(7), Why.EVICTED, ("a",))]
    assert seqs(talk.hear(push("a", 5), push("a", 6))) == [6]
    talk.open()
    assert talk.asked()["a"]["offset"] == 6


def test_of_another_logs_snapshot_everything_is_news() -> None:
    talk = Talk(since=Position(EPOCH - 1, 5), mode=Mode.LATEST)
    items = talk.answer("a", recovered=False, offset=4, publications=[pub(2), pub(4)])
    assert seqs(items) == [2, 4]


def test_an_event_of_overlapping_subscriptions_is_yielded_once() -> None:
    talk = Talk(["a.*", "a.b", ">"])
    for name in ("a.*", "a.b", ">"):
        talk.answer(name, offset=4)
    items = talk.hear(push("a.*", 5, "a.b"), push("a.b", 5), push(">", 5, "a.b"), push(">", 6, "x"))
    assert seqs(items) == [5, 6]


def test_it_is_yielded_once_when_recovered_too() -> None:
    talk = Talk(["a.*", "a.b"], since=at(4))
    talk.answer("a.*", offset=4, recovered=True, publications=[pub(5, "a.b"), pub(6, "a.c")])
    items = talk.answer("a.b", offset=4, recovered=True, publications=[pub(5)])
    assert seqs(items) == [5, 6]


def test_what_one_of_them_has_lost_another_may_bring() -> None:
    talk = Talk(["a.*", "a.b"], since=at(4))
    talk.answer("a.*", offset=9, recovered=False)
    items = talk.answer("a.b", offset=4, recovered=True, publications=[pub(5), pub(9)])
    assert seqs(items) == [5, 9]


def test_what_one_has_lost_is_not_yielded_after_a_later_event_of_its_channel() -> None:
    talk = Talk(["a.b", "a.*"], since=at(1))
    talk.answer("a.*", recovered=True, offset=1)
    items = talk.answer("a.b", recovered=False, offset=8)
    assert items == [Gap(at(1), at(8), Why.EVICTED, ("a.b",))]
    assert seqs(talk.hear(push("a.*", 5, "a.b"))) == [5]
    talk.open()
    talk.answer("a.*", recovered=True, offset=5)
    assert seqs(talk.answer("a.b", recovered=True, offset=8, publications=[pub(9)])) == [9]
    assert seqs(talk.hear(push("a.*", 6, "a.c"), push("a.*", 7, "a.b"))) == [6]


def test_a_channel_that_the_server_has_lost_track_of_is_subscribed_again() -> None:
    talk = Talk(["a", "b"])
    talk.answer("a", offset=4)
    talk.answer("b", offset=4)
    talk.hear(push("b", 6))
    talk.said.clear()
    why = {"code": 2500, "reason": "insufficient state"}
    talk.hear({"push": {"channel": "a", "unsubscribe": why}})
    assert talk.asked() == {
        "a": {"channel": "a", "recover": True, "epoch": str(EPOCH), "offset": 6}
    }
    assert talk.answer("a", offset=50) == [Gap(at(6), at(50), Why.EVICTED, ("a",))]


def test_a_channel_that_the_server_has_taken_away_is_an_error() -> None:
    talk = Talk()
    talk.answer("a", offset=4)
    with pytest.raises(Refused, match=r"a: server unsubscribe \(2000\)"):
        talk.hear(
            {
                "push": {
                    "channel": "a",
                    "unsubscribe": {"code": 2000, "reason": "server unsubscribe"},
                }
            }
        )


def test_a_refused_channel_is_named() -> None:
    talk = Talk(["a", "b"])
    with pytest.raises(CommandError) as caught:
        talk.hear(
            {"id": talk.said[1]["id"], "error": {"code": 103, "message": "permission denied"}}
        )
    assert str(caught.value) == "b: permission denied (103)"


def test_a_temporary_refusal_is_a_reason_to_come_back() -> None:
    talk = Talk()
    error = {"code": 100, "message": "internal server error", "temporary": True}
    with pytest.raises(ComeBack, match="internal server error"):
        talk.hear({"id": talk.said[0]["id"], "error": error})


def test_a_refused_connection_is_final() -> None:
    reader = WebSocketReader(["a"], Mode.EVERY, None)
    reader.open()
    with pytest.raises(CommandError, match="unauthorized"):
        list(reader.receive('{"id":1,"error":{"code":101,"message":"unauthorized"}}'))


def test_what_came_before_the_end_is_yielded() -> None:
    talk = Talk()
    talk.answer("a", offset=4)
    end = {"push": {"disconnect": {"code": 3507, "reason": "permission denied"}}}
    with pytest.raises(Closed) as caught:
        talk.hear(push("a", 5), end, push("a", 6))
    assert caught.value.reason is CloseReason.DENIED
    assert seqs(talk.items) == [5]
    assert talk.reader.position == at(5)


@pytest.mark.parametrize(
    "message",
    [
        b"hello",
        b"[]",
        b"{} x",
        b'{"id":"x"}',
        b'{"id":2,"subscribe":{}}',
        b'{"id":2,"subscribe":{"epoch":"x","offset":1}}',
        b'{"id":2,"subscribe":{"epoch":"1","offset":-1}}',
        b'{"push":{"channel":"a","pub":{"offset":"x"}}}',
        b'{"push":{"channel":"\xff"}}',
    ],
)
def test_what_is_not_the_protocol_is_a_bad_frame(message: bytes) -> None:
    with pytest.raises(BadFrame):
        list(Talk().reader.receive(message))


@pytest.mark.parametrize(
    "reply",
    [
        push("unknown", 5),
        {"push": {"channel": "unknown", "unsubscribe": {"code": 2500}}},
        {"push": {"channel": "a", "join": {"info": {"user": "8", "client": "c"}}}},
        {"push": {"channel": "a", "message": {"data": 1}}},
        {"id": 77, "subscribe": {"epoch": "1", "offset": 1}},
        {"id": 78, "rpc": {"data": 1}},
    ],
)
def test_what_was_not_asked_for_is_passed_over(reply: dict[str, Any]) -> None:
    talk = Talk()
    talk.answer("a", offset=4)
    assert talk.hear(reply) == []
    assert seqs(talk.hear(push("a", 5))) == [5]


@pytest.mark.parametrize(("before", "between"), [(b"", b"\n"), (b"\n", b"\n\n")])
def test_replies_share_a_message_however_they_are_joined(before: bytes, between: bytes) -> None:
    talk = Talk()
    talk.answer("a", offset=4)
    lines = [msgspec.json.encode(push("a", seq)) for seq in (5, 6)]
    message = before + between.join(lines) + before
    assert seqs([i for i in talk.reader.receive(message) if not isinstance(i, Send)]) == [5, 6]
