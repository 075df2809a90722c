"""The memory broker keeps the contract."""

import time

import pytest

from twinwire.brokers import Broker, Config, connect
from twinwire.brokers.memory import MemoryBroker
from twinwire.core.event import Draft, Event, Kind, Position, Publisher
from twinwire.errors import BadSettings
from twinwire.testing.contract import BrokerContract
from twinwire.testing.heard import Heard

DRAFT = Draft("a", b"1")


class TestContract(BrokerContract):
    async def make(self, config: Config) -> Broker:
        return connect("memory://", config)


async def test_events_get_neighbouring_positions_in_the_order_given() -> None:
    broker, tail = MemoryBroker(), Heard()
    await broker.open(tail)
    start = tail.position
    one = await broker.append([DRAFT])
    more = await broker.append([Draft("b", b"2"), Draft("a", b"3")])
    assert one + more == [Position(start.epoch, start.seq + n) for n in (1, 2, 3)]
    assert [event.position for event in tail.events] == one + more
    assert [event.channel for event in tail.events] == ["a", "b", "a"]


async def test_what_is_appended_is_delivered_before_its_position_is_known() -> None:
    broker, tail = MemoryBroker(), Heard()
    await broker.open(tail)
    (position,) = await broker.append([DRAFT])
    assert [event.position for event in tail.events] == [position]


async def test_events_of_one_append_are_delivered_together() -> None:
    broker, tail = MemoryBroker(), Heard()
    await broker.open(tail)
    await broker.append([DRAFT] * 3)
    await broker.append([])
    await broker.append([DRAFT])
    assert [len(batch) for batch in tail.batches] == [3, 1]


async def test_an_event_is_its_draft_with_a_position_and_a_time() -> None:
    broker, tail = MemoryBroker(), Heard()
    await broker.open(tail)
    start = tail.position
    publisher = Publisher(client="c")
    draft = Draft("a", b"\xff", Kind.BYTES, "key", "type", {"t": "v"}, publisher)
    before = time.time_ns() // 1_000_000
    await broker.append([draft])
    (event,) = tail.events
    assert before <= event.time <= time.time_ns() // 1_000_000
    assert event == Event(
        "a", b"\xff", start.epoch, start.seq + 1, event.time,
        Kind.BYTES, "key", "type", {"t": "v"}, publisher,
    )  # fmt: skip


async def test_a_broker_that_is_opened_again_goes_on_after_its_last_position() -> None:
    broker, tail = MemoryBroker(), Heard()
    await broker.open(tail)
    start = tail.position
    await broker.append([DRAFT])
    await broker.close()
    await broker.open(tail)
    assert tail.begins[-1] == (Position(start.epoch, start.seq + 1), [])
    assert await broker.append([DRAFT]) == [Position(start.epoch, start.seq + 2)]


def test_a_newer_broker_has_a_later_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    older = MemoryBroker()
    moment = time.time_ns() + 2_000_000
    monkeypatch.setattr(time, "time_ns", lambda: moment)
    assert MemoryBroker()._position > older._position


def test_a_broker_is_found_by_its_url() -> None:
    assert isinstance(connect("memory://"), MemoryBroker)


@pytest.mark.parametrize("url", ["", "mem", "mongo://x", "://", "memory2://"])
def test_an_unknown_broker_is_named(url: str) -> None:
    with pytest.raises(BadSettings, match=r"is not known; known are: .*memory://"):
        connect(url)
