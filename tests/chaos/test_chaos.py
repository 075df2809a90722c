"""200 clients behind a network that fails all the time, and a server that is killed in between.

Every client's ledger must add up, and in the end everyone must be live. The seed decides what the
proxy does to each connection; it is printed, and TWINWIRE_CHAOS_SEED replays it.
TWINWIRE_CHAOS_SECONDS makes the run longer.
"""

import asyncio
import os
import random
import secrets
from collections import Counter

import pytest

from tests.chaos.crowd import CHANNELS, RATE, Client, Source, check, until_live
from tests.chaos.proxy import Proxy
from tests.plain import Api
from tests.servers import Server, unused_port
from tests.waiting import wait_until
from twinwire.client import Position, Publisher

SECONDS = float(os.environ.get("TWINWIRE_CHAOS_SECONDS", "15"))
CLIENTS = 200

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
            source = Source(random.Random(f"{seed}:source"), publisher)
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
