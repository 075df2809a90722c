"""Servers that are killed, frozen, cut off, flushed and full: nothing is lost or doubled unsaid."""

import asyncio
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from tests.brokers.redis.conftest import Start
from tests.brokers.redis.nodes import Publisher, agree, events_of, exactly_once, opened
from tests.brokers.redis.servers import Store
from tests.relay import Relay
from tests.waiting import until
from twinwire.brokers import Config, connect
from twinwire.core.event import Draft, Position, Selection
from twinwire.core.feed import Earlier
from twinwire.core.log import Retention
from twinwire.errors import BrokerError
from twinwire.testing.contract import Strict, drafts, eventually, newest

PATIENT = Config(wait=30)


async def test_killed_and_started_again_with_its_file_a_server_has_lost_nothing(
    store: Store,
) -> None:
    async with opened(store.url, PATIENT) as one, opened(store.url, PATIENT) as two:
        async with Publisher("x", one) as x, Publisher("y", two) as y:
            for _ in range(2):
                await asyncio.to_thread(store.kill)
                await asyncio.to_thread(store.start)
                await x.until(50)
                await y.until(50)
        (end,) = await one.append(Draft("a", b"end"))
        await two.reach(end)
        for node in (one, two):
            exactly_once(node, (x, y))
            assert len(node.heard.begins) == 1
        assert (x.failed, y.failed) == ([], [])
        assert one.heard.events == two.heard.events
        async with opened(store.url) as late:
            assert events_of(late) == events_of(one)
            assert late.heard.begins[0][0].epoch == end.epoch


async def test_frozen_for_a_while_a_server_takes_each_event_once(store: Store) -> None:
    async with opened(store.url, PATIENT) as one, opened(store.url, PATIENT) as two:
        async with Publisher("x", one) as x, Publisher("y", two) as y:
            with store.frozen():
                await asyncio.sleep(2)
            await x.until(50)
            await y.until(50)
        (end,) = await one.append(Draft("a", b"end"))
        await two.reach(end)
        for node in (one, two):
            exactly_once(node, (x, y))
            assert len(node.heard.begins) == 1


@pytest.mark.timeout(120)  # the broker gives a server five seconds to answer
async def test_what_a_frozen_server_has_got_twice_it_does_once(store: Store) -> None:
    """Frozen for so long that connections are given up: their last requests come in late, beside
    the new ones."""
    async with opened(store.url, PATIENT) as one:
        async with Publisher("x", one) as x:
            with store.frozen():
                await asyncio.sleep(8)
            await x.until(100)
        await one.append(Draft("a", b"end"))
        exactly_once(one, (x,))
        assert x.failed == []


async def test_who_has_waited_for_a_frozen_server_in_vain_is_told(store: Store) -> None:
    async with opened(store.url, Config(wait=0.5)) as one:
        async with Publisher("x", one) as x:
            with store.frozen():
                await x.until_failed(20)
            await x.until(50)
        with store.frozen(), pytest.raises(BrokerError, match=r"not published within 0\.5 s: .*"):
            await one.broker.append([Draft("a", b"1")])
        await eventually(lambda: one.append(Draft("a", b"end")))
        exactly_once(one, (x,))


async def test_connections_killed_in_the_midst_of_appends_lose_and_double_nothing(
    store: Store,
) -> None:
    async with opened(store.url, PATIENT) as one, opened(store.url, PATIENT) as two:
        async with Publisher("x", one) as x, Publisher("y", two) as y:
            for _ in range(20):
                await asyncio.to_thread(store.cut)
                await x.until(5)
                await y.until(5)
        (end,) = await one.append(Draft("a", b"end"))
        await two.reach(end)
        for node in (one, two):
            exactly_once(node, (x, y))
            assert len(node.heard.begins) == 1
        assert (x.failed, y.failed) == ([], [])


async def test_answers_that_are_lost_on_their_way_double_nothing(store: Store) -> None:
    async with Relay(store.port) as relay:
        url = f"redis://127.0.0.1:{relay.port}"
        async with opened(url, PATIENT) as one:
            async with Publisher("x", one) as x:
                for _ in range(50):
                    await asyncio.sleep(0.005)
                    relay.cut()
                await x.until(50)
            await one.append(Draft("a", b"end"))
            exactly_once(one, (x,))
            assert x.failed == []


@pytest.mark.parametrize("deleting", ["FLUSHALL", "DEL twinwire:{twinwire}:log"])
async def test_deleted_in_the_midst_of_appends_the_log_begins_anew(
    store: Store, deleting: str
) -> None:
    async with opened(store.url, PATIENT) as one, opened(store.url, PATIENT) as two:
        async with Publisher("x", one) as x, Publisher("y", two) as y:
            for _ in range(3):
                await asyncio.to_thread(store.ask, *deleting.split())
                await x.until(50)
                await y.until(50)
        assert (x.failed, y.failed) == ([], [])
        (end,) = await one.append(Draft("a", b"end"))
        await two.reach(end)
        agree((one, two), (x, y))
        for node in (one, two):
            epochs = [begin.epoch for begin, _ in node.heard.begins]
            assert len(epochs) == 4
            assert epochs == sorted(set(epochs))
            # Of its last epoch it has everything.
            later = {
                p: d for p, d in {**x.acknowledged, **y.acknowledged}.items() if p >= (end.epoch, 0)
            }
            assert later.items() <= events_of(node).items()


async def test_a_log_that_is_deleted_while_nobody_publishes_is_noticed(store: Store) -> None:
    async with opened(store.url) as one, opened(store.url) as two:
        await one.append(Draft("a", b"1"))
        store.ask("FLUSHALL")
        for node in (one, two):
            await node.heard.until(lambda node=node: len(node.heard.begins) == 2)  # type: ignore[misc]
        assert one.heard.begins[1] == two.heard.begins[1]


async def test_the_newest_events_of_keys_outlive_a_new_epoch(store: Store) -> None:
    async with opened(store.url, PATIENT) as one:
        await one.append(*drafts("a", 3, key="k"), Draft("b", b"1"))
        before = newest(one.heard.events)
        store.ask("DEL", "twinwire:{twinwire}:meta")
        await one.append(Draft("a", b"new"))
        position, latest = one.heard.begins[1]
        assert [(e.channel, e.key, e.data) for e in latest] == [
            (e.channel, e.key, e.data) for e in before.values()
        ]
        assert all(event.epoch == position.epoch for event in latest)


@pytest.mark.parametrize("orderly", [True, False])
async def test_a_server_without_a_file_begins_anew_when_it_is_started_again(
    start: Start, orderly: bool
) -> None:
    store = start("--save", "3600 1")
    async with opened(store.url, PATIENT) as one:
        await one.append(Draft("a", b"1", key="k"))
        store.ask("SAVE")
        (position,) = await one.append(Draft("a", b"2"))
        await asyncio.to_thread(store.shut_down if orderly else store.kill)
        await asyncio.to_thread(store.start)
        (later,) = await one.append(Draft("a", b"3"))
        assert later.epoch > position.epoch
        assert len(one.heard.begins) == 2
        agree((one,))


def cut_the_end_off(store: Store) -> None:
    """As a crash of the machine does to what was not on its disk yet."""
    (log,) = (p for p in Path(store.directory).rglob("*.incr.aof"))
    content = log.read_bytes()
    log.write_bytes(content[: content.rindex(b"MULTI") - len(b"*1\r\n$5\r\n")])


async def test_a_file_that_lacks_its_end_begins_a_new_epoch(store: Store) -> None:
    async with opened(store.url, PATIENT) as one:
        await one.append(Draft("a", b"1"))
        (position,) = await one.append(Draft("a", b"2"))
        await asyncio.to_thread(store.kill)
        cut_the_end_off(store)
        await asyncio.to_thread(store.start)
        (later,) = await one.append(Draft("a", b"3"))
        assert later.epoch > position.epoch
        async with opened(store.url) as late:
            agree((one, late))


async def test_a_node_that_comes_back_late_knows_what_was_lost_meanwhile(store: Store) -> None:
    """One node has not heard of an event, and goes on with a log that lacks it. Its new events
    stand at no position that anybody knows, and the node that had heard of it begins anew."""
    async with (
        Relay(store.port) as relay,
        Relay(store.port) as other,
        opened(f"redis://127.0.0.1:{relay.port}", PATIENT) as one,
        opened(f"redis://127.0.0.1:{other.port}", PATIENT) as two,
    ):
        (first,) = await one.append(Draft("a", b"1"))
        await two.reach(first)
        async with relay.down():
            (lost,) = await two.append(Draft("a", b"2"))
            async with other.down():
                await asyncio.to_thread(store.kill)
                cut_the_end_off(store)
                await asyncio.to_thread(store.start)
                await relay.open()
                (going_on,) = await one.append(Draft("a", b"3"))
                assert (lost.epoch, going_on.epoch) == (first.epoch, first.epoch)
                assert lost != going_on
                assert len(one.heard.begins) == 1
            await relay.close()
        for node in (one, two):
            await node.heard.until(lambda node=node: len(node.heard.begins) == 2)  # type: ignore[misc]
        (end,) = await two.append(Draft("a", b"4"))
        await one.reach(end)
        async with opened(store.url) as late:
            everything = agree((one, two, late))
        assert set(everything.values()) == {b"1", b"2", b"3", b"4"}
        assert end.epoch > lost.epoch


async def test_a_node_that_was_away_for_longer_than_the_log_reaches_is_told(store: Store) -> None:
    config = Config(wait=30, keep=Retention(100))
    async with (
        Relay(store.port) as relay,
        opened(f"redis://127.0.0.1:{relay.port}", config) as away,
        opened(store.url, config) as here,
    ):
        (first,) = await here.append(Draft("quiet", b"1", key="k"))
        await away.reach(first)
        async with relay.down():
            await here.append(Draft("quiet", b"2", key="k"), Draft("quiet", b"3", key="l"))
            for number in range(10):
                await here.append(*drafts(f"busy{number}", 100))
            end = here.heard.position
        await away.reach(end)
        position, latest = away.heard.begins[1]
        assert position.epoch == here.heard.begins[0][0].epoch
        assert away.heard.begins[0][0] < position < end
        events = here.heard.events
        assert events_of(away) == {
            e.position: e.data for e in events if e.position == first or e.position > position
        }
        # A key that has a newer event gets that one.
        assert latest == [e for e in newest(events).values() if e.position <= position]


async def test_a_full_server_is_waited_for_and_then_said(store: Store) -> None:
    async with opened(store.url, Config(wait=0.5)) as one:
        await one.append(Draft("a", b"1"))
        store.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(BrokerError, match=r"is out of memory: raise its maxmemory"):
            await one.broker.append([Draft("a", b"2")])
        waiting = asyncio.create_task(one.broker.append([Draft("a", b"3")]))
        await asyncio.sleep(0.1)
        store.ask("CONFIG", "SET", "maxmemory", "0")
        await waiting
        await one.append(Draft("a", b"4"))
        assert [event.data for event in one.heard.events] == [b"1", b"3", b"4"]


async def test_too_few_replicas_are_waited_for_and_then_said(store: Store) -> None:
    async with opened(store.url, Config(wait=0.3)) as one:
        store.ask("CONFIG", "SET", "min-replicas-to-write", "1")
        with pytest.raises(BrokerError, match=r"too few replicas for its min-replicas-to-write"):
            await one.broker.append([Draft("a", b"1")])
        store.ask("CONFIG", "SET", "min-replicas-to-write", "0")
        await one.append(Draft("a", b"2"))
        assert [event.data for event in one.heard.events] == [b"2"]


async def test_who_is_cancelled_before_it_was_sent_has_published_nothing(store: Store) -> None:
    async with opened(store.url, PATIENT) as one:
        with store.frozen():
            first = asyncio.create_task(one.broker.append([Draft("a", b"1")]))
            await asyncio.sleep(0.05)
            second = asyncio.create_task(one.broker.append([Draft("a", b"2")]))
            await asyncio.sleep(0.05)
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)
        await first
        await one.append(Draft("a", b"3"))
        assert [event.data for event in one.heard.events] == [b"1", b"3"]


async def test_scripts_that_the_server_forgets_are_given_again(store: Store) -> None:
    async with opened(store.url, PATIENT) as one:
        await one.append(Draft("a", b"1"))
        store.ask("SCRIPT", "FLUSH")
        await one.append(Draft("a", b"2"))
        assert len(one.heard.events) == 2


async def test_hubs_and_databases_on_one_server_are_apart(store: Store) -> None:
    urls = [store.url, f"{store.url}/1", f"{store.url}?hub=other"]
    async with opened(urls[0]) as one, opened(urls[1]) as two, opened(urls[2]) as three:
        nodes = (one, two, three)
        for number, node in enumerate(nodes):
            await node.append(Draft("a", b"%d" % number, idempotency_key="x"))
            await node.broker.tell(b"%d" % number)
        for number, node in enumerate(nodes):
            await node.heard.until(lambda node=node: node.heard.notices)  # type: ignore[misc]
            assert [event.data for event in node.heard.events] == [b"%d" % number]
            assert node.heard.notices == [b"%d" % number]


async def test_a_notice_is_heard_again_after_a_cut(store: Store) -> None:
    async with opened(store.url, PATIENT) as one:
        for number in range(3):
            store.cut()
            async with asyncio.timeout(10):
                # The connection that hears is another one than that which tells.
                while len(one.heard.notices) == number:
                    with suppress(BrokerError):  # it may have been told, or not
                        await one.broker.tell(b"x")
                    await asyncio.sleep(0.02)
            one.heard.notices[number + 1 :] = []


async def test_a_broker_that_is_closed_while_the_server_is_away_ends_at_once(store: Store) -> None:
    broker = connect(store.url, PATIENT)
    await broker.open(Strict())
    store.kill()
    waiting = asyncio.create_task(broker.append([Draft("a", b"1")]))
    await asyncio.sleep(0.2)
    async with asyncio.timeout(2):
        await broker.close()
    with pytest.raises(BrokerError, match="closed"):
        await waiting


def renew(store: Store) -> None:
    """Let the log have a new epoch with the next event, although it is whole."""
    # As if this server had been another one before.
    store.ask("HSET", "twinwire:{twinwire}:meta", "history", "another")
    store.ask("CONFIG", "SET", "appendonly", "no")


async def test_what_was_kept_has_its_numbers_in_the_new_epoch_too(store: Store) -> None:
    small = Config(warm=Retention(1))
    async with opened(store.url) as one:
        await one.append(*drafts("a", 3, key="k"), *drafts("b", 700))
        for number in range(3):
            renew(store)
            await one.append(*drafts(f"c{number}", 2))
        epoch, end = one.heard.position
        expected = [msgspec.structs.replace(e, epoch=epoch) for e in one.heard.events]
        assert [event.seq for event in expected] == list(range(1, 710))
        async with opened(store.url) as late, opened(store.url, small) as later:
            assert late.heard.begins == [(Position(epoch, 0), [])]
            assert late.heard.events == expected
            assert later.heard.begins[0][0] == (epoch, end - 1)
            assert newest([*later.heard.begins[0][1], *later.heard.events]) == newest(expected)
            for after, upto in [(0, end), (0, 5), (600, 704), (702, 703), (703, 703), (704, 707)]:
                earlier = await later.broker.read(Selection([">"]), after, upto, 1000)
                assert earlier == Earlier(after, expected[after:upto], upto)
            earlier = await later.broker.read(Selection([">"]), 0, 706, 4)
            assert earlier == Earlier(702, expected[702:706], 706)


async def test_what_was_kept_of_earlier_epochs_is_trimmed_like_the_rest(store: Store) -> None:
    config = Config(keep=Retention(100))
    async with opened(store.url, config) as one:
        for number in range(20):
            await one.append(*drafts("a", 100))
            if number % 2:
                renew(store)
        assert 100 <= store.ask("XLEN", "twinwire:{twinwire}:log") < 500
        assert store.ask("LLEN", "twinwire:{twinwire}:marks") < 20
        epochs = store.ask("HGET", "twinwire:{twinwire}:meta", "epochs").split()
        assert len(epochs) == 10
        async with opened(store.url, config) as late:
            assert 100 <= len(late.heard.events) < 500
            (position,) = await late.append(Draft("a", b"1"))
            assert position.seq == 2001


async def test_a_renewed_log_has_numbers_that_go_on(store: Store) -> None:
    async with opened(store.url, PATIENT) as one:
        (before,) = await one.append(Draft("a", b"1"))
        store.ask("DEL", "twinwire:{twinwire}:meta")
        (after,) = await one.append(Draft("a", b"2"))
        assert after == Position(after.epoch, before.seq + 1)
        await until(lambda: len(one.heard.begins) == 2)


async def test_what_is_read_while_connections_break_is_read_again(store: Store) -> None:
    async with opened(store.url, PATIENT) as one:
        await one.append(*drafts("a", 1000))
        end = one.heard.position.seq
        for _ in range(10):
            reading = asyncio.create_task(one.broker.read(Selection(["a"]), end - 900, end, 1000))
            await asyncio.to_thread(store.cut)
            assert len((await reading).events) == 900
