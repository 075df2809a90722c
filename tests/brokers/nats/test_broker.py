"""What the NATS broker outlives: cuts, crashes, frozen servers, lost data; and what it says."""

import asyncio
import base64
import binascii
import json
import logging
import random
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]  # it has none
import pytest

from tests import ROOT
from tests.brokers.nats.server import NatsServer
from tests.brokers.opened import opened_as_node
from tests.relay import Relay
from tests.waiting import until
from twinwire.brokers import Broker, Config, connect
from twinwire.brokers.nats.address import parse
from twinwire.brokers.nats.broker import NatsBroker
from twinwire.brokers.nats.link import Link
from twinwire.core.event import Draft, Event, Position
from twinwire.core.log import Retention
from twinwire.errors import BadSettings, BrokerError
from twinwire.testing.contract import (
    CutContract,
    LossContract,
    Node,
    OutageContract,
    Strict,
    drafts,
    eventually,
    newest,
    said,
)

CONFIG = Config(wait=30)
HUB = "twinwire"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Nothing is printed, and nobody else's log has anything in it."""
    with caplog.at_level(logging.INFO):
        yield
    assert [r for r in caplog.records if r.name != "twinwire"] == []
    assert capfd.readouterr() == ("", "")


def opened(url: str, config: Config = CONFIG) -> AbstractAsyncContextManager[Node]:
    return opened_as_node(connect(url, config))


@asynccontextmanager
async def linked(server: NatsServer) -> AsyncIterator[Link]:
    """A connection of an operator's."""
    link = await Link.open(parse(server.url), f"127.0.0.1:{server.port}", 5)
    try:
        yield link
    finally:
        link.end("done")
        await link.closed()


async def delete(server: NatsServer, *streams: str) -> None:
    async with linked(server) as link:
        for stream in streams:
            await link.api(f"STREAM.DELETE.{stream}")


class Meanings:
    """What positions stand for, as told by anybody: never two things."""

    def __init__(self) -> None:
        self._known: dict[Position, tuple[str, bytes]] = {}

    def add(self, position: Position, said: tuple[str, bytes]) -> None:
        assert self._known.setdefault(position, said) == said

    def add_heard(self, *nodes: Node) -> None:
        for node in nodes:
            for event in node.heard.events:
                self.add(event.position, (event.channel, event.data))
            for _, latest in node.heard.begins:
                for event in latest:
                    self.add(event.position, (event.channel, event.data))


async def append_all(
    broker: Broker, several: list[list[Draft]], meanings: Meanings | None = None
) -> list[list[Position]]:
    answers = await asyncio.gather(*map(broker.append, several))
    for some, positions in zip(several, answers, strict=True):
        for draft, position in zip(some, positions, strict=True):
            if meanings is not None:
                meanings.add(position, (draft.channel, draft.data))
    return answers


def mixed(count: int, name: str = "a") -> list[list[Draft]]:
    """Appends of one and of several events, a few with idempotency keys, all different."""
    dice = random.Random(count)
    several = []
    for number in range(count):
        key = f"{name}{number}" if dice.random() < 0.1 else ""
        some = [Draft(name, b"%d.0" % number, idempotency_key=key)]
        some += [Draft(name, b"%d.%d" % (number, n)) for n in range(1, dice.choice((1, 1, 1, 5)))]
        several.append(some)
    return several


def flat(several: list[list[Draft]]) -> list[tuple[str, bytes]]:
    return [(draft.channel, draft.data) for some in several for draft in some]


class TestCuts(CutContract):
    @pytest.fixture(autouse=True)
    async def place(self, server: NatsServer) -> AsyncIterator[None]:
        async with Relay(server.port) as self.relay:
            yield

    async def make(self, config: Config) -> Broker:
        return connect(f"nats://127.0.0.1:{self.relay.port}", config)

    async def cut(self) -> None:
        self.relay.cut()


class TestOutage(OutageContract):
    @pytest.fixture(autouse=True)
    def place(self, server: NatsServer) -> None:
        self.server = server

    async def make(self, config: Config) -> Broker:
        return connect(self.server.url, config)

    async def stop(self) -> None:
        self.server.kill()

    async def resume(self) -> None:
        self.server.start()


@pytest.mark.parametrize("how", ["deleted", "wiped"])
class TestLoss(LossContract):
    @pytest.fixture(autouse=True)
    def place(self, server: NatsServer, how: str) -> None:
        self.server = server
        self.how = how

    async def make(self, config: Config) -> Broker:
        return connect(self.server.url, config)

    async def lose(self) -> None:
        if self.how == "deleted":
            await delete(self.server, HUB)
            return
        self.server.kill()
        shutil.rmtree(self.server.store)
        self.server.start()


# Connections


async def test_cut_again_and_again_each_event_comes_once_in_the_order_of_the_calls(
    server: NatsServer,
) -> None:
    async with Relay(server.port) as relay, opened(f"nats://127.0.0.1:{relay.port}") as node:
        several = mixed(400)
        appending = [asyncio.ensure_future(node.broker.append(some)) for some in several]
        waves = [appending[n] for n in range(20, 400, 60)]
        more: list[list[Draft]] = []
        for number, wave in enumerate(waves):
            await wave
            more += [[Draft("b", b"%d.%d" % (number, n))] for n in range(50)]
            appending += [asyncio.ensure_future(node.broker.append(s)) for s in more[-50:]]
            await asyncio.sleep(0.002 * number)
            relay.cut(reset=bool(number % 2))
        answers = await asyncio.gather(*appending)
        positions = [position for answer in answers for position in answer]
        await node.reach(max(positions))
        assert positions == sorted(set(positions))
        assert said(node.heard.events) == flat(several + more)
        assert [event.position for event in node.heard.events] == positions
        assert len(node.heard.begins) == 1


async def test_a_frozen_server_stores_nothing_twice(server: NatsServer) -> None:
    async with opened(server.url) as node:
        await node.append(Draft("a", b"first"))
        server.freeze()
        several = mixed(100)
        appending = asyncio.ensure_future(append_all(node.broker, several))
        # Longer than the tail waits for a sign of life: the connection is given up meanwhile.
        await asyncio.sleep(4)
        assert not appending.done()
        server.thaw()
        await node.reach(max(map(max, await appending)))
        assert said(node.heard.events) == [("a", b"first"), *flat(several)]
        assert len(node.heard.begins) == 1


async def test_a_server_that_does_not_answer_does_not_hold_up_the_end(server: NatsServer) -> None:
    async with opened(server.url) as node:
        await node.append(Draft("a", b"1"))
        server.freeze()
        waiting = asyncio.ensure_future(node.broker.append([Draft("a", b"2" * 100_000)] * 40))
        await asyncio.sleep(0.2)
        async with asyncio.timeout(5):
            await node.broker.close()
        with pytest.raises(BrokerError, match="closed"):
            await waiting
        server.thaw()


async def test_another_server_is_taken_when_one_is_away(server: NatsServer, free_port: int) -> None:
    async with opened(f"nats://127.0.0.1:{free_port},127.0.0.1:{server.port}") as node:
        await node.append(Draft("a", b"1"))


async def test_opened_again_it_tells_where_the_log_begins_and_knows_what_it_knew(
    server: NatsServer,
) -> None:
    broker = connect(server.url, CONFIG)
    for number in range(3):
        heard = Strict()
        await broker.open(heard)
        assert [event.data for event in heard.events] == [b"%d" % n for n in range(number)]
        (position,) = await Node(broker, heard).append(Draft("a", b"%d" % number))
        await broker.close()
    await delete(server, HUB)
    heard = Strict()
    await broker.open(heard)
    assert heard.begins[0][0].epoch > position.epoch
    await broker.close()


async def test_an_open_that_is_cancelled_leaves_nothing_behind(server: NatsServer) -> None:
    async with Relay(server.port) as relay:
        for pause in (0, 0.001, 0.003, 0.01):
            broker = connect(f"nats://127.0.0.1:{relay.port}", CONFIG)
            opening = asyncio.ensure_future(broker.open(Strict()))
            await asyncio.sleep(pause)
            opening.cancel()
            await asyncio.wait((opening,))
            await broker.close()
        async with opened(f"nats://127.0.0.1:{relay.port}") as node:
            await node.append(Draft("a", b"1"))


# Crashes


async def test_killed_in_the_midst_of_appends_nothing_acknowledged_is_lost(
    server: NatsServer,
) -> None:
    async with opened(server.url) as one, opened(server.url) as two:
        several = mixed(300)
        appending = [asyncio.ensure_future(one.broker.append(some)) for some in several]
        await appending[50]
        for _ in range(3):
            server.kill()
            later = mixed(50, f"b{len(several)}")
            several += later
            appending += [asyncio.ensure_future(one.broker.append(some)) for some in later]
            server.start()
            await appending[-1]
        answers = await asyncio.gather(*appending)
        positions = [position for answer in answers for position in answer]
        for node in (one, two):
            await node.reach(max(positions))
            assert said(node.heard.events) == flat(several)
            assert [event.position for event in node.heard.events] == positions
            assert len(node.heard.begins) == 1
        start, events = one.heard.begins[0][0], one.heard.events
    async with opened(server.url) as node:
        assert node.heard.begins[0][0] == start
        assert node.heard.events == events


async def test_what_was_never_sent_in_time_is_not_stored_later(server: NatsServer) -> None:
    async with opened(server.url, CONFIG._replace(wait=0.3)) as node:
        await node.append(Draft("a", b"1"))
        server.kill()
        await until(lambda: node.broker._session is None)  # type: ignore[attr-defined]
        given_up = asyncio.ensure_future(node.broker.append([Draft("a", b"given up")]))
        too_late = asyncio.ensure_future(node.broker.append([Draft("a", b"too late")]))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(BrokerError, match=r"not stored within 0\.3 s: .*cannot be reached"):
            await too_late
        server.start()
        await eventually(lambda: node.append(Draft("a", b"2")))
        assert said(node.heard.events) == [("a", b"1"), ("a", b"2")]


# Lost data


async def test_deleted_in_the_midst_of_appends_both_nodes_go_on_in_one_new_epoch(
    server: NatsServer,
) -> None:
    meanings = Meanings()
    async with opened(server.url) as one, opened(server.url) as two:
        tasks = [
            asyncio.ensure_future(append_all(node.broker, mixed(200, name), meanings))
            for node, name in ((one, "a"), (two, "b"))
        ]
        await one.heard.until(lambda: len(one.heard.events) > 50)
        await delete(server, HUB)
        await asyncio.gather(*tasks)
        (last,) = await one.append(Draft("c", b"end"))
        await two.reach(last)
        assert one.heard.position == two.heard.position
        assert one.heard.begins[-1][0].epoch == two.heard.begins[-1][0].epoch == last.epoch
        assert last.epoch > one.heard.begins[0][0].epoch
        meanings.add_heard(one, two)


@pytest.mark.parametrize("who_first", ["one", "two", "both"])
async def test_an_older_copy_is_a_new_epoch_and_no_position_stands_for_two_events(
    server: NatsServer, tmp_path: Path, who_first: str
) -> None:
    meanings = Meanings()
    async with (
        Relay(server.port) as first,
        Relay(server.port) as second,
        opened(f"nats://127.0.0.1:{first.port}") as one,
        opened(f"nats://127.0.0.1:{second.port}") as two,
    ):
        nodes = {"one": (one, first), "two": (two, second)}
        await append_all(one.broker, mixed(20, "kept"), meanings)
        server.kill()
        server.copy(tmp_path / "older")
        server.start()
        await append_all(one.broker, mixed(20, "lost"), meanings)
        (lost,) = await two.append(Draft("keyed", b"lost", key="k"))
        meanings.add(lost, ("keyed", b"lost"))
        await one.reach(lost)
        server.kill()
        server.go_back(tmp_path / "older")
        # One of them is cut off for longer, and comes back when the numbers are filled again.
        away = [relay for name, (_, relay) in nodes.items() if who_first not in (name, "both")]
        for relay in away:
            await relay.close()
        server.start()
        writes = [node for name, (node, _) in nodes.items() if who_first in (name, "both")]
        several = mixed(60, "new")
        await asyncio.gather(*(append_all(node.broker, several, meanings) for node in writes[:1]))
        for relay in away:
            await relay.open()
        (last,) = await one.append(Draft("new", b"end one"))
        (end,) = await two.append(Draft("new", b"end two"))
        for node in (one, two):
            await node.reach(max(last, end))
        assert last.epoch == end.epoch > lost.epoch
        assert one.heard.begins[-1] == two.heard.begins[-1]
        assert len(one.heard.begins) == len(two.heard.begins) == 2
        # What came after the loss is the same for both, from its beginning.
        begun = [[e for e in n.heard.events if e.epoch == last.epoch] for n in (one, two)]
        assert begun[0] == begun[1]
        assert said(begun[0])[: len(flat(several))] == flat(several)
        meanings.add_heard(one, two)
        # Who comes later has what has survived, as part of the new log.
        async with opened(server.url) as three:
            meanings.add_heard(three)
            assert {name for name, _ in said(three.heard.events)} == {"kept", "new"}
            assert three.heard.position == one.heard.position


async def test_a_node_that_only_listens_notices_a_loss(server: NatsServer, tmp_path: Path) -> None:
    async with opened(server.url) as node:
        await node.append(Draft("a", b"kept"))
        server.kill()
        server.copy(tmp_path / "older")
        server.start()
        await node.append(Draft("a", b"lost"))
        server.kill()
        server.go_back(tmp_path / "older")
        server.start()
        await node.heard.until(lambda: len(node.heard.begins) == 2)
        (begin, latest), before = node.heard.begins[-1], node.heard.begins[0][0]
        assert begin.epoch > before.epoch
        assert said(latest) == [("a", b"kept")]


async def test_purged_by_hand_the_log_goes_on_in_its_epoch(server: NatsServer) -> None:
    async with opened(server.url) as node:
        (before,) = await node.append(Draft("a", b"1"))
        async with linked(server) as link:
            await link.api(f"STREAM.PURGE.{HUB}")
        (after,) = await node.append(Draft("a", b"2"))
        assert after > before
        assert after.epoch == before.epoch
        server.kill()
        server.start()
        await node.append(Draft("a", b"3"))
        assert len(node.heard.begins) == 1
        assert said(node.heard.events) == [("a", b"1"), ("a", b"2"), ("a", b"3")]


async def test_trimmed_beyond_what_a_node_has_the_log_begins_later_for_it(
    server: NatsServer,
) -> None:
    async with Relay(server.port) as relay, opened(f"nats://127.0.0.1:{relay.port}") as node:
        await node.append(Draft("a", b"1", key="k"))
        async with relay.down(), opened(server.url) as other:
            await other.append(*drafts("a", 10))
            await other.append(Draft("a", b"kept", key="k"))
            async with linked(server) as link:
                last = (await link.api(f"STREAM.INFO.{HUB}"))["state"]["last_seq"]
                await link.api(f"STREAM.PURGE.{HUB}", {"seq": last})
        await node.heard.until(lambda: said(node.heard.events)[-1:] == [("a", b"kept")])
        assert len(node.heard.begins) == 2
        assert node.heard.begins[0][0].epoch == node.heard.begins[1][0].epoch
        assert said(node.heard.events) == [("a", b"1"), ("a", b"kept")]


async def test_made_again_with_its_old_configuration_the_log_has_a_new_epoch(
    server: NatsServer,
) -> None:
    async with opened(server.url) as node:
        (before,) = await node.append(Draft("a", b"1"))
    await asyncio.sleep(1.1)
    async with linked(server) as link:
        config = (await link.api(f"STREAM.INFO.{HUB}"))["config"]
        await link.api(f"STREAM.DELETE.{HUB}")
        await link.api(f"STREAM.CREATE.{HUB}", config)
    async with opened(server.url) as node:
        assert node.heard.begins[0][0].epoch > before.epoch
        # What was noted of the log before is none of this one's.
        assert node.heard.begins[0][1] == []


# What is kept


async def test_the_newest_events_of_keys_outlive_nodes_that_are_killed(server: NatsServer) -> None:
    config = CONFIG._replace(keep=Retention(10))
    async with Relay(server.port) as relay:
        broker, heard = connect(f"nats://127.0.0.1:{relay.port}", config), Strict()
        await broker.open(heard)
        for number in range(50):
            await broker.append([Draft("a", b"%d" % number, key=f"k{number % 25}")])
        async with linked(server) as link:

            async def trimmed() -> bool:
                return bool((await link.api(f"STREAM.INFO.{HUB}"))["state"]["first_seq"] > 10)

            async with asyncio.timeout(15):
                while not await trimmed():  # noqa: ASYNC110 (the server has no event for it)
                    await asyncio.sleep(0.05)
        # It cannot say anything more.
        await relay.close()
        await broker.close()
        expected = newest(heard.events)
        await relay.open()
    async with opened(server.url, config) as node:
        assert newest([*node.heard.begins[0][1], *node.heard.events]) == expected


async def test_two_nodes_that_write_the_book_at_once_keep_every_key(server: NatsServer) -> None:
    config = CONFIG._replace(keep=Retention(50))
    async with opened(server.url, config) as one, opened(server.url, config) as two:
        dice = random.Random(1)
        for round in range(30):
            for node in (one, two):
                keys = [f"k{dice.randrange(200)}" for _ in range(20)]
                await node.append(*(Draft("a", b"%d" % round, key=key) for key in keys))
        await one.reach(max(one.heard.position, two.heard.position))
        expected: dict[tuple[str, str | None], Event] = newest(one.heard.events)
    async with opened(server.url, config._replace(warm=Retention(1))) as node:
        assert newest([*node.heard.begins[0][1], *node.heard.events]) == expected


async def test_an_append_is_as_large_as_several_messages(server: NatsServer) -> None:
    async with opened(server.url) as node:
        many = [Draft("a", random.Random(n).randbytes(60_000)) for n in range(50)]
        positions = await node.append(*many)
        assert said(node.heard.events) == [("a", draft.data) for draft in many]
        assert positions == sorted(set(positions))


async def test_what_is_too_large_is_told_and_harms_nobody(server: NatsServer) -> None:
    async with opened(server.url) as node:
        with pytest.raises(BrokerError, match=r"does not fit .*max_payload"):
            await node.broker.append([Draft("a", b"x" * (1 << 20))])
        keyed = [Draft("a", b"%d" % n, idempotency_key=f"k{n}") for n in range(1001)]
        alone = asyncio.ensure_future(node.broker.append([Draft("a", b"alone")]))
        with pytest.raises(BrokerError, match="more than the server takes at once"):
            await node.broker.append(keyed)
        await alone
        await node.append(Draft("a", b"end"))
        assert said(node.heard.events) == [("a", b"alone"), ("a", b"end")]


async def test_a_server_that_takes_few_messages_at_once_gets_few(tmp_path: Path) -> None:
    limits = "limits { batch { max_msgs: 5 } }"
    config = CONFIG._replace(keep=Retention(10))
    with NatsServer(tmp_path / "nats", jetstream=limits) as server:
        async with opened(server.url, config) as node:
            several = [
                [Draft("a", b"%d" % n, key=f"k{n}", idempotency_key=f"x{n}")] for n in range(200)
            ]
            answers = await append_all(node.broker, several)
            await node.reach(answers[-1][0])
            assert said(node.heard.events) == flat(several)
            expected = newest(node.heard.events)
            async with linked(server) as link, asyncio.timeout(15):
                # Everything of 200 keys is kept in the end, in small pages, and the log trimmed.
                info: dict[str, Any] = {"state": {"first_seq": 0}}
                while info["state"]["first_seq"] < 100:
                    info = await link.api(f"STREAM.INFO.{HUB}")
        async with opened(server.url, config) as node:
            assert newest([*node.heard.begins[0][1], *node.heard.events]) == expected


async def test_a_foreign_message_is_left_out(
    server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(server.url) as node:
        async with linked(server) as link:
            subject = (await link.api(f"STREAM.INFO.{HUB}"))["config"]["subjects"][0]
            await link.request(subject, b"hello")
        await node.append(Draft("a", b"1"))
        assert said(node.heard.events) == [("a", b"1")]
    assert "message 1 is not twinwire's" in caplog.text
    async with opened(server.url) as node:
        assert said(node.heard.events) == [("a", b"1")]


# Settings


async def test_hubs_on_one_server_are_apart(server: NatsServer) -> None:
    async with opened(f"{server.url}?hub=a") as one, opened(f"{server.url}?hub=b") as two:
        await one.append(Draft("a", b"1"))
        await two.append(Draft("a", b"2"))
        await one.broker.tell(b"to a")
        await one.heard.until(lambda: one.heard.notices == [b"to a"])
        assert said(two.heard.events) == [("a", b"2")]
        assert two.heard.notices == []


async def test_a_stream_is_brought_up_to_the_settings(server: NatsServer) -> None:
    async with opened(server.url) as node:
        (position,) = await node.append(Draft("a", b"1"))
    async with opened(server.url, CONFIG._replace(idempotency_window=77, keys_max=5)) as node:
        assert node.heard.position == position
        async with linked(server) as link:
            log = (await link.api(f"STREAM.INFO.{HUB}"))["config"]
            keys = (await link.api(f"STREAM.INFO.{HUB}-keys"))["config"]
    assert log["duplicate_window"] == 77_000_000_000
    assert keys["max_msgs"] == 6


async def test_a_stream_that_is_not_ours_is_left_alone(server: NatsServer) -> None:
    async with linked(server) as link:
        before = await link.api("STREAM.CREATE.theirs", {"name": "theirs", "subjects": ["x.>"]})
        with pytest.raises(BrokerError, match="a stream theirs that is not twinwire's"):
            await connect(f"{server.url}?hub=theirs", CONFIG).open(Strict())
        assert (await link.api("STREAM.INFO.theirs"))["config"] == before["config"]


async def test_subjects_that_another_stream_takes_are_told(server: NatsServer) -> None:
    async with linked(server) as link:
        await link.api("STREAM.CREATE.all", {"name": "all", "subjects": ["twinwire.>"]})
    with pytest.raises(BrokerError, match="cannot be made: subjects overlap"):
        await connect(server.url, CONFIG).open(Strict())


async def test_an_account_that_demands_a_limit_gets_one(tmp_path: Path) -> None:
    account = (
        "accounts { A { jetstream { max_file: 50G, max_bytes_required: true }\n"
        "users: [{ user: u, password: p }] } }"
    )
    with NatsServer(tmp_path / "nats", account) as server:
        async with opened(f"nats://u:p@127.0.0.1:{server.port}") as node:
            await node.append(Draft("a", b"1"))


# What it says when it cannot


def test_without_the_package_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [n for n in sys.modules if n.startswith("twinwire.brokers.nats")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nats", None)
    import twinwire.brokers

    monkeypatch.delattr(twinwire.brokers, "nats", raising=False)
    with pytest.raises(BadSettings, match=r"pip install 'twinwire\[nats\]'"):
        connect("nats://localhost")


def test_a_broker_is_found_by_its_url() -> None:
    for scheme in ("nats", "tls", "nats+tls"):
        assert isinstance(connect(f"{scheme}://localhost"), NatsBroker)


async def refusal(url: str, wait: float = 0.3) -> str:
    """What `open` says; one line."""
    with pytest.raises(BrokerError) as caught:
        await connect(url, CONFIG._replace(wait=wait)).open(Strict())
    text = str(caught.value)
    assert "\n" not in text
    assert "hidden" not in text
    assert text.startswith("nats: ")
    return text


async def test_a_server_that_is_not_there_is_told(free_port: int) -> None:
    text = await refusal(f"nats://u:hidden@127.0.0.1:{free_port}")
    assert f"127.0.0.1:{free_port} cannot be reached" in text


async def test_a_login_that_is_refused_is_told_at_once(tmp_path: Path) -> None:
    login = "authorization { user: u, password: other }"
    with NatsServer(tmp_path / "nats", login) as server:
        for who in ("u:hidden@", "", "hidden@"):
            text = await refusal(f"nats://{who}127.0.0.1:{server.port}", wait=30)
            assert "refuses the login" in text
        async with opened(f"nats://u:other@127.0.0.1:{server.port}") as node:
            await node.append(Draft("a", b"1"))


async def test_a_token_is_a_login(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats", 'authorization { token: "s3cret" }') as server:
        async with opened(f"nats://s3cret@127.0.0.1:{server.port}") as node:
            await node.append(Draft("a", b"1"))


async def test_a_server_without_jetstream_is_told(tmp_path: Path, free_port: int) -> None:
    server = NatsServer(tmp_path / "nats", port=free_port)
    server.place.mkdir()
    server.begin(["-a", "127.0.0.1", "-p", str(free_port)])
    try:
        server.wait_ready()
        assert "no JetStream at" in await refusal(server.url)
    finally:
        server.kill()


async def test_an_account_without_jetstream_is_told(tmp_path: Path) -> None:
    accounts = "accounts { A { users: [{ user: u, password: hidden }] } }"
    with NatsServer(tmp_path / "nats", accounts) as server:
        text = await refusal(f"nats://u:hidden@127.0.0.1:{server.port}")
        assert "JetStream" in text


async def test_a_permission_that_is_missing_is_told_at_once(tmp_path: Path) -> None:
    may = '["$JS.API.STREAM.INFO.*", "$JS.API.STREAM.CREATE.*"]'
    users = (
        "authorization { users: [{ user: u, password: hidden, permissions: "
        f'{{ publish: {may}, subscribe: "_INBOX.>" }} }}] }}'
    )
    with NatsServer(tmp_path / "nats", users) as server:
        text = await refusal(f"nats://u:hidden@127.0.0.1:{server.port}", wait=30)
        assert "permissions violation for publish" in text
        assert "docs/operations.md" in text


async def test_the_permissions_in_the_docs_are_enough(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    (permissions,) = re.findall(r"```text\n(permissions: .+?)```", text, re.DOTALL)
    users = f"users: [{{ user: u, password: p, {permissions} }}]"
    with NatsServer(tmp_path / "nats", f"authorization {{ {users} }}") as server:
        url = f"nats://u:p@127.0.0.1:{server.port}"
        config = CONFIG._replace(keep=Retention(10))
        async with opened(url, config) as node:
            for number in range(50):
                await node.append(Draft("a", b"%d" % number + b"x" * 60_000, key=f"k{number % 5}"))
            # Enough for flow control.
            await node.append(*(Draft("b", b"x" * 60_000) for _ in range(200)))
            await node.broker.tell(b"x")
            await node.heard.until(lambda: node.heard.notices == [b"x"])
            session = node.broker._session  # type: ignore[attr-defined]
            found = await session.keeper._streams.look(session.link)
            await session.keeper._streams.renew(session.link, found, None, None)
            await node.heard.until(lambda: len(node.heard.begins) == 2)
            await node.append(Draft("a", b"1"))
            assert session.link._denied == ""
        async with opened(url, config) as node:
            assert len(newest([*node.heard.begins[0][1], *node.heard.events])) == 7


async def test_an_older_server_is_told(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twinwire.brokers.nats.link._OLDEST", (99, 1))
    assert "and 99.1 or newer is needed" in await refusal(server.url)


async def test_more_copies_than_servers_are_told(server: NatsServer) -> None:
    text = await refusal(f"{server.url}?replicas=3")
    assert "cannot be made: replicas > 1 not supported" in text


async def test_storage_that_is_not_there_is_told(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats", "accounts { A { jetstream { max_streams: 1 }\n"
                    "users: [{ user: u, password: hidden }] } }") as server:  # fmt: skip
        text = await refusal(f"nats://u:hidden@127.0.0.1:{server.port}")
        assert "cannot be made: maximum number of streams reached" in text


async def test_files_that_cannot_be_read_are_named(server: NatsServer, tmp_path: Path) -> None:
    for name in ("credentials", "ca"):
        missing = tmp_path / "missing.pem"
        assert f"{missing} cannot be read" in await refusal(f"{server.url}?{name}={missing}")


async def test_a_file_that_has_no_credentials_in_it_is_told(
    server: NatsServer, tmp_path: Path
) -> None:
    file = tmp_path / "my.creds"
    file.write_text("hidden")
    assert f"{file} is no credentials file" in await refusal(f"{server.url}?credentials={file}")


@pytest.mark.parametrize("good", [True, False])
async def test_credentials_are_a_login(tmp_path: Path, good: bool) -> None:
    operator, system, account, user, other = (Key(kind) for kind in "OAAUU")
    all_of = dict.fromkeys(["subs", "conn", "data", "payload", "imports", "exports", "leaf"], -1)
    storage = dict.fromkeys(["disk_storage", "mem_storage", "streams", "consumer"], -1)
    accounts = ", ".join(
        f"{key.name}: "
        + operator.signed(key, {"type": "account", "version": 2, "limits": all_of | more})
        for key, more in ((system, {}), (account, storage))
    )
    settings = (
        f"operator: {operator.signed(operator, {'type': 'operator', 'version': 2})}\n"
        f"system_account: {system.name}\nresolver: MEMORY\nresolver_preload: {{ {accounts} }}"
    )
    jwt = account.signed(
        user, {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1}
    )
    seed = (user if good else other).seed
    file = tmp_path / "my.creds"
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    with NatsServer(tmp_path / "nats", settings) as server:
        url = f"{server.url}?credentials={file}"
        if good:
            async with opened(url) as node:
                await node.append(Draft("a", b"1"))
        else:
            assert "refuses the login" in await refusal(url, wait=30)


class Key:
    """A key of NATS's, and what it signs; enough of it for a server to take a user's word."""

    def __init__(self, kind: str) -> None:
        prefix = {"O": 14 << 3, "A": 0, "U": 20 << 3}[kind]
        raw = random.Random(random.random()).randbytes(32)
        head = bytes([(18 << 3) | (prefix >> 5), (prefix & 31) << 3])
        self.seed = self._text(head + raw)
        self._pair = nkeys.from_seed(bytearray(self.seed.encode()))
        self.name = self._pair.public_key.decode()

    @staticmethod
    def _text(data: bytes) -> str:
        check = binascii.crc_hqx(data, 0).to_bytes(2, "little")
        return base64.b32encode(data + check).decode().rstrip("=")

    def signed(self, subject: "Key", claims: dict[str, object]) -> str:
        """A JWT about `subject`."""
        body = {
            "sub": subject.name,
            "iss": self.name,
            "iat": 1,
            "jti": "x",
            "name": "n",
            "nats": claims,
        }
        parts = [{"typ": "JWT", "alg": "ed25519-nkey"}, body]
        text = ".".join(_url64(json.dumps(part).encode()) for part in parts)
        return f"{text}.{_url64(self._pair.sign(text.encode()))}"


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


async def test_no_password_goes_over_a_plain_connection_if_tls_was_asked_for(
    server: NatsServer,
) -> None:
    from tests.seen import Seen

    heard = Seen()
    async with Relay(server.port, heard) as relay:
        text = await refusal(f"tls://u:hidden@127.0.0.1:{relay.port}", wait=30)
    assert "no secure connection" in text
    assert "hidden" not in json.dumps(list(heard.items), default=repr)


async def test_tls_is_spoken_and_the_certificate_checked(tmp_path: Path) -> None:
    tls = Path(__file__).parents[2] / "server" / "tls"
    cert, key = sorted(tls.glob("*"))[:2]
    settings = f'tls {{ cert_file: "{cert}", key_file: "{key}" }}'
    with NatsServer(tmp_path / "nats", settings) as server:
        url = f"tls://localhost:{server.port}"
        assert "no secure connection" in await refusal(url, wait=30)
        async with opened(f"{url}?ca={cert}") as node:
            await node.append(Draft("a", b"1"))
