"""Replicas that take a primary's place, with less than the primary had acknowledged."""

import asyncio
from collections.abc import Callable

import pytest

from tests.brokers.redis.conftest import Start
from tests.brokers.redis.nodes import Publisher, agree, events_of, opened
from tests.brokers.redis.servers import AOF, Store
from tests.relay import Relay
from twinwire.brokers import Config, connect
from twinwire.core.event import Draft
from twinwire.errors import BrokerError
from twinwire.testing.contract import Strict

PATIENT = Config(wait=30)
LOG = "twinwire:{twinwire}:log"
AT_ONCE = (*AOF, "--repl-diskless-sync-delay", "0")


async def true(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something is so on a server."""
    async with asyncio.timeout(seconds):
        # There is nothing there that could be waited on.
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def follow(replica: Store, port: int) -> None:
    """Make `replica` one of the primary behind `port`, and wait until it is."""
    await asyncio.to_thread(replica.ask, "REPLICAOF", "127.0.0.1", port)
    await true(lambda: replica.info("replication")["master_link_status"] == "up")


async def test_after_a_failover_that_lost_events_no_position_stands_for_two(start: Start) -> None:
    primary, replica = start(*AT_ONCE), start(*AT_ONCE)
    async with Relay(primary.port) as replication, Relay(primary.port) as door:
        await follow(replica, replication.port)
        url = f"redis://127.0.0.1:{door.port}"
        async with opened(url, PATIENT) as one, opened(url, PATIENT) as two:
            async with Publisher("x", one) as x, Publisher("y", two) as y:
                await true(lambda: replica.ask("XLEN", LOG) > 50)
                before = max(x.acknowledged)
                async with replication.down():
                    # Of these the replica hears nothing.
                    await x.until(50)
                    await y.until(50)
                    lost = max(x.acknowledged), max(y.acknowledged)
                    await asyncio.to_thread(primary.kill)
                    await asyncio.to_thread(replica.ask, "REPLICAOF", "NO", "ONE")
                    door.to = replica.port
                    door.cut()
                await x.until(50)
                await y.until(50)
            assert (x.failed, y.failed) == ([], [])
            (end,) = await one.append(Draft("a", b"end"))
            await two.reach(end)
            assert before.epoch == lost[0].epoch < end.epoch
            for node in (one, two):
                assert [begin.epoch for begin, _ in node.heard.begins] == [before.epoch, end.epoch]
            async with opened(url) as late:
                agree((one, two, late), (x, y))
                # What the replica had has its numbers in the new epoch too, on a node that has come
                # since.
                known = {p.seq: d for p, d in events_of(one).items() if p not in events_of(late)}
                kept = {p.seq: d for p, d in events_of(late).items() if p not in events_of(one)}
                assert kept
                assert kept.items() <= known.items()


async def test_a_failover_in_which_nothing_was_lost_is_a_new_epoch_too(start: Start) -> None:
    """That nothing was lost is more than anybody can know."""
    primary, replica = start(*AT_ONCE), start(*AT_ONCE)
    async with Relay(primary.port) as door:
        await follow(replica, primary.port)
        async with opened(f"redis://127.0.0.1:{door.port}", PATIENT) as one:
            (before, _) = await one.append(Draft("a", b"0"), Draft("a", b"1", key="k"))
            await true(lambda: replica.ask("XLEN", LOG) == 3)
            await asyncio.to_thread(primary.kill)
            await asyncio.to_thread(replica.ask, "REPLICAOF", "NO", "ONE")
            door.to = replica.port
            (after,) = await one.append(Draft("a", b"2", key="k"))
            assert after.epoch > before.epoch
            # The newest events of keys are as they were, but for those that have newer ones.
            await one.reach(after)
            assert one.heard.begins[1][1][0].data == b"0"


async def test_a_primary_that_is_made_a_replica_and_back_has_a_new_epoch(start: Start) -> None:
    primary, other = start(*AT_ONCE), start(*AT_ONCE)
    async with opened(primary.url, PATIENT) as one:
        (before,) = await one.append(Draft("a", b"1"))
        await follow(primary, other.port)
        waiting = asyncio.create_task(one.broker.append([Draft("a", b"2")]))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await asyncio.to_thread(primary.ask, "REPLICAOF", "NO", "ONE")
        (after,) = await waiting
        await one.reach(after)
        assert after.epoch > before.epoch
        agree((one,))


async def test_a_replica_is_refused(start: Start) -> None:
    primary, replica = start(*AT_ONCE), start(*AT_ONCE)
    await follow(replica, primary.port)
    with pytest.raises(BrokerError, match="it is a replica"):
        await connect(replica.url, Config(wait=0.2)).open(Strict())


async def test_a_writer_at_another_server_takes_the_tail_along(start: Start) -> None:
    """The tail's connection does not break, and what it waits at is not the primary any more."""
    primary, replica = start(*AT_ONCE), start(*AT_ONCE)
    async with Relay(primary.port) as door:
        await follow(replica, primary.port)
        async with opened(f"redis://127.0.0.1:{door.port}", PATIENT) as one:
            await one.append(Draft("a", b"1"))
            door.to = replica.port
            await asyncio.to_thread(replica.ask, "REPLICAOF", "NO", "ONE")
            kinds = {line.split(b"cmd=")[1].split()[0]: line for line in clients(primary)}
            (main,) = (line for cmd, line in kinds.items() if cmd not in (b"xread", b"subscribe"))
            await asyncio.to_thread(
                primary.ask, "CLIENT", "KILL", "ID", main.split(b"id=")[1].split()[0]
            )
            (position,) = await one.append(Draft("a", b"2"))
            assert one.heard.begins[-1][0].epoch == position.epoch
            agree((one,))


def clients(store: Store) -> list[bytes]:
    listed: bytes = store.ask("CLIENT", "LIST", "TYPE", "normal")
    listed += store.ask("CLIENT", "LIST", "TYPE", "pubsub")
    return [line for line in listed.splitlines() if line and b"cmd=client" not in line]
