"""Clients that keep ledgers, and a source that records what it has published."""

import asyncio
import random
import time
from collections.abc import Sequence

from msgspec import Raw

from twinwire.client import Event, Gap, InDoubt, Mode, Position, Publisher, Unreachable, subscribe
from twinwire.client.ledger import Entry, Ledger

RATE = 240
"""Events a second."""

BURSTS = [1] * 20 + [40]
"""Events that are published together."""

CHANNELS = [f"chaos.{a}.{b}" for a in "abcde" for b in "vwxyz"]
KEYS = ["k1", "k2", "k3", None] * 10 + [f"rare{n}" for n in range(8)]
MARKER = b'{"end":'
"""How the data of the last events begins."""


class Client:
    """Follows its channels and keeps its ledger."""

    def __init__(self, number: int, url: str, begin: Position, dice: random.Random) -> None:
        wire, mode = [("sse", "every"), ("ws", "every"), ("sse", "latest"), ("ws", "latest")][
            number % 4
        ]
        selectors = dice.choice(
            [
                [f"chaos.{dice.choice('abcde')}.*"],
                [f"chaos.*.{dice.choice('vwxyz')}"],
                dice.sample(CHANNELS, 3),
                [dice.choice(CHANNELS), "chaos.c.>", dice.choice(CHANNELS)],
            ]
        )
        self.name = f"client {number} ({wire}, {mode}, {' '.join(selectors)})"
        self.mode = Mode(mode)
        self.ledger = Ledger(selectors, self.mode, begin, one_order=wire == "sse")
        self.awaited = {c for c in CHANNELS if any(self.ledger.selection.matching(c))}
        self.live = asyncio.Event()
        """A marker has come through each of its channels."""
        self.events: dict[Position, Event] = {}
        self.subscription = subscribe(
            url,
            selectors,
            wire="sse" if wire == "sse" else "ws",
            mode=mode,
            since=begin,
            silence=2.5,
        )
        # Nobody may be waiting for a long time when all is well again.
        self.subscription._backoff.most = 1.0

    async def run(self) -> None:
        async with self.subscription:
            async for item in self.subscription:
                if isinstance(item, Event):
                    self.events[item.position] = item
                    if item.data.startswith(MARKER):
                        self.awaited.discard(item.channel)
                        if not self.awaited:
                            self.live.set()
                if isinstance(item, Event | Gap):
                    self.ledger.add(item)


class Source:
    """Publishes, and records what was given which position, and what may have been published."""

    def __init__(self, dice: random.Random, *publishers: Publisher) -> None:
        """Each event goes through one of the publishers."""
        self.entries: list[Entry] = []
        self.doubted: set[bytes] = set()
        self._publishers: Sequence[Publisher] = publishers
        self._dice = dice
        self._count = 0
        self.over = False

    async def publish(self, channel: str, key: str | None, data: bytes | None = None) -> None:
        self._count += 1
        if data is None:
            padding = b"x" * self._dice.choice([0, 0, 0, 20, 200, 2000])
            data = b'{"n":%d,"p":"%s"}' % (self._count, padding)
        try:
            publisher = self._dice.choice(self._publishers)
            position = await publisher.publish(channel, Raw(data), key=key)
        except InDoubt:
            self.doubted.add(data)
        except Unreachable:
            pass  # nothing of it has arrived
        else:
            self.entries.append(Entry(position, channel, key, data))

    async def run(self) -> None:
        """Steadily, without waiting for the answers, which a killed server delays."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            due = loop.time()
            while not self.over:
                burst = self._dice.choice(BURSTS)
                due += burst / RATE
                await asyncio.sleep(due - loop.time())
                for _ in range(burst):
                    work = self.publish(self._dice.choice(CHANNELS), self._dice.choice(KEYS))
                    group.create_task(work)

    async def mark(self) -> None:
        """One last event through every channel."""
        async with asyncio.TaskGroup() as group:
            for channel in CHANNELS:
                data = MARKER + b"%d}" % self._count
                group.create_task(self.publish(channel, "end", data))


async def until_live(clients: list[Client], source: Source, seconds: float) -> None:
    """Until everyone is live, or the time is over. Whoever comes back beyond the last event needs
    another one."""
    deadline = time.monotonic() + seconds
    waiting = {asyncio.create_task(client.live.wait()) for client in clients}
    while waiting and time.monotonic() < deadline:
        await source.mark()
        _, waiting = await asyncio.wait(waiting, timeout=1)
    for task in waiting:
        task.cancel()


def check(source: Source, clients: list[Client]) -> list[str]:
    """What does not add up."""
    # What the publisher could not know was published if somebody has it, and then for everybody.
    entries = {entry.position: entry for entry in source.entries}
    for client in clients:
        for position, event in client.events.items():
            if event.data in source.doubted:
                entries[position] = Entry(position, event.channel, event.key, event.data)
    wrong = []
    for client in clients:
        verdict = client.ledger.check(entries.values())
        if not verdict.adds_up:
            wrong.append(f"{client.name}: {verdict}")
    return wrong
