"""What a node tells and hears, and what it does about its connections, without sockets."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

from tests.together import Together, broker_of
from tests.waiting import until
from twinwire import Grants, Hub
from twinwire.core.event import Draft, Position, Selection
from twinwire.core.feed import Feed, Mode, Start
from twinwire.core.notices import Beat, Bye, Changes, Disconnect, Unsubscribe, unpack
from twinwire.core.presence import Change
from twinwire.errors import BrokerError, CloseReason, CommandError, NotRunning, OwnReason, Reason
from twinwire.wires import sse

QUICK: dict[str, Any] = {
    "presence_beat": 0.05,
    "channels": [{"pattern": "rooms.>", "presence": True}],
}


class Wire:
    """Writes who has joined or left in a word each, and counts how often it does."""

    def __init__(self) -> None:
        self.written = 0

    def change(self, change: Change) -> bytes:
        self.written += 1
        return f"{'+' if change.joined else '-'}{change.member.client} ".encode()

    def join(self, parts: Sequence[bytes], readers: int = 1) -> bytes:
        return b"".join(parts)


class Connection:
    """A client's connection of the plainest kind, and its sink."""

    def __init__(self, hub: Hub, client: str, user: str = "", wire: Wire | None = None) -> None:
        self.client = client
        self.grants = Grants(user=user)
        self.wire = wire or Wire()
        self.sink: Any = self
        self.owner = self
        self.full = False
        self.got: list[str] = []
        self.ended: list[Reason] = []
        self.orders: list[Any] = []
        self.feed = Feed(sse.wire(envelope=False, chunked=False), self)
        self.feed.start(["plain"], Mode.EVERY, Start.NOW, hub.log)
        self._hub = hub
        hub.fanout.attach(self.feed)

    def write(self, data: bytes) -> None:
        self.got += data.decode().split()

    def waiting(self) -> int:
        return 0

    def dropped(self) -> None:
        raise NotImplementedError

    def close(self, reason: Reason) -> None:
        self.ended.append(reason)
        self._hub.nodes.gone(self)

    def end(self, reason: Reason) -> None:
        self._hub.fanout.close(self.feed, reason)

    def unsubscribe(self, selector: str) -> None:
        self.orders.append(selector)

    def expire(self, seconds: float) -> None:
        self.orders.append(seconds)

    def join(self, channel: str, *, listens: bool = True) -> None:
        self._hub.nodes.join(self, channel, listens=listens)


@asynccontextmanager
async def alone(**settings: Any) -> AsyncIterator[Hub]:
    async with Hub(**{**QUICK, **settings}) as hub:
        yield hub


@asynccontextmanager
async def nodes(count: int = 2, **settings: Any) -> AsyncIterator[list[Hub]]:
    """Nodes that know of each other."""
    together = Together()
    hubs = [together.hub(**{**QUICK, **settings}) for _ in range(count)]
    async with asyncio.TaskGroup() as tasks:
        for hub in hubs:
            tasks.create_task(hub.start())
    try:
        await until(lambda: all(len(hub.nodes.info()) == count for hub in hubs))
        yield hubs
    finally:
        for hub in hubs:
            if hub.running:
                await hub.stop()


def told(hub: Hub) -> list[Any]:
    return [unpack(notice) for notice in broker_of(hub)._together.notices]


def there(hub: Hub, channel: str = "rooms.a") -> set[str]:
    return set(hub.presence(channel))


# Pushes


async def test_joins_of_a_moment_are_written_together_and_once_for_all_who_listen() -> None:
    async with alone() as hub:
        wire = Wire()
        listeners = [Connection(hub, f"c{n}", wire=wire) for n in range(50)]
        for connection in listeners:
            connection.join("rooms.a")
        await until(lambda: listeners[-1].got)
        everybody = [f"+c{n}" for n in range(50)]
        assert all(connection.got == everybody for connection in listeners)
        assert wire.written == 50


async def test_who_is_full_loses_what_is_told_meanwhile_and_nobody_waits_for_it() -> None:
    async with alone() as hub:
        slow, quick = Connection(hub, "slow"), Connection(hub, "quick")
        for connection in (slow, quick):
            connection.join("rooms.a")
        await until(lambda: slow.got and quick.got)
        slow.full = True
        Connection(hub, "c").join("rooms.a")
        await until(lambda: quick.got[-1] == "+c")
        slow.full = False
        Connection(hub, "d").join("rooms.a")
        await until(lambda: slow.got[-1] == "+d")
        assert slow.got[-2:] == ["+quick", "+d"]


async def test_a_connection_that_fails_to_take_it_is_ended_and_the_others_get_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Connection):
        def write(self, data: bytes) -> None:
            raise OSError("as asked")

    async with alone() as hub:
        broken, well = Broken(hub, "broken"), Connection(hub, "well")
        for connection in (broken, well):
            connection.join("rooms.a")
        await until(lambda: broken.ended and well.got)
        assert broken.ended == [CloseReason.WRITE_ERROR]
        await until(lambda: well.got[-1] == "-broken")
    assert "as asked" in caplog.text


async def test_telling_many_listeners_lets_others_run_in_between() -> None:
    async with alone(slice_ms=0.01) as hub:
        turns = []
        listeners = [Connection(hub, f"c{n}") for n in range(2000)]
        for connection in listeners:
            connection.join("rooms.a", listens=True)
        await until(lambda: listeners[0].got)
        while not listeners[-1].got:
            turns.append(sum(bool(connection.got) for connection in listeners))
            await asyncio.sleep(0)
        assert len(turns) > 5


async def test_who_has_left_before_it_is_told_is_told_nothing_more() -> None:
    async with alone() as hub:
        stays, leaves = Connection(hub, "stays"), Connection(hub, "leaves")
        stays.join("rooms.a")
        leaves.join("rooms.a")
        hub.nodes.leave(leaves, "rooms.a")
        await until(lambda: stays.got)
        assert stays.got == ["+stays"]
        assert leaves.got == []


async def test_a_channel_without_presence_costs_nothing() -> None:
    before = asyncio.all_tasks()
    async with alone() as hub:
        connection = Connection(hub, "c")
        connection.join("plain")
        assert hub.nodes.joins(Selection(["plain", "rooms.*", "plain.>"])) == []
        assert hub.nodes.joins(Selection(["plain", "rooms.a"])) == ["rooms.a"]
        assert hub.nodes.memory == 0
        assert not hub.nodes._listeners
        assert asyncio.all_tasks() == before
        with pytest.raises(CommandError):
            hub.presence("plain")


async def test_members_are_reckoned_as_memory_of_subscriptions() -> None:
    async with alone(feeds_bytes=1 << 20) as hub:
        assert hub.has_room(1000)
        crowd = Connection(hub, "c")
        for number in range(3000):
            crowd.join(f"rooms.{number}")
        assert not hub.has_room(1000)
        hub.nodes.gone(crowd)
        assert hub.has_room(1000)


# Beginning and end


async def test_a_hub_whose_broker_is_its_own_tells_nobody_anything() -> None:
    async with alone() as hub:
        heard: list[bytes] = []
        tell = hub._broker.tell

        async def noting(notice: bytes) -> None:
            heard.append(notice)
            await tell(notice)

        hub._broker.tell = noting  # type: ignore[method-assign]
        connection = Connection(hub, "c")
        connection.join("rooms.a")
        await until(lambda: connection.got)
        await hub.disconnect(client="c")
        assert hub.nodes._beating is None
        assert [uid for uid, _ in hub.nodes.info()] == [hub.nodes.uid]
    assert heard == []


async def test_a_node_that_stops_says_goodbye_and_is_gone_at_once() -> None:
    async with nodes(presence_beat=60) as (one, two):
        Connection(one, "c").join("rooms.a")
        await until(lambda: there(two) == {"c"})
        await one.stop()
        assert there(two) == set()
        assert len(two.nodes.info()) == 1
        assert isinstance(told(two)[-1], Bye)
        with pytest.raises(NotRunning):
            one.presence("rooms.a")


async def test_a_node_that_is_not_heard_is_dead_after_some_beats_and_leaves_are_pushed() -> None:
    async with nodes(3) as (one, two, three):
        watching = Connection(three, "watching")
        watching.join("rooms.a")
        for hub, client in ((one, "c"), (two, "d")):
            Connection(hub, client).join("rooms.a")
        await until(lambda: {"+c", "+d"} <= set(watching.got))
        broker_of(one).cut = True
        await until(lambda: "-c" in watching.got)
        assert there(three) == there(two) == {"d", "watching"}
        assert there(one) == {"c"} or len(one.nodes.info()) > 1
        broker_of(one).mend()
        await until(lambda: watching.got[-1] == "+c")
        await until(lambda: there(one) == {"c", "d", "watching"})


async def test_a_node_that_begins_later_knows_of_all_members_in_a_moment() -> None:
    together = Together()
    async with together.hub(**QUICK | {"presence_beat": 60}) as one:
        for number in range(1000):
            Connection(one, f"c{number}").join("rooms.a")
        async with together.hub(**QUICK | {"presence_beat": 60}) as two:
            await until(lambda: len(two.presence("rooms.a")) == 1000)


async def test_nothing_is_left_running_after_the_end() -> None:
    before = asyncio.all_tasks()
    async with nodes() as (one, two):
        connection = Connection(one, "c")
        connection.join("rooms.a")
        await one.stop()
        one.nodes.hear(b"hello")
        one.nodes.leave(connection, "rooms.a")
        await two.stop()
    assert asyncio.all_tasks() == before


# A broker that does not do what it should


async def test_what_cannot_be_told_is_told_later_and_the_log_has_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with nodes() as (one, two):
        broker_of(one).cut = True
        Connection(one, "c").join("rooms.a")
        await until(lambda: "cannot be told anything for now" in caplog.text)
        await until(lambda: len(two.nodes.info()) == 1)
        broker_of(one).mend()
        await until(lambda: there(two) == {"c"})
        assert caplog.text.count("cannot be told") == 1
        assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_while_one_telling_hangs_pushes_go_on_and_what_is_told_then_is_the_latest() -> None:
    async with nodes() as (one, two):
        released = asyncio.Event()
        broker = broker_of(one)
        tell = broker.tell

        async def hanging(notice: bytes) -> None:
            await released.wait()
            await tell(notice)

        broker.tell = hanging  # type: ignore[method-assign]
        watching = Connection(one, "watching")
        watching.join("rooms.a")
        for number in range(20):
            passing = Connection(one, f"p{number}")
            passing.join("rooms.a")
            await until(lambda: watching.got and watching.got[-1] == f"+p{number}")  # noqa: B023
            hub_gone(one, passing)
            await until(lambda: watching.got[-1] == f"-p{number}")  # noqa: B023
        released.set()
        await until(lambda: there(two) == {"watching"})


def hub_gone(hub: Hub, connection: Connection) -> None:
    hub.nodes.gone(connection)
    hub.fanout.detach(connection.feed)


async def test_a_bad_notice_is_passed_over_with_one_line_and_never_raises(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with nodes() as (one, two):
        for notice in (b"", b"hello", b"\xff" * 100, b"twinwire 9 \x90", b"twinwire 1 \x90"):
            one.nodes.hear(notice)
        assert len(caplog.records) == 1
        assert "a notice that cannot be read was passed over" in caplog.text
        Connection(two, "c").join("rooms.a")
        await until(lambda: there(one) == {"c"})


async def test_hearing_ones_own_notices_changes_nothing() -> None:
    async with nodes() as (one, two):
        connection = Connection(one, "c")
        connection.join("rooms.a")
        await until(lambda: there(two) == {"c"})
        assert there(one) == {"c"}
        await until(lambda: connection.got)
        assert connection.got == ["+c"]


async def test_the_others_are_told_of_an_order_also_if_this_node_has_nobody() -> None:
    async with nodes() as (one, two):
        ada = Connection(two, "c", "ada")
        await one.disconnect(user="ada", code=4000, reason="moved", spared=["d"])
        await until(lambda: ada.ended)
        assert ada.ended == [OwnReason(4000, "moved")]
        orders = [notice for notice in told(one) if isinstance(notice, Disconnect)]
        assert orders == [Disconnect(one.nodes.uid, "ada", "", 4000, "moved", ["d"])]


async def test_an_order_is_carried_out_here_also_if_the_others_cannot_be_told() -> None:
    async with nodes() as (one, _):
        ada = Connection(one, "c", "ada")
        broker_of(one).cut = True
        with pytest.raises(BrokerError):
            await one.disconnect(user="ada")
        assert ada.ended == [CloseReason.FORCE_NO_RECONNECT]


async def test_orders_are_carried_out_when_the_call_returns_in_their_order() -> None:
    async with alone() as hub:
        ada, bob = Connection(hub, "c", "ada"), Connection(hub, "d", "bob")
        await hub.unsubscribe("rooms.a", user="ada")
        await hub.refresh(user="ada", expire_at=4_000_000_000)
        await hub.refresh(client="c")
        assert ada.orders[0] == "rooms.a"
        assert ada.orders[1] > 1e9
        assert ada.orders[2] == float("inf")
        await hub.refresh(user="ada", expired=True)
        assert ada.ended == [CloseReason.EXPIRED]
        assert (bob.orders, bob.ended) == ([], [])


async def test_many_orders_at_once_are_one_look_at_the_connections_in_slices() -> None:
    async with alone(slice_ms=0.01) as hub:
        crowd = [Connection(hub, f"c{n}", f"u{n % 100}") for n in range(3000)]
        looks = 0
        all_of = hub.nodes.connections._all

        def counting() -> Any:
            nonlocal looks
            looks += 1
            return all_of()

        hub.nodes.connections._all = counting  # type: ignore[method-assign]
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(others())
        await asyncio.gather(*(hub.unsubscribe("a", user=f"u{n}") for n in range(50)))
        other.cancel()
        assert [len(connection.orders) for connection in crowd] == [
            int(n % 100 < 50) for n in range(3000)
        ]
        assert looks == 1
        assert turns > 10


async def test_orders_that_never_end_take_a_part_of_the_time() -> None:
    async with alone() as hub:
        for n in range(3000):
            Connection(hub, f"c{n}", "ada")
        looks = []
        look = hub.nodes.connections._carry_out

        async def timed() -> None:
            await look()
            looks.append(asyncio.get_running_loop().time())

        hub.nodes.connections._look._work = timed
        for _ in range(4):
            await hub.unsubscribe("a", user="bob")
        # To look at so many takes some milliseconds, and the pause is nine times as long.
        assert min(after - before for before, after in pairwise(looks)) > 0.005


async def test_one_connection_that_fails_to_obey_does_not_keep_the_others_from_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Stubborn(Connection):
        def unsubscribe(self, selector: str) -> None:
            raise OSError("as asked")

    async with alone() as hub:
        one, two = Stubborn(hub, "c", "ada"), Connection(hub, "d", "ada")
        await hub.unsubscribe("a", user="ada")
        assert (one.orders, two.orders) == ([], ["a"])
    assert "as asked" in caplog.text


async def test_a_subscriber_in_the_process_is_no_connection_and_no_member() -> None:
    async with alone() as hub:
        events = hub.subscribe("rooms.a")
        first = asyncio.ensure_future(anext(events))
        await until(lambda: len(hub.fanout.feeds) == 1)
        assert there(hub) == set()
        await hub.disconnect(user="ada")
        await hub.publish("rooms.a", 1)
        assert (await first).json() == 1
        await events.aclose()


async def test_without_a_hub_that_runs_there_is_nobody() -> None:
    hub = Hub()
    calls: list[Callable[[], Any]] = [
        lambda: hub.presence("a"),
        lambda: hub.presence_stats("a"),
    ]
    for call in calls:
        with pytest.raises(NotRunning):
            call()
    for order in (
        hub.disconnect(user="a"),
        hub.unsubscribe("a", user="a"),
        hub.refresh(user="a"),
    ):
        with pytest.raises(NotRunning):
            await order


async def test_the_log_is_shared_as_well() -> None:
    async with nodes() as (one, two):
        events = two.subscribe("a")
        first = asyncio.ensure_future(anext(events))
        await until(lambda: len(two.fanout.feeds) == 1)
        position = await one.publish("a", 1)
        assert (await first).position == position
        await events.aclose()
        assert isinstance(await broker_of(one).append([Draft("a", b"2")]), list)
        assert two.log.position == Position(position.epoch, 2)


async def test_an_idle_hub_beats_and_no_more() -> None:
    async with nodes() as (one, two):
        # What they had to ask each other at the beginning comes first.
        await until(lambda: [type(notice) for notice in told(one)[-8:]] == [Beat] * 8)
        Connection(one, "c").join("rooms.a")
        await until(lambda: there(two) == {"c"})
        assert [type(n) for n in told(one) if not isinstance(n, Beat)][-1] is Changes
        await two.unsubscribe("rooms.*", client="c")
        assert isinstance(told(one)[-1], Unsubscribe | Beat)
