"""Sentinels say where the primary is, and where it has gone."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from tests.brokers.redis.conftest import Start
from tests.brokers.redis.nodes import Publisher, agree, opened
from tests.brokers.redis.servers import AOF, Store
from tests.brokers.redis.test_failover import true
from tests.servers import unused_port
from twinwire.brokers import Config, connect
from twinwire.core.event import Draft
from twinwire.errors import BrokerError
from twinwire.testing.contract import Strict

PATIENT = Config(wait=40)
SECRET, OTHER_SECRET = "data-s3cr3t", "sentinel-s3cr3t"
FLAGS = (*AOF, "--requirepass", SECRET, "--masterauth", SECRET, "--repl-diskless-sync-delay", "0")


@contextmanager
def sentinel(binary: str, primary: Store, directory: Path) -> Iterator[Store]:
    """A sentinel that watches `primary` as `main`, and decides alone."""
    port = unused_port()
    conf = directory / "sentinel.conf"
    conf.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {directory}\nrequirepass {OTHER_SECRET}\n"
        f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
        f"sentinel auth-pass main {SECRET}\n"
        "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
    )
    store = Store(binary, mode=(str(conf), "--sentinel"))
    store.port = port
    store.login = (OTHER_SECRET,)
    with store:
        yield store


@asynccontextmanager
async def watched(binary: str, start: Start, directory: Path) -> AsyncIterator[tuple[str, Store]]:
    """The URL of a primary with a replica and a sentinel, and the primary."""
    primary, replica = start(*FLAGS), start(*FLAGS)
    for store in (primary, replica):
        store.login = (SECRET,)
    replica.ask("REPLICAOF", "127.0.0.1", primary.port)
    with sentinel(binary, primary, directory) as watching:
        await true(lambda: replica.info("replication")["master_link_status"] == "up")
        await true(lambda: len(watching.ask("SENTINEL", "REPLICAS", "main")) == 1)
        away = unused_port()
        sentinels = f"127.0.0.1:{away},127.0.0.1:{watching.port}"
        login = f"sentinel_password={OTHER_SECRET}"
        yield f"redis+sentinel://:{SECRET}@{sentinels}/main?{login}", primary


@pytest.mark.timeout(120)  # a sentinel takes its time, and reads its password wrong at first
@pytest.mark.parametrize("frozen", [False, True])
async def test_the_primary_that_the_sentinels_name_is_followed(
    binary: str,
    start: Start,
    tmp_path: Path,
    frozen: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        watched(binary, start, tmp_path) as (url, primary),
        opened(url, PATIENT) as one,
        opened(url, PATIENT) as two,
    ):
        async with Publisher("x", one) as x, Publisher("y", two) as y:
            before = max(x.acknowledged)
            if frozen:
                # Its connections stay as they are.
                primary.freeze()
            else:
                await asyncio.to_thread(primary.kill)
            await x.until(50)
            await y.until(50)
            if frozen:
                primary.thaw()
                await x.until(50)
                await y.until(50)
        assert (x.failed, y.failed) == ([], [])
        (end,) = await one.append(Draft("a", b"end"))
        await two.reach(end)
        assert end.epoch > before.epoch
        async with opened(url) as late:
            agree((one, two, late), (x, y))
    assert SECRET not in caplog.text
    assert OTHER_SECRET not in caplog.text


async def test_what_the_sentinels_do_not_know_is_said(
    binary: str, start: Start, tmp_path: Path
) -> None:
    primary = start(*FLAGS)
    primary.login = (SECRET,)
    with sentinel(binary, primary, tmp_path) as watching:
        base = f"redis+sentinel://:{SECRET}@127.0.0.1:{watching.port}"
        login = f"sentinel_password={OTHER_SECRET}"
        for url, says in [
            (f"{base}/other?{login}", "knows no service 'other'"),
            (f"{base}/main", "no sentinel can be asked .*NOAUTH"),
            (f"redis+sentinel://127.0.0.1:{unused_port()}/main", "refused"),
            (f"redis+sentinel://127.0.0.1:{watching.port}/main?{login}", "refuses the login"),
        ]:
            with pytest.raises(BrokerError, match=says) as caught:
                await connect(url, Config(wait=0.2)).open(Strict())
            assert "s3cr3t" not in str(caught.value)
        async with opened(f"{base}/main?{login}") as node:
            await node.append(Draft("a", b"1"))
