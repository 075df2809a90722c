"""200 clients behind a network that fails all the time, and a server that is killed in between.

Every client's ledger must add up, and in the end everyone must be live. The seed decides what the
proxy does to each connection; it is printed, and TWINWIRE_CHAOS_SEED replays it.
TWINWIRE_CHAOS_SECONDS makes the run longer.
"""

import asyncio
import os
import random
import secrets
import time
from collections import Counter

import pytest
from msgspec import Raw

from tests.chaos.proxy import Proxy
from tests.plain import Api
from tests.servers import Server, unused_port
from tests.waiting import wait_until
from twinwire.client import Event, Gap, InDoubt, Mode, Position, Publisher, Unreachable, subscribe
from twinwire.client.ledger import Entry, Ledger

SECONDS = float(os.environ.get("TWINWIRE_CHAOS_SECONDS", "15"))
CLIENTS = 200
RATE = 240
"""Events a second."""

BURSTS = [1] * 20 + [40]
"""Events that are published together."""

CHANNELS = [f"chaos.{a}.{b}" for a in "abcde" for b in "vwxyz"]
KEYS = ["k1", "k2", "k3", None] * 10 + [f"rare{n}" for n in range(8)]
MARKER = b'{"end":'
"""How the data of the last events begins."""

# A short log and small buffers, so that who is away or slow for some seconds loses something, in
# some channels much and in others nothing; and everything that is done now and then is done often.
# Slices so short that events come in between any two writes.
SETTINGS = {
    "TWINWIRE_LOG_EVENTS": "900",
    "TWINWIRE_LOG_KEYS": "8",
    "TWINWIRE_CHANNELS": """[{"pattern": "chaos.a.*", "log_events": 5},
        {"pattern": "chaos.*.v", "log_events": 2}]""",
    "TWINWIRE_SLICE_MS": "0.05",
    "TWINWIRE_WRITE_HIGH": "2048",
    "TWINWIRE_NOTSENT_LOWAT": "2048",
    "TWINWIRE_READ_BYTES": "4096",
    "TWINWIRE_HEARTBEAT": "1",
    "TWINWIRE_PING": "2",
    "TWINWIRE_PONG_TIMEOUT": "1.5",
    "TWINWIRE_WRITE_TIMEOUT": "4",
    "TWINWIRE_RETRY": "0.2",
}


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

    def __init__(self, publisher: Publisher, dice: random.Random) -> None:
        self.entries: list[Entry] = []
        self.doubted: set[bytes] = set()
        self._publisher = publisher
        self._dice = dice
        self._count = 0
        self.over = False

    async def publish(self, channel: str, key: str | None, data: bytes | None = None) -> None:
        self._count += 1
        if data is None:
            padding = b"x" * self._dice.choice([0, 0, 0, 20, 200, 2000])
            data = b'{"n":%d,"p":"%s"}' % (self._count, padding)
        try:
            position = await self._publisher.publish(channel, Raw(data), key=key)
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


def wait_until_forgotten(server: Server) -> None:
    """Until the server has no more clients than there are: lost connections leave nothing."""
    with Api(server.port) as api:
        wait_until(lambda: api.result("info")["nodes"][0]["num_clients"] <= CLIENTS)


# The chaos, 10 s at least until all are live on a busy machine, and the checking.
@pytest.mark.timeout(SECONDS + 90)
async def test_every_ledger_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    seed = os.environ.get("TWINWIRE_CHAOS_SEED") or secrets.token_hex(4)
    with capsys.disabled():
        print(f"\nTWINWIRE_CHAOS_SEED={seed} ", end="", flush=True)
    dice = random.Random(seed)
    port = unused_port()
    servers = [Server(port=port, env=SETTINGS, exit_codes=(0, -9)) for _ in range(2)]
    with servers[0]:
        async with Proxy(port, seed) as proxy, Publisher(servers[0].url) as publisher:
            source = Source(publisher, random.Random(f"{seed}:source"))
            await source.publish(CHANNELS[0], None)
            begin = Position(source.entries[0].position.epoch, 0)
            clients = [Client(n, proxy.url, begin, dice) for n in range(CLIENTS)]
            following = [asyncio.create_task(client.run()) for client in clients]
            publishing = asyncio.create_task(source.run())
            try:
                await asyncio.sleep(SECONDS * dice.uniform(0.4, 0.6))
                await asyncio.to_thread(servers[0].kill)
                await asyncio.sleep(dice.uniform(0, 1))
                servers[1].start()
                await asyncio.to_thread(servers[1].wait_ready)
                await asyncio.sleep(SECONDS / 2)
                source.over = True
                await publishing
                proxy.heal()
                await until_live(clients, source, 40)
                broken = [task for task in following if task.done()]
                await asyncio.to_thread(wait_until_forgotten, servers[1])
            finally:
                for task in (publishing, *following):
                    task.cancel()
                await asyncio.wait([publishing, *following])
                for server in servers[1:]:
                    server.close()
    report(seed, proxy, source, clients)
    assert not broken, f"seed {seed}: {[task.exception() for task in broken]}"
    hanging = [client.name for client in clients if not client.live.is_set()]
    assert not hanging, f"seed {seed}: not live in the end: {hanging}"
    wrong = check(source, clients)
    assert not wrong, f"seed {seed}: {len(wrong)} of {CLIENTS} do not add up:\n" + "\n".join(
        wrong[:5]
    )


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


def report(seed: str, proxy: Proxy, source: Source, clients: list[Client]) -> None:
    """What has happened in this run, and that it was a run worth its time."""
    gaps = Counter(gap.why.value for client in clients for gap in client.ledger.gaps)
    received = sum(len(client.events) for client in clients)
    print(
        f"seed {seed}: {len(source.entries)} events published, {len(source.doubted)} in doubt,"
        f" {received} received, {proxy.count} connections, {dict(proxy.happened)},"
        f" gaps {dict(gaps)}"
    )
    assert len(source.entries) > RATE
    assert proxy.count > CLIENTS
    assert gaps["restarted"] > 0
    assert gaps["evicted"] > 0
    epochs = {entry.position.epoch for entry in source.entries}
    assert len(epochs) == 2
