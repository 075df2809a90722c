"""The hub in one process: publishing to it, reading from it, its beginning and its end."""

import asyncio
import gc
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from tests.waiting import until
from twinwire import Caller, CommandError, Event, Hub, Lost, Mode, Position, Settings
from twinwire.errors import (
    BadChannel,
    BadEvent,
    BadPosition,
    BadSettings,
    Closed,
    CloseReason,
    NotRunning,
    TooLarge,
)


async def attached(hub: Hub, *channels: str, **how: Any) -> AsyncGenerator[Event]:
    """A subscription that has begun: what is published now comes."""
    before = len(hub.fanout.feeds)
    events = hub.subscribe(*channels, **how)
    first = asyncio.ensure_future(anext(events))
    await until(lambda: len(hub.fanout.feeds) > before)
    await hub.publish(channels[0].replace("*", "begin"), "begin")
    assert (await first).json() == "begin"
    return events


async def take(events: AsyncGenerator[Event], count: int) -> list[Any]:
    return [(await anext(events)).json() for _ in range(count)]


# Publishing


async def test_a_publish_gives_the_events_position_in_the_one_order_of_all_channels() -> None:
    async with Hub() as hub:
        positions = [await hub.publish(channel, 1) for channel in ("a", "b", "a")]
        assert [position.seq for position in positions] == [1, 2, 3]
        assert len({position.epoch for position in positions}) == 1
        assert hub.log.position == positions[-1]


@pytest.mark.parametrize(
    ("channel", "data", "fields", "error"),
    [
        ("", 1, {}, BadChannel),
        ("a.*", 1, {}, BadChannel),
        ("x" * 256, 1, {}, BadChannel),
        ("a", object(), {}, BadEvent),
        ("a", {1, 2}, {"key": ""}, BadEvent),
        ("a", float, {}, BadEvent),
        ("a", 1, {"type": "gap"}, BadEvent),
        ("a", 1, {"tags": {"a": "\n"}}, BadEvent),
        ("a", "\ud800", {}, BadEvent),
        ("a", "x" * 65_537, {}, TooLarge),
    ],
)
async def test_what_cannot_be_published_raises_and_leaves_no_trace(
    channel: str, data: Any, fields: dict[str, Any], error: type[Exception]
) -> None:
    async with Hub() as hub:
        with pytest.raises(error):
            await hub.publish(channel, data, **fields)
        assert hub.log.head == 0


async def test_publishing_with_nobody_listening_encodes_nothing() -> None:
    async with Hub() as hub:
        encoded = []

        class Counting:
            per_selector = False
            separator = b""

            def event(self, event: Event, selector: str) -> Any:
                encoded.append(event)
                return event

        elsewhere = await attached(hub, "elsewhere")
        for groups in hub.fanout.lanes._groups.values():
            assert list(groups)
        hub.fanout.lanes._groups["elsewhere"][Counting()] = next(
            iter(hub.fanout.lanes._groups["elsewhere"].values())
        )
        for _ in range(1000):
            await hub.publish("a", {"n": 1})
        assert encoded == []
        assert not hub.fanout.lanes.dirty
        await elsewhere.aclose()


async def test_a_publisher_that_never_pauses_lets_others_run() -> None:
    async with Hub(publish_ahead=100) as hub:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        for _ in range(10_000):
            await hub.publish("a", 1)
        task.cancel()
        assert turns >= 90


async def test_a_publisher_waits_for_the_fan_out_and_a_slow_reader_gets_everything() -> None:
    async with Hub(publish_ahead=50) as hub:
        events = await attached(hub, "a")

        async def publish() -> None:
            for n in range(5000):
                await hub.publish("a", n)
                assert hub.fanout.ahead <= 50

        publishing = asyncio.create_task(publish())
        assert await take(events, 5000) == list(range(5000))
        await publishing
        await events.aclose()


async def test_a_publisher_waits_also_for_the_bytes_to_be_given_out() -> None:
    async with Hub(publish_ahead_bytes=10_000) as hub:
        for _ in range(100):
            await hub.publish("a", "x" * 3000)
            assert hub.fanout.ahead_bytes <= 10_000 + 3000


async def test_a_publisher_that_waits_hears_of_the_end() -> None:
    hub = Hub(publish_ahead=1)
    await hub.start()
    await hub.publish("a", 1)
    waiting = asyncio.ensure_future(hub.publish("a", 2))
    await hub.stop()
    with pytest.raises(NotRunning):
        await waiting


# Subscribing


async def test_a_subscriber_gets_its_channels_and_patterns_in_order_once() -> None:
    async with Hub() as hub:
        events = await attached(hub, "a.*", "a.b", "c")
        for n, channel in enumerate(["a.b", "x", "c", "a.z", "a", "a.b.c", "c"]):
            await hub.publish(channel, n)
        got = [await anext(events) for _ in range(4)]
        assert [(event.channel, event.json()) for event in got] == [
            ("a.b", 0), ("c", 2), ("a.z", 3), ("c", 6),
        ]  # fmt: skip
        assert sorted(event.seq for event in got) == [event.seq for event in got]
        await events.aclose()


async def test_an_event_comes_with_all_that_was_published() -> None:
    async with Hub() as hub:
        events = await attached(hub, "a")
        position = await hub.publish("a", {"n": 1}, key="k", type="t", tags={"x": "y"})
        await hub.publish("a", b"\xff")
        await hub.publish("a", "text")
        await hub.publish("a", msgspec.Raw(b'{"raw":1}'))
        event = await anext(events)
        assert (event.position, event.key, event.type) == (position, "k", "t")
        assert event.tags == {"x": "y"}
        assert await take(events, 3) == [b"\xff", "text", {"raw": 1}]
        await events.aclose()


async def test_a_subscriber_may_begin_after_a_position_or_with_the_earliest() -> None:
    async with Hub() as hub:
        positions = [await hub.publish("a", n) for n in range(5)]
        for since in (positions[2], str(positions[2])):
            events = hub.subscribe("a", since=since)
            assert await take(events, 2) == [3, 4]
            await events.aclose()
        events = hub.subscribe("a", since="earliest")
        assert await take(events, 5) == [0, 1, 2, 3, 4]
        await events.aclose()


async def test_the_mode_latest_begins_with_the_newest_of_each_key() -> None:
    async with Hub() as hub:
        for key, value in [("a", 1), ("b", 2), ("a", 3)]:
            await hub.publish("c", value, key=key)
        for mode in (Mode.LATEST, "latest"):
            events = hub.subscribe("c", mode=mode)
            assert await take(events, 2) == [2, 3]
            await events.aclose()


@pytest.mark.parametrize(
    ("channels", "how", "error"),
    [
        (("a b",), {}, BadChannel),
        (("a", ""), {}, BadChannel),
        (("a",), {"since": "garbage"}, BadPosition),
        (("a",), {"mode": "some"}, ValueError),
    ],
)
async def test_a_subscription_that_cannot_be_raises(
    channels: tuple[str, ...], how: dict[str, Any], error: type[Exception]
) -> None:
    async with Hub() as hub:
        with pytest.raises(error):
            await anext(hub.subscribe(*channels, **how))
        assert not hub.fanout.feeds


async def test_what_is_gone_is_raised_and_can_be_gone_on_from() -> None:
    async with Hub(log_events=10) as hub:
        positions = [await hub.publish("a", n) for n in range(30)]
        events = hub.subscribe("a", since=positions[4])
        with pytest.raises(Lost) as caught:
            await anext(events)
        lost = caught.value
        assert (lost.begin, lost.end) == (str(positions[4]), str(positions[19]))
        assert lost.why == "evicted"
        assert not hub.fanout.feeds
        events = hub.subscribe("a", since=lost.end)
        assert await take(events, 10) == list(range(20, 30))
        await events.aclose()


async def test_a_position_of_another_log_is_lost_and_can_be_gone_on_from() -> None:
    async with Hub() as hub:
        await hub.publish("a", 1)
        with pytest.raises(Lost) as caught:
            await anext(hub.subscribe("a", since="1000-5"))
        assert (caught.value.begin, caught.value.why) == ("1000-5", "restarted")
        events = hub.subscribe("a", since=caught.value.end)
        assert await take(events, 1) == [1]
        await events.aclose()


async def test_a_slow_reader_gets_all_from_the_log_and_others_do_not_wait() -> None:
    async with Hub(publish_ahead=500) as hub:
        slow, quick = await attached(hub, "a"), None
        async with asyncio.TaskGroup() as tasks:
            quick = await attached(hub, "a", since=str(hub.log.position))
            reader = tasks.create_task(take(quick, 6000))
            for n in range(6000):
                await hub.publish("a", n)
            assert await reader == list(range(6000))
        # It has not even looked yet. What waits for it: the most, and one batch on top.
        (sink,) = {feed.sink for feed in hub.fanout.feeds if feed.sink.full}
        assert len(sink._waiting) <= 1024 + 500
        assert (await take(slow, 6001))[1:] == list(range(6000))
        await slow.aclose()
        await quick.aclose()


async def test_a_reader_too_slow_for_the_log_is_told_what_it_has_lost() -> None:
    async with Hub(log_events=100) as hub:
        events = await attached(hub, "a")
        for n in range(5000):
            await hub.publish("a", n)
            await asyncio.sleep(0)
        got: list[Event] = []

        async def read() -> None:
            async for event in events:
                got.append(event)

        with pytest.raises(Lost) as caught:
            await read()
        assert [event.json() for event in got] == list(range(len(got)))
        assert caught.value.begin == str(got[-1].position)
        events = hub.subscribe("a", since=caught.value.end)
        rest = await take(events, 100)
        assert rest == list(range(4900, 5000))
        await events.aclose()


async def test_one_who_stops_reading_is_forgotten() -> None:
    async with Hub() as hub:
        await hub.publish("a", 1)
        async for _ in hub.subscribe("a", since="earliest"):
            break
        gc.collect()
        await until(lambda: not hub.fanout.feeds)


async def test_one_who_is_cancelled_while_it_waits_is_forgotten() -> None:
    async with Hub() as hub:

        async def read() -> None:
            async for _ in hub.subscribe("a"):
                raise AssertionError

        task = asyncio.create_task(read())
        await until(lambda: hub.fanout.feeds)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not hub.fanout.feeds


async def test_readers_hear_of_the_end_after_what_they_have_already_got() -> None:
    hub = Hub()
    await hub.start()
    events = await attached(hub, "a")
    await hub.publish("a", "last")
    await asyncio.sleep(0)
    waiting = hub.subscribe("b")
    first = asyncio.ensure_future(anext(waiting))
    await until(lambda: len(hub.fanout.feeds) == 2)
    await hub.stop()
    assert await take(events, 1) == ["last"]
    for ended in (anext(events), first):
        with pytest.raises(Closed) as caught:
            await ended
        assert caught.value.reason is CloseReason.SHUTDOWN


# History


async def test_history_is_what_the_log_retains_and_the_head_when_it_was_read() -> None:
    async with Hub() as hub:
        positions = [await hub.publish("a", n) for n in range(5)]
        head = await hub.publish("b", 0)

        def values(**how: Any) -> list[Any]:
            past = hub.history("a", **how)
            assert past.head == head
            return [event.json() for event in past.events]

        assert values() == [0, 1, 2, 3, 4]
        assert values(limit=0) == []
        assert values(limit=2) == [0, 1]
        assert values(since=positions[1]) == [2, 3, 4]
        assert values(since=positions[4]) == []
        assert values(reverse=True, limit=2) == [4, 3]
        assert values(reverse=True, since=positions[2]) == [1, 0]
        assert hub.history("unknown").events == []


async def test_history_can_be_bounded_in_bytes_and_gone_on_with() -> None:
    async with Hub() as hub:
        for _ in range(20):
            await hub.publish("a", "x" * 1000)
        read, since = 0, None
        pages = []
        while events := hub.history("a", since=since, max_bytes=3000).events:
            pages.append(len(events))
            read += len(events)
            since = events[-1].position
        assert read == 20
        assert pages == [3] * 6 + [2]
        assert len(hub.history("a", max_bytes=1).events) == 1
        assert hub.history("a", max_bytes=1).more
        assert not hub.history("a").more


@pytest.mark.parametrize(
    ("since", "reverse"),
    [
        (Position(1, 1), False),
        (Position(1, 1), True),
        ("evicted", False),
        ("future", False),
    ],
)
async def test_history_after_what_is_gone_is_refused(since: Any, reverse: bool) -> None:
    async with Hub(log_events=3) as hub:
        positions = [await hub.publish("a", n) for n in range(10)]
        if since == "evicted":
            since = positions[0]
        elif since == "future":
            since = Position(positions[0].epoch, 100)
        with pytest.raises(CommandError, match="112"):
            hub.history("a", since=since, reverse=reverse)


async def test_history_is_of_one_channel() -> None:
    async with Hub() as hub:
        with pytest.raises(BadChannel):
            hub.history("a.*")


# Beginning and end


async def test_a_hub_that_does_not_run_says_how_it_is_run() -> None:
    hub = Hub()
    with pytest.raises(NotRunning, match=r"lifespan=hub\.lifespan"):
        await hub.publish("a", 1)
    with pytest.raises(NotRunning):
        await anext(hub.subscribe("a"))
    async with hub:
        await hub.publish("a", 1)
    with pytest.raises(NotRunning):
        await hub.publish("a", 1)


async def test_a_hub_that_is_started_again_goes_on_after_its_last_position() -> None:
    hub = Hub()
    async with hub:
        first = await hub.publish("a", 1)
    async with hub:
        second = await hub.publish("a", 2)
        assert second == Position(first.epoch, first.seq + 1)
        # What was kept in memory is gone, and this is told.
        with pytest.raises(Lost):
            await anext(hub.subscribe("a", since=Position(first.epoch, 0)))


async def test_a_lifespan_runs_the_hub() -> None:
    hub = Hub()
    async with hub.lifespan():
        assert hub.running
    assert not hub.running


async def test_settings_are_given_by_name_or_as_a_whole() -> None:
    assert Hub(log_events=5).settings.log_events == 5
    assert Hub(settings=Settings.load(given={"log_events": 6})).settings.log_events == 6
    both = Hub(settings=Settings.load(given={"log_events": 6, "retry": 9.0}), log_events=7).settings
    assert (both.log_events, both.retry) == (7, 9.0)
    with pytest.raises(BadSettings, match="no setting log_evens"):
        Hub(log_evens=5)
    with pytest.raises(BadSettings, match="log_events"):
        Hub(log_events=-1)
    with pytest.raises(BadSettings, match="broker"):
        Hub("mongo://")


async def test_old_events_expire_in_quiet_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twinwire.hub._EXPIRE_SECONDS", 0.01)
    async with Hub(log_age=0.05) as hub:
        await hub.publish("a", 1)
        assert len(hub.log) == 1
        await until(lambda: len(hub.log) == 0)


# Commands


async def test_a_command_is_registered_by_its_name_and_stays_callable() -> None:
    hub = Hub()

    @hub.command("add")
    async def add(a: int, b: int) -> int:
        return a + b

    assert await add(1, 2) == 3
    answer = await hub.commands.call("add", msgspec.Raw(b"[1,2]"), Caller("c"))
    assert isinstance(answer, msgspec.Raw)
    assert bytes(answer) == b"3"
    with pytest.raises(ValueError, match="already a command"):
        hub.command("add")(add)
