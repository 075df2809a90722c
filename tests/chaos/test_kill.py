"""A server over SQLite that is killed again and again in the middle of a stream of events.

TWINWIRE_KILLS and TWINWIRE_KILL_RATE (events a second) make it harder.
"""

import asyncio
import os
import random
from pathlib import Path

import pytest
from msgspec import Raw

from tests.servers import Server, unused_port
from tests.waiting import until
from twinwire.brokers import Config
from twinwire.brokers.sqlite import SqliteBroker
from twinwire.client import Event, Gap, InDoubt, Mode, Position, Publisher, Unreachable, subscribe
from twinwire.client.ledger import Entry, Ledger
from twinwire.core.log import Retention
from twinwire.testing.heard import Heard

KILLS = int(os.environ.get("TWINWIRE_KILLS", "4"))
RATE = float(os.environ.get("TWINWIRE_KILL_RATE", "1000"))
CHANNELS = [f"kill.{n}" for n in range(20)]
BURST = 20


class Source:
    """Publishes steadily, whether there is a server or not, and notes what was confirmed."""

    def __init__(self, publisher: Publisher) -> None:
        self.entries: list[Entry] = []
        self.doubted: set[bytes] = set()
        self.over = False
        self.count = 0
        self._publisher = publisher
        self._confirmed = asyncio.Event()

    async def publish(self) -> None:
        self.count += 1
        channel, data = CHANNELS[self.count % len(CHANNELS)], b'{"n":%d}' % self.count
        try:
            position = await self._publisher.publish(channel, Raw(data), key=channel)
        except InDoubt:
            self.doubted.add(data)
        except Unreachable:
            pass  # nothing of it has arrived
        else:
            self.entries.append(Entry(position, channel, channel, data))
            self._confirmed.set()

    async def until(self, confirmed: int) -> None:
        """Until more than so many are confirmed."""
        while len(self.entries) <= confirmed:
            self._confirmed.clear()
            await self._confirmed.wait()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            due = loop.time()
            while not self.over:
                due += BURST / RATE
                await asyncio.sleep(due - loop.time())
                for _ in range(BURST):
                    group.create_task(self.publish())


async def follow(url: str, ledger: Ledger) -> None:
    async with subscribe(url, ["kill.*"], since=ledger.begin) as items:
        items._backoff.most = 0.5  # the server is back in less
        async for item in items:
            if isinstance(item, Event | Gap):
                ledger.add(item)


@pytest.mark.timeout(KILLS * 15 + 60)  # most of it is the starting of servers
async def test_what_was_confirmed_is_there_and_every_ledger_adds_up(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    port = unused_port()
    clock = asyncio.get_running_loop().time
    served = 0.0
    dice = random.Random(KILLS)

    def server() -> Server:
        # Where clients are is in memory, however long they are away.
        return Server("--broker", f"sqlite:///{path}", "--set", "log_events=2000000", port=port)

    serving = server()
    serving.start()
    await asyncio.to_thread(serving.wait_ready)
    try:
        async with Publisher(serving.url) as publisher:
            source = Source(publisher)
            await source.publish()
            begin = Position(source.entries[0].position.epoch, 0)
            ledger = Ledger(["kill.*"], Mode.EVERY, begin)
            following = asyncio.create_task(follow(serving.url, ledger))
            publishing = asyncio.create_task(source.run())
            try:
                for _ in range(KILLS):
                    confirmed = len(source.entries) + dice.randint(1, int(RATE / 2))
                    begun = clock()
                    await source.until(confirmed)
                    # Anywhere between two confirmations.
                    await asyncio.sleep(dice.uniform(0, 0.1))
                    served += clock() - begun
                    serving.close()  # by SIGKILL
                    serving = server()
                    serving.start()
                    await asyncio.to_thread(serving.wait_ready)
                await source.until(len(source.entries))
                source.over = True
                await publishing
                await source.publish()
                last = source.entries[-1].position
                await until(lambda: ledger.end is not None and ledger.end >= last)
                assert not following.done()
            finally:
                for task in (publishing, following):
                    task.cancel()
                await asyncio.wait([publishing, following])
    finally:
        serving.close()

    heard = Heard()
    broker = SqliteBroker(path, Config(warm=Retention()))
    await broker.open(heard)
    await broker.close()
    stored = {event.position: (event.channel, event.data) for event in heard.events}
    print(
        f"{KILLS} kills, {served:.1f} s served, {source.count} published,"
        f" {len(source.entries)} confirmed,"
        f" {len(source.doubted)} in doubt, {len(stored)} stored, {len(ledger)} received"
    )
    # One log, without holes and without an event twice.
    assert heard.begins == [(begin, [])]
    assert [position.seq for position in stored] == list(range(1, len(heard.events) + 1))
    assert len({data for _, data in stored.values()}) == len(stored)
    # What was confirmed is there, where it was said to be.
    assert len({entry.position for entry in source.entries}) == len(source.entries)
    assert all(stored.get(e.position) == (e.channel, e.data) for e in source.entries)
    # What is there and was not confirmed was in doubt, and not many of them.
    confirmed_data = {entry.data for entry in source.entries}
    assert {data for _, data in stored.values()} - confirmed_data <= source.doubted
    # The client has it all, with nothing missing in between.
    assert ledger.gaps == []
    verdict = ledger.check(
        [Entry(p, channel, channel, data) for p, (channel, data) in stored.items()]
    )
    assert verdict.adds_up, verdict
    assert len(ledger) == len(stored)
