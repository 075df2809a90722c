"""Two nodes on one broker behind a balancer without affinity, and everything goes wrong once.

500 clients over both wires come in through nginx, which sends each connection to the next node.
Events are published on both nodes. Then a node is killed and started again, the broker is killed
and started again with its data, and the broker is frozen for some seconds. Every ledger adds up,
without a gap; every client is live again by itself; and there is one order everywhere.
"""

import asyncio
import random
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from tests.brokers.nats.server import NatsServer
from tests.brokers.redis.servers import AOF, Store, valkey
from tests.chaos.crowd import Client, Source, check, until_live
from tests.cluster.balancer import Balancer
from tests.servers import Server, unused_port
from twinwire.client import Position, Publisher

CLIENTS = 500
FROZEN = 5.0
"""Seconds."""

SETTINGS = {"TWINWIRE_RETRY": "0.2", "TWINWIRE_HEARTBEAT": "1", "TWINWIRE_PING": "5"}


class Backend(Protocol):
    """A broker's server that outlives its process."""

    @property
    def url(self) -> str: ...

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...


@pytest.fixture(params=["valkey", "nats"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    server = Store(valkey(), *AOF) if request.param == "valkey" else NatsServer(tmp_path / "nats")
    with server as running:
        yield running


def node(backend: Backend, port: int) -> Server:
    return Server("--broker", backend.url, port=port, env=SETTINGS, exit_codes=(0, -9))


async def published_more(source: Source, count: int) -> None:
    """Until so many more events have been acknowledged."""
    goal = len(source.entries) + count
    async with asyncio.timeout(40):
        while len(source.entries) < goal:  # noqa: ASYNC110 (a look now and then costs the crowd less)
            await asyncio.sleep(0.05)


@pytest.mark.timeout(180)
async def test_every_ledger_adds_up_whatever_is_killed_or_frozen(
    backend: Backend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = secrets.token_hex(4)
    dice = random.Random(seed)
    ports = [unused_port(), unused_port()]
    nodes = [node(backend, port) for port in ports]
    again = node(backend, ports[0])
    with nodes[0], nodes[1], Balancer(tmp_path, ports) as balancer, ExitStack() as stack:
        async with Publisher(nodes[0].url) as one, Publisher(nodes[1].url) as two:
            source = Source(random.Random(f"{seed}:source"), one, two)
            await source.publish("chaos.a.v", None)
            begin = source.entries[0].position
            clients = [Client(n, balancer.url, begin, dice) for n in range(CLIENTS)]
            following = [asyncio.create_task(client.run()) for client in clients]
            publishing = asyncio.create_task(source.run())
            try:
                await published_more(source, 500)
                await asyncio.to_thread(nodes[0].kill)
                await published_more(source, 200)
                again.start()
                stack.callback(again.close)
                await asyncio.to_thread(again.wait_ready)
                await published_more(source, 300)
                await asyncio.to_thread(backend.kill)
                await asyncio.to_thread(backend.start)
                await published_more(source, 300)
                backend.freeze()
                await asyncio.sleep(FROZEN)
                backend.thaw()
                await published_more(source, 300)
                source.over = True
                await publishing
                await until_live(clients, source, 40)
                broken = [task.exception() for task in following if task.done()]
            finally:
                for task in (publishing, *following):
                    task.cancel()
                await asyncio.wait([publishing, *following])
    with capsys.disabled():
        received = sum(len(client.events) for client in clients)
        print(
            f"\nseed {seed}: {len(source.entries)} published, {len(source.doubted)} in doubt, "
            f"{received} received"
        )
    assert not broken
    assert not [client.name for client in clients if not client.live.is_set()]
    wrong = check(source, clients)
    assert not wrong, f"{len(wrong)} do not add up:\n" + "\n".join(wrong[:5])
    assert not [gap for client in clients for gap in client.ledger.gaps]
    assert len({entry.position.epoch for entry in source.entries}) == 1
    one_truth: dict[Position, bytes] = {}
    for client in clients:
        for position, event in client.events.items():
            assert one_truth.setdefault(position, event.data) == event.data
