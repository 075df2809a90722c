"""What a hub makes of a broker whose log is longer than its memory, or begins anew."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.brokers.deep import DeepBroker
from tests.test_hub import attached, take
from tests.waiting import until
from twinwire import Event, Hub, Lost
from twinwire.brokers.base import Tail
from twinwire.brokers.memory import MemoryBroker
from twinwire.core.event import Position
from twinwire.errors import BrokerError, NotRunning


async def published(hub: Hub, channel: str, *data: Any, **how: Any) -> list[Position]:
    return [await hub.publish(channel, each, **how) for each in data]


async def taken(events: AsyncGenerator[Event], count: int) -> list[Any]:
    async with asyncio.timeout(10):
        return await take(events, count)


async def test_who_comes_back_from_before_the_nodes_memory_gets_it_from_the_broker() -> None:
    broker = DeepBroker()
    async with Hub(broker, log_events=10) as hub:
        first, *_ = await published(hub, "a", *range(100))
        await published(hub, "b", *range(5))
        assert await taken(hub.subscribe("a", since=first), 99) == list(range(1, 100))
        assert await taken(hub.subscribe("*", since=first), 104) == [*range(1, 100), *range(5)]
        assert len(broker.reads) == 2
        recent = hub.log.position
        events = hub.subscribe("a", since=recent)
        more = asyncio.ensure_future(taken(events, 1))
        await asyncio.sleep(0)
        await hub.publish("a", "more")
        assert await more == ["more"]
        assert len(broker.reads) == 2, "what the node has it does not read from the broker"


async def test_what_was_read_back_counts_as_memory_until_it_is_delivered() -> None:
    async with Hub(DeepBroker(), log_events=10) as hub:
        first, *_ = await published(hub, "a", *range(100))
        fresh = await attached(hub, "a")
        lane = hub.fanout.memory
        events = hub.subscribe("a", since=first)
        await taken(events, 100)
        await asyncio.sleep(0)
        back = hub.fanout.memory - lane
        await fresh.aclose()
        assert back == lane - hub.fanout.lanes.memory


async def test_a_hub_that_stops_while_it_reads_back_leaves_nobody_waiting() -> None:
    class Slow(DeepBroker):
        async def read(self, *what: Any) -> Any:
            await hub.stop()
            return await super().read(*what)

    hub = Hub(Slow(), log_events=10)
    await hub.start()
    first, *_ = await published(hub, "a", *range(100))
    with pytest.raises(NotRunning):
        await taken(hub.subscribe("a", since=first), 1)


async def test_what_is_evicted_while_it_is_read_is_not_missed() -> None:
    broker = DeepBroker()
    async with Hub(broker, log_events=20, read_bytes=1024) as hub:
        first, *_ = await published(hub, "a", *range(500))
        events = hub.subscribe("a", since=first)
        found = []
        for n in range(500, 700):
            found += await taken(events, 1)
            if n < 515:
                await hub.publish("a", n)
        assert found == list(range(1, 201))
        assert await taken(events, 314) == list(range(201, 515))


async def test_more_than_may_be_read_back_is_a_gap() -> None:
    async with Hub(DeepBroker(), log_events=10, read_back_events=40) as hub:
        positions = await published(hub, "a", *range(100))
        with pytest.raises(Lost) as lost:
            await taken(hub.subscribe("a", since=positions[0]), 1)
        end = Position.parse(lost.value.end)
        assert positions[49] < end < positions[80]
        begun = positions.index(end) + 1
        assert await taken(hub.subscribe("a", since=end), 100 - begun) == list(range(begun, 100))


async def test_read_back_events_of_0_reads_nothing_back() -> None:
    broker = DeepBroker()
    async with Hub(broker, log_events=10, read_back_events=0) as hub:
        positions = await published(hub, "a", *range(100))
        with pytest.raises(Lost) as lost:
            await taken(hub.subscribe("a", since=positions[0]), 1)
        assert lost.value.end == str(positions[89])
        assert not broker.reads


async def test_a_new_epoch_is_a_gap_for_who_is_live_and_for_who_comes_back() -> None:
    broker = DeepBroker()
    async with Hub(broker) as hub:
        events = await attached(hub, "a")
        last = await hub.publish("a", "old")
        assert await taken(events, 1) == ["old"]
        await hub.publish("a", "just before")
        started = broker.restart()
        await hub.publish("a", "new")
        assert await taken(events, 1) == ["just before"]
        with pytest.raises(Lost) as lost:
            await taken(events, 1)
        assert lost.value.begin == str(Position(last.epoch, last.seq + 1))
        assert Position.parse(lost.value.end) == started
        with pytest.raises(Lost):
            await taken(hub.subscribe("a", since=last), 1)
        assert await taken(hub.subscribe("a", since=started), 1) == ["new"]


async def test_events_that_this_node_never_got_are_a_gap_in_the_same_epoch() -> None:
    broker = DeepBroker()
    async with Hub(broker) as hub:
        events = await attached(hub, "a")
        last = await hub.publish("a", "old")
        assert await taken(events, 1) == ["old"]
        broker.restart(skip=10)
        await hub.publish("a", "new")
        with pytest.raises(Lost) as lost:
            await taken(events, 1)
        assert (lost.value.begin, lost.value.end) == (
            str(last),
            str(Position(last[0], last[1] + 10)),
        )


async def test_the_newest_of_each_key_is_there_from_the_beginning() -> None:
    broker = DeepBroker()
    async with Hub(broker) as hub:
        await published(hub, "a", 1, key="x")
        await published(hub, "a", 2, key="y")
        latest = list(broker.events)
        broker.restart(latest, skip=100)
        events = hub.subscribe("a", mode="latest")
        assert await taken(events, 2) == [1, 2]


async def test_a_hub_takes_a_broker_of_ones_own() -> None:
    broker = DeepBroker()
    async with Hub(broker) as hub:
        position = await hub.publish("a", 1)
    assert [event.position for event in broker.events] == [position]


class SlowBroker(MemoryBroker):
    """Waits to be told what comes of its opening."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = 0

    async def open(self, tail: Tail) -> None:
        await self.opened
        await super().open(tail)

    async def close(self) -> None:
        self.closed += 1
        await super().close()


async def test_a_hub_is_warming_until_its_broker_is_open() -> None:
    broker = SlowBroker()
    hub = Hub(broker)
    seen = [(hub.warming, hub.accepting)]
    starting = asyncio.ensure_future(hub.start())
    await until(lambda: hub.warming)
    seen.append((hub.warming, hub.accepting))
    broker.opened.set_result(None)
    await starting
    seen.append((hub.warming, hub.accepting))
    await hub.stop()
    assert seen == [(False, False), (True, False), (False, True)]
    assert broker.closed == 1


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
async def test_a_hub_whose_start_fails_or_is_cancelled_lets_go_of_its_broker(how: str) -> None:
    broker = SlowBroker()
    hub = Hub(broker)
    starting = asyncio.ensure_future(hub.start())
    await until(lambda: hub.warming)
    if how == "fails":
        broker.opened.set_exception(BrokerError("no"))
    else:
        starting.cancel()
    with pytest.raises((BrokerError, asyncio.CancelledError)):
        await starting
    assert broker.closed == 1
    assert not hub.warming
    assert not hub.running
