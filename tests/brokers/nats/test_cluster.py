"""A log with three copies: nothing is lost, and nothing comes twice, when their leader goes."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.brokers.nats.server import NatsServer
from tests.brokers.nats.test_broker import (
    CONFIG,
    HUB,
    append_all,
    flat,
    linked,
    mixed,
    opened,
)
from tests.servers import unused_port
from twinwire.core.event import Draft
from twinwire.core.log import Retention
from twinwire.testing.contract import eventually, newest, said

pytestmark = pytest.mark.timeout(120)  # three servers have to find each other, and a new leader


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[NatsServer]]:
    ports = [unused_port() for _ in range(3)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    servers = [
        NatsServer(
            tmp_path / f"n{number}",
            f"server_name: n{number}\n"
            f'cluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{routes}] }}',
        )
        for number, port in enumerate(ports)
    ]
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.kill)
            server.start()
        yield servers


def url(*servers: NatsServer) -> str:
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    return f"nats://{hosts}?replicas=3"


async def leader(servers: list[NatsServer]) -> NatsServer:
    async with linked(servers[0]) as link:
        name = (await link.api(f"STREAM.INFO.{HUB}"))["cluster"]["leader"]
    return servers[int(name[1:])]


async def test_when_the_leader_is_killed_its_log_goes_on(cluster: list[NatsServer]) -> None:
    config = CONFIG._replace(wait=60, keep=Retention(100))
    async with (
        opened(url(*cluster), config) as one,
        opened(url(*reversed(cluster)), config) as two,
    ):
        await eventually(lambda: one.append(Draft("a", b"first")), 30)
        expected = [("a", b"first")]
        several = mixed(200)
        appending = [asyncio.ensure_future(one.broker.append(some)) for some in several]
        await appending[20]
        killed = await leader(cluster)
        killed.kill()
        answers = await asyncio.gather(*appending)
        positions = [position for answer in answers for position in answer]
        assert positions == sorted(set(positions))
        # The same keys on two nodes at once, in the cluster's way to store them.
        again = [[Draft("x", b"1", idempotency_key=f"{n}")] for n in range(20)]
        both = await asyncio.gather(*(append_all(n.broker, again) for n in (one, two)))
        assert both[0] == both[1]
        positions += [position for answer in both[0] for position in answer]
        expected += flat(several)
        for node in (one, two):
            await node.reach(max(positions))
            assert len(node.heard.begins) == 1
            assert [e for e in said(node.heard.events) if e[0] != "x"] == expected
            assert len(node.heard.events) == len(expected) + 20
        assert one.heard.events == two.heard.events
        killed.start()
        kept = newest(one.heard.events)
    async with opened(url(*cluster), config) as node:
        assert newest([*node.heard.begins[0][1], *node.heard.events]) == kept
