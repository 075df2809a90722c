"""The conversation of one client, rule by rule, without a socket or a clock."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from tests.core.samples import EPOCH
from twinwire.core.effects import (
    Call,
    Close,
    Connect,
    Effect,
    History,
    Notify,
    Present,
    Publish,
    Send,
    Subscribe,
    Unsubscribe,
)
from twinwire.core.event import Position
from twinwire.core.feed import Feed, Mode
from twinwire.core.grants import Grants
from twinwire.core.protocol import Command, Publication
from twinwire.core.session import Limits, Session
from twinwire.errors import CloseReason, CommandError, Refusal, Unsubscribed
from twinwire.wires.centrifuge_json import MESSAGES

LIMITS = Limits(
    channels=3, in_flight=2, ping=25.0, pong_timeout=8.0, connect_timeout=10.0, rate=1000
)
GRANTS = Grants(subscribe=("open.>", "a", "b", "c", "d", "*"), publish=("open.>", "a"))
START = 1000.0
FIRST_PING = 20.0


class Talk:
    """A session whose outside does the simple things, and leaves the rest to the test."""

    def __init__(self, limits: Limits = LIMITS, grants: Grants = GRANTS) -> None:
        self.grants = grants
        self.feed = Feed(MESSAGES)
        self.session = Session(
            "c-1", [self.feed], limits, "twinwire 1", now=START, first_ping=FIRST_PING
        )

    def say(self, *commands: Any) -> list[Any]:
        """What follows from these commands: replies as dicts, a close as its code, else effects."""
        heard: list[Any] = []
        for effect in self.session.receive([command(each) for each in commands], START):
            heard += self.shown(self.carry_out(effect))
        return heard

    def carry_out(self, effect: Effect) -> list[Effect]:
        session = self.session
        match effect:
            case Connect(id, _):
                return session.connected(id, self.grants)
            case Subscribe():
                self.feed.add(effect.selector, effect.mode, 7)
                return session.subscribed(effect, [], False, Position(EPOCH, 7))
            case Unsubscribe(id, selector):
                self.feed.drop([selector])
                return session.unsubscribed(id)
        return [effect]

    def beat(self, after: float) -> list[Any]:
        return self.shown(self.session.beat(START + after))

    @staticmethod
    def shown(effects: list[Effect]) -> list[Any]:
        shown: list[Any] = []
        for effect in effects:
            match effect:
                case Send(reply):
                    shown.append(json.loads(msgspec.json.encode(reply)))
                case Close(reason):
                    shown.append(reason.code)
                case _:
                    shown.append(effect)
        return shown


def command(given: Any) -> Command:
    return msgspec.json.decode(json.dumps(given), type=Command)


def connected(limits: Limits = LIMITS, grants: Grants = GRANTS) -> Talk:
    talk = Talk(limits, grants)
    talk.say({"id": 1, "connect": {}})
    return talk


def error(id: int, refusal: Refusal) -> dict[str, Any]:
    code, message, temporary = refusal.value
    said = {"code": code, "message": message} | ({"temporary": True} if temporary else {})
    return {"id": id, "error": said}


# Beginning


def test_a_connect_is_answered_with_who_the_client_is_and_how_often_it_is_pinged() -> None:
    assert Talk().say(
        {"id": 1, "connect": {"name": "js", "version": "5", "headers": {"a": "b"}}}
    ) == [
        {
            "id": 1,
            "connect": {"client": "c-1", "version": "twinwire 1", "ping": 25, "pong": True},
        }
    ]


@pytest.mark.parametrize(
    "first",
    [
        {},
        {"id": 1},
        {"id": 1, "subscribe": {"channel": "a"}},
        {"id": 1, "ping": {}},
        {"send": {"data": 1}},
        {"connect": {}},
        {"id": 1, "rpc": {"method": "x"}},
    ],
)
def test_a_first_command_that_is_no_connect_ends_the_session(first: Any) -> None:
    talk = Talk()
    assert talk.say(first) == [3501]
    assert talk.say({"id": 2, "connect": {}}) == []


def test_a_second_connect_ends_the_session() -> None:
    assert connected().say({"id": 2, "connect": {}}) == [3501]


def test_nothing_is_taken_before_the_connect_is_answered() -> None:
    talk = Talk()
    (effect,) = talk.session.receive([command({"id": 1, "connect": {}})], START)
    assert isinstance(effect, Connect)
    assert talk.say({"id": 2, "subscribe": {"channel": "a"}}) == [3501]
    assert talk.session.connected(1, GRANTS) == []


def test_commands_of_one_frame_mean_what_they_mean_one_by_one() -> None:
    frame = [
        {"id": 1, "connect": {}},
        {"id": 2, "subscribe": {"channel": "a"}},
        {"id": 3, "subscribe": {"channel": "a"}},
        {"id": 4, "unsubscribe": {"channel": "a"}},
        {"id": 5, "subscribe": {"channel": "a"}},
    ]
    together = Talk().say(*frame)
    talk = Talk()
    assert together == [reply for each in frame for reply in talk.say(each)]
    assert together[2] == error(3, Refusal.ALREADY_SUBSCRIBED)
    assert [reply["id"] for reply in together] == [1, 2, 3, 4, 5]


def test_nothing_comes_out_after_the_end() -> None:
    talk = connected()
    subscribe = {"id": 3, "subscribe": {"channel": "a"}}
    assert talk.say({"id": 2}, subscribe) == [3501]
    assert talk.say(subscribe, {}, {"id": 4, "connect": {}}) == []
    assert talk.beat(1e6) == []
    assert talk.session.published(4) == []
    assert talk.session.answered(4, Raw(b"1")) == []
    assert talk.session.refused(4, Refusal.INTERNAL.error()) == []


# Ids, pings and time


@pytest.mark.parametrize("unknown", [{"id": 2}, {"id": 2, "dance": {}}, {"id": 2, "emulate": 1}])
def test_a_command_that_asks_for_nothing_known_ends_the_session(unknown: Any) -> None:
    assert connected().say(unknown) == [3501]


@pytest.mark.parametrize("pong", [{}, {"id": 0}, {"id": 0, "subscribe": {"channel": "a"}}])
def test_a_command_without_an_id_is_a_pong_and_must_have_been_asked_for(pong: Any) -> None:
    talk = connected()
    assert talk.beat(FIRST_PING) == [{}]
    assert talk.say(pong) == []
    assert talk.say(pong) == [3501]


def test_a_pong_before_any_ping_ends_the_session() -> None:
    assert connected().say({}) == [3501]


def test_a_ping_of_the_clients_is_answered() -> None:
    assert connected().say({"id": 2, "ping": {}}) == [{"id": 2, "ping": {}}]


def test_a_client_that_never_connects_is_stale_after_the_timeout() -> None:
    talk = Talk()
    assert talk.beat(9.9) == []
    assert talk.beat(10) == [3502]
    assert talk.beat(11) == []


def test_a_connect_that_is_never_answered_is_stale_too() -> None:
    talk = Talk()
    list(talk.session.receive([command({"id": 1, "connect": {}})], START))
    assert talk.beat(10) == [3502]


def test_pings_come_on_schedule_from_the_first_on() -> None:
    talk = connected()
    pinged = []
    for second in range(1, 101):
        for reply in talk.beat(second):
            assert reply == {}
            pinged.append(second)
            talk.say({})
    assert pinged == [20, 45, 70, 95]


def test_a_beat_that_comes_very_late_pings_once_and_the_schedule_goes_on_from_there() -> None:
    talk = connected()
    assert talk.beat(200) == [{}]
    talk.say({})
    assert talk.beat(224.9) == []
    assert talk.beat(225) == [{}]


def test_a_ping_without_a_pong_ends_the_session_after_the_timeout() -> None:
    talk = connected()
    talk.beat(20)
    assert talk.beat(27.9) == []
    assert talk.beat(28) == [3012]


def test_other_commands_are_no_pong() -> None:
    talk = connected()
    talk.beat(20)
    talk.say({"id": 2, "ping": {}}, {"send": {"data": 1}})
    assert talk.beat(28) == [3012]


def test_a_pong_within_the_timeout_keeps_the_session() -> None:
    talk = connected()
    talk.beat(20)
    talk.say({})
    assert talk.beat(28) == []


def test_a_dead_client_is_found_also_when_pings_are_more_frequent_than_the_timeout() -> None:
    talk = connected(LIMITS._replace(ping=2.0))
    assert talk.beat(20) == [{}]
    assert talk.beat(22) == [{}]
    talk.say({})  # for the first of them, after two seconds on its way
    assert talk.beat(24) == [{}]
    assert talk.beat(29.9) == [{}]
    assert talk.beat(30) == [3012]


def test_a_ping_period_below_a_second_is_told_as_one() -> None:
    (reply,) = Talk(LIMITS._replace(ping=0.2)).say({"id": 1, "connect": {}})
    assert reply["connect"]["ping"] == 1


# Subscribing


@pytest.mark.parametrize(
    ("request_", "selector", "mode", "since", "recovering", "strict"),
    [
        ({}, "a", Mode.EVERY, None, False, False),
        ({"channel": "open.*"}, "open.*", Mode.EVERY, None, False, False),
        ({"channel": "open.>"}, "open.>", Mode.EVERY, None, False, False),
        ({"data": {"mode": "latest"}}, "a", Mode.LATEST, None, False, False),
        ({"data": {"mode": "every", "x": 1}}, "a", Mode.EVERY, None, False, False),
        ({"data": {}}, "a", Mode.EVERY, None, False, False),
        ({"data": None}, "a", Mode.EVERY, None, False, False),
        ({"flag": 1}, "a", Mode.EVERY, None, False, False),
        ({"flag": 2}, "a", Mode.EVERY, None, False, True),
        ({"flag": 3}, "a", Mode.EVERY, None, False, True),
        (
            {"recover": True, "epoch": str(EPOCH), "offset": 9},
            "a", Mode.EVERY, Position(EPOCH, 9), True, False,
        ),
        ({"recover": True, "epoch": "abc", "offset": 9}, "a", Mode.EVERY, None, True, False),
        ({"recover": True, "epoch": "1", "offset": -9}, "a", Mode.EVERY, None, True, False),
        ({"recover": True, "epoch": "1", "offset": 2**60}, "a", Mode.EVERY, None, True, False),
        ({"epoch": str(EPOCH), "offset": 9}, "a", Mode.EVERY, None, False, False),
        (
            {"token": "t", "positioned": True, "recoverable": True, "join_leave": True,
             "delta": "fossil", "tf": {}, "type": 1},
            "a", Mode.EVERY, None, False, False,
        ),
    ],
)  # fmt: skip
def test_a_subscribe_says_which_channel_how_and_from_where(
    request_: dict[str, Any],
    selector: str,
    mode: Mode,
    since: Position | None,
    recovering: bool,
    strict: bool,
) -> None:
    talk = connected()
    asked = command({"id": 2, "subscribe": {"channel": "a", **request_}})
    (effect,) = talk.session.receive([asked], START)
    join_leave = request_.get("join_leave", False)
    assert effect == Subscribe(2, selector, mode, since, recovering, 0, strict, join_leave)


@pytest.mark.parametrize(
    ("request_", "refusal", "text"),
    [
        ({}, Refusal.BAD_REQUEST, "it is empty"),
        ({"channel": ""}, Refusal.BAD_REQUEST, "it is empty"),
        ({"channel": "x" * 300}, Refusal.BAD_REQUEST, "300 characters"),
        ({"channel": "a\nb"}, Refusal.BAD_REQUEST, "control character"),
        ({"channel": "a b"}, Refusal.BAD_REQUEST, "a space"),
        ({"channel": "a..b"}, Refusal.BAD_REQUEST, "single dots"),
        ({"channel": "a*.b"}, Refusal.BAD_REQUEST, "whole token"),
        ({"channel": ">.b"}, Refusal.BAD_REQUEST, "whole last one"),
        ({"channel": "closed.b"}, Refusal.PERMISSION_DENIED, "permission denied"),
        ({"channel": ">"}, Refusal.PERMISSION_DENIED, "permission denied"),
        ({"channel": "a", "data": {"mode": "some"}}, Refusal.BAD_REQUEST, '{"mode":"every"}'),
        ({"channel": "a", "data": {"mode": 1}}, Refusal.BAD_REQUEST, '{"mode":"every"}'),
        ({"channel": "a", "data": "latest"}, Refusal.BAD_REQUEST, '{"mode":"every"}'),
        ({"channel": "a", "data": [[]]}, Refusal.BAD_REQUEST, '{"mode":"every"}'),
    ],
)
def test_a_subscribe_that_cannot_be_is_refused_and_the_session_goes_on(
    request_: dict[str, Any], refusal: Refusal, text: str
) -> None:
    talk = connected()
    (reply,) = talk.say({"id": 2, "subscribe": request_})
    assert reply["error"]["code"] == refusal.code
    assert text in reply["error"]["message"]
    assert talk.say({"id": 3, "ping": {}}) == [{"id": 3, "ping": {}}]


def test_the_channels_of_a_session_are_limited_and_the_limit_is_named() -> None:
    talk = connected()
    talk.say(*({"id": 2, "subscribe": {"channel": c}} for c in ("a", "b", "c")))
    (reply,) = talk.say({"id": 5, "subscribe": {"channel": "d"}})
    assert reply["error"] == {
        "code": 106,
        "message": "limit exceeded: 3 channels (channels_per_connection)",
    }
    talk.say({"id": 6, "unsubscribe": {"channel": "a"}})
    (reply,) = talk.say({"id": 7, "subscribe": {"channel": "d"}})
    assert "subscribe" in reply


def test_a_channel_is_subscribed_to_once_at_a_time() -> None:
    talk = connected()
    subscribe = {"id": 2, "subscribe": {"channel": "a"}}
    talk.say(subscribe)
    assert talk.say(subscribe) == [error(2, Refusal.ALREADY_SUBSCRIBED)]
    talk.say({"id": 3, "unsubscribe": {"channel": "a"}})
    assert "subscribe" in talk.say(subscribe)[0]


@pytest.mark.parametrize(
    ("recovering", "recovered", "flags"),
    [
        (False, False, {}),
        # Without having asked there is nothing to have been recovered.
        (False, True, {}),
        (True, False, {"was_recovering": True}),
        (True, True, {"was_recovering": True, "recovered": True}),
    ],
)
def test_the_answer_to_a_subscribe_says_what_was_recovered(
    recovering: bool, recovered: bool, flags: dict[str, bool]
) -> None:
    talk = connected()
    effect = Subscribe(2, "a", Mode.EVERY, None, recovering, 0, strict=False, join_leave=False)
    missed = [Publication(Raw(b'{"n":5}'), offset=5)] if recovered else []
    said = talk.session.subscribed(effect, missed, recovered, Position(EPOCH, 4))
    assert talk.shown(said) == [
        {
            "id": 2,
            "subscribe": {
                "recoverable": True,
                "positioned": True,
                "epoch": str(EPOCH),
                "offset": 4,
                **flags,
                **({"publications": [{"data": {"n": 5}, "offset": 5}]} if recovered else {}),
            },
        }
    ]


def test_an_unsubscribe_is_answered_also_for_a_channel_that_was_none() -> None:
    assert connected().say({"id": 2, "unsubscribe": {"channel": "a"}}) == [
        {"id": 2, "unsubscribe": {}}
    ]


@pytest.mark.parametrize("why", Unsubscribed)
def test_the_server_can_end_one_subscription(why: Unsubscribed) -> None:
    talk = connected()
    assert talk.shown(talk.session.expel("a", why)) == [
        {"push": {"channel": "a", "unsubscribe": {"code": why.code, "reason": why.text}}}
    ]


# Publishing, calling, sending


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"channel": "closed", "data": 1}, 103),
        ({"channel": "b", "data": 1}, 103),
        ({"channel": "a.*", "data": 1}, 107),
        ({"channel": "", "data": 1}, 107),
        ({"channel": "a"}, 107),
    ],
)
def test_a_publish_that_is_not_granted_or_makes_no_sense_is_refused(
    request_: dict[str, Any], code: int
) -> None:
    (reply,) = connected().say({"id": 2, "publish": request_})
    assert reply["error"]["code"] == code


def test_publish_rpc_and_send_are_given_to_the_outside_and_answered_from_there() -> None:
    talk = connected()
    session = talk.session
    assert talk.say({"id": 2, "publish": {"channel": "open.a", "data": {"n": 1}}}) == [
        Publish(2, "open.a", Raw(b'{"n": 1}'))
    ]
    assert talk.shown(session.published(2)) == [{"id": 2, "publish": {}}]
    assert talk.say({"id": 3, "rpc": {"method": "sum", "data": [1, 2]}}) == [
        Call(3, "sum", Raw(b"[1, 2]"))
    ]
    assert talk.shown(session.answered(3, Raw(b"3"))) == [{"id": 3, "rpc": {"data": 3}}]
    assert talk.say({"id": 4, "rpc": {}}) == [Call(4, "", Raw())]
    assert talk.shown(session.refused(4, CommandError(400, "no", temporary=True))) == [
        {"id": 4, "error": {"code": 400, "message": "no", "temporary": True}}
    ]
    assert talk.say({"send": {"data": {"n": 1}}}) == [Notify(Raw(b'{"n": 1}'))]
    assert session.notified() == []
    assert talk.say({"id": 5, "send": {"data": 1}}) == [Notify(Raw(b"1"))]


def test_commands_in_flight_are_bounded_and_the_limit_is_named() -> None:
    talk = connected()
    publish = {"channel": "a", "data": 1}
    assert talk.say({"id": 2, "publish": publish}, {"id": 3, "rpc": {"method": "x"}}) == [
        Publish(2, "a", Raw(b"1")),
        Call(3, "x", Raw()),
    ]
    too_many = {
        "code": 111,
        "message": "too many requests: 2 at once (commands_in_flight)",
        "temporary": True,
    }
    assert talk.say({"id": 4, "publish": publish}, {"id": 5, "rpc": {"method": "x"}}) == [
        {"id": 4, "error": too_many},
        {"id": 5, "error": too_many},
    ]
    # What is done at once is not held up.
    assert talk.say({"id": 6, "ping": {}}) == [{"id": 6, "ping": {}}]
    talk.session.published(2)
    assert talk.say({"id": 7, "rpc": {"method": "x"}}) == [Call(7, "x", Raw())]
    talk.session.refused(3, Refusal.INTERNAL.error())
    assert talk.say({"id": 8, "rpc": {"method": "x"}}) == [Call(8, "x", Raw())]


def test_a_send_over_the_bound_ends_the_session_since_it_cannot_be_answered() -> None:
    talk = connected()
    send = {"send": {"data": 1}}
    assert len(talk.say(send, send)) == 2
    assert talk.say(send) == [3013]


def test_a_send_that_was_taken_makes_room() -> None:
    talk = connected()
    for _ in range(10):
        assert talk.say({"send": {"data": 1}}) == [Notify(Raw(b"1"))]
        talk.session.notified()


# History and what is not there


@pytest.mark.parametrize(
    ("request_", "effect"),
    [
        ({}, History(2, "a", 0, None, False)),
        ({"limit": 5}, History(2, "a", 5, None, False)),
        ({"limit": -1, "reverse": True}, History(2, "a", -1, None, True)),
        (
            {"since": {"epoch": str(EPOCH), "offset": 3}},
            History(2, "a", 0, Position(EPOCH, 3), False),
        ),
        ({"since": {"epoch": str(EPOCH)}}, History(2, "a", 0, Position(EPOCH, 0), False)),
    ],
)
def test_a_history_request_is_passed_on(request_: dict[str, Any], effect: History) -> None:
    assert connected().say({"id": 2, "history": {"channel": "a", **request_}}) == [effect]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"channel": "closed.a"}, 103),
        ({"channel": "a.*"}, 107),
        ({"channel": ""}, 107),
        ({"channel": "a", "since": {"epoch": "x", "offset": 1}}, 112),
        ({"channel": "a", "since": {}}, 112),
    ],
)
def test_a_history_that_cannot_be_read_is_refused(request_: dict[str, Any], code: int) -> None:
    (reply,) = connected().say({"id": 2, "history": request_})
    assert reply["error"]["code"] == code


@pytest.mark.parametrize(("name", "stats"), [("presence", False), ("presence_stats", True)])
def test_who_is_in_a_channel_is_asked_of_the_outside_by_those_who_may_read_it(
    name: str, stats: bool
) -> None:
    talk = connected()
    assert talk.say({"id": 2, name: {"channel": "a"}}) == [Present(2, "a", stats)]
    assert talk.say({"id": 3, name: {"channel": "closed.a"}}) == [
        error(3, Refusal.PERMISSION_DENIED)
    ]
    for channel in ("", "a.*", "a b"):
        (reply,) = talk.say({"id": 4, name: {"channel": channel}})
        assert reply["error"]["code"] == 107


@pytest.mark.parametrize("name", ["refresh", "sub_refresh"])
def test_what_is_not_served_is_refused_as_not_available(name: str) -> None:
    assert connected().say({"id": 2, name: {"channel": "a"}}) == [error(2, Refusal.NOT_AVAILABLE)]


# Everything at once

SMALL = Limits(channels=2, in_flight=1, ping=3.0, pong_timeout=2.0, connect_timeout=4.0, rate=1000)
small = st.integers(0, 3)
names = st.sampled_from(["a", "b", "*", "closed.x", "", "a b"])
requests = st.one_of(
    st.fixed_dictionaries({"connect": st.just({})}),
    st.fixed_dictionaries(
        {"subscribe": st.fixed_dictionaries({"channel": names, "recover": st.booleans()})}
    ),
    st.fixed_dictionaries({"unsubscribe": st.fixed_dictionaries({"channel": names})}),
    st.fixed_dictionaries({"publish": st.fixed_dictionaries({"channel": names, "data": small})}),
    st.fixed_dictionaries({"history": st.fixed_dictionaries({"channel": names})}),
    st.fixed_dictionaries({"presence": st.fixed_dictionaries({"channel": names})}),
    st.sampled_from(
        [{}, {"ping": {}}, {"rpc": {"method": "x"}}, {"send": {"data": 1}}, {"refresh": {}}]
    ),
)
commands = st.builds(lambda id, request: {"id": id, **request}, st.integers(0, 5), requests)
steps = st.one_of(
    st.lists(commands, max_size=4), st.floats(0, 3), st.sampled_from(["done", "failed"])
)


@given(st.lists(steps, max_size=30), st.booleans())
def test_every_command_with_an_id_has_one_answer_and_nothing_follows_the_end(
    script: list[Any], connect: bool
) -> None:
    talk = Talk(SMALL)
    now = 0.0
    open_: list[Any] = []
    asked: list[int] = []
    heard: list[Any] = []
    if connect:
        heard += talk.say({"id": 9, "connect": {}})
        asked.append(9)
    for step in script:
        ended = any(isinstance(each, int) for each in heard)
        if isinstance(step, list):
            said = talk.say(*step)
            asked += [each["id"] for each in step if each["id"]]
        elif isinstance(step, float):
            now += step
            said = talk.beat(now)
        elif open_:
            done = open_.pop(0)
            if isinstance(done, Notify):
                said = talk.shown(talk.session.notified())
            elif step == "failed":
                said = talk.shown(talk.session.refused(done.id, Refusal.INTERNAL.error()))
            else:
                said = talk.shown(talk.session.answered(done.id, Raw(b"1")))
        else:
            said = []
        assert not (ended and said)
        heard += said
        open_ += [each for each in said if isinstance(each, Publish | Call | Notify)]
        assert len(open_) <= SMALL.in_flight
        assert len(talk.feed.selection) <= SMALL.channels
    ends = [each for each in heard if isinstance(each, int)]
    assert len(ends) <= 1
    assert set(ends) <= {reason.code for reason in CloseReason}
    answers = [each["id"] for each in heard if isinstance(each, dict) and "id" in each]
    answers += [
        each.id for each in heard if isinstance(each, History | Present)
    ]  # answered by the outside alone
    waiting = [each.id for each in open_ if not isinstance(each, Notify)]
    if ends:
        assert len(answers) + len(waiting) <= len(asked)
    else:
        # A `send` may have an id and has no answer all the same.
        said_ = [each for step in script if isinstance(step, list) for each in step]
        sends = [each["id"] for each in said_ if each["id"] and "send" in each]
        assert sorted(answers + waiting + sends) == sorted(asked)
