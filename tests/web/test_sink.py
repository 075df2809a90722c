"""The sink that writes by awaiting `send`, with a `send` that takes its time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from twinwire import Hub
from twinwire.core.feed import Feed
from twinwire.errors import CloseReason, Reason
from twinwire.web.sink import SendSink
from twinwire.wires import sse


class Gate:
    """A `send` that lets one message through at a time."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self._open = asyncio.Semaphore(0)
        self._came = asyncio.Event()

    async def __call__(self, data: bytes) -> None:
        self.sent.append(data)
        self._came.set()
        await self._open.acquire()

    async def has(self, count: int) -> None:
        """Wait until so many messages have come."""
        while len(self.sent) < count:
            self._came.clear()
            await self._came.wait()

    def let(self, count: int = 1) -> None:
        for _ in range(count):
            self._open.release()


@asynccontextmanager
async def running(sink: SendSink) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(sink.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Drained:
    """Stands where the hub does, and counts."""

    def __init__(self) -> None:
        self.fanout = self
        self.times = 0
        self.detached = 0

    def drained(self, feed: Feed) -> None:
        self.times += 1

    def detach(self, feed: Feed) -> None:
        self.detached += 1


class Stream:
    """Owns a sink, and notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Reason | str] = []

    def dropped(self) -> None:
        self.told.append("dropped")

    def say_farewell(self, reason: Reason) -> None:
        self.told.append(reason)

    def lost(self) -> None:
        self.told.append("lost")


def bound(sink: SendSink) -> Drained:
    hub = Drained()
    feed = Feed(sse.wire(envelope=False, chunked=False), sink)
    sink.bind(cast(Hub, hub), (feed,))
    return hub


async def test_what_is_written_is_sent_in_order() -> None:
    gate = Gate()
    sink = SendSink(gate, high=100)
    gate.let(10)
    async with running(sink):
        for piece in (b"a", b"b", b"c"):
            sink.write(piece)
        await gate.has(3)
    assert gate.sent == [b"a", b"b", b"c"]


async def test_a_sink_over_its_limit_is_full_until_all_is_sent() -> None:
    gate = Gate()
    sink = SendSink(gate, high=3)
    hub = bound(sink)
    async with running(sink):
        states = []
        for piece in (b"abc", b"d"):
            sink.write(piece)
            states.append(sink.full)
        await gate.has(1)
        gate.let()
        await gate.has(2)
        states.append(sink.full)
        assert states == [False, True, True]
        assert hub.times == 0
        gate.let()
        await sink.room()
        assert hub.times == 1
        assert sink.waiting() == 0


async def test_a_small_write_while_it_is_sending_does_not_hide_that_it_is_full() -> None:
    gate = Gate()
    sink = SendSink(gate, high=3)
    hub = bound(sink)
    async with running(sink):
        sink.write(b"abcdef")
        await gate.has(1)
        sink.write(b"x")
        assert sink.full
        gate.let(2)
        await sink.room()
        assert hub.times == 1
    assert gate.sent == [b"abcdef", b"x"]


async def test_all_who_wait_for_room_are_woken_and_one_who_gives_up_takes_nobody_along() -> None:
    gate = Gate()
    sink = SendSink(gate, high=1)
    async with running(sink):
        sink.write(b"abc")
        await gate.has(1)
        waiting = [asyncio.create_task(sink.room()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        await asyncio.gather(waiting[1], return_exceptions=True)
        assert not any(task.done() for task in (waiting[0], waiting[2]))
        gate.let()
        await asyncio.gather(waiting[0], waiting[2])


async def test_the_last_bytes_are_sent_before_the_end() -> None:
    gate = Gate()
    sink = SendSink(gate, high=100)
    hub = bound(sink)
    async with running(sink) as task:
        sink.write(b"a")
        sink.finish(b"bye")
        gate.let(2)
        await task
    assert gate.sent == [b"a", b"bye"]
    assert sink.gone
    assert hub.detached


async def test_a_send_that_fails_ends_the_sink_and_wakes_who_waits() -> None:
    async def fail(data: bytes) -> None:
        raise OSError("gone")

    sink = SendSink(fail, high=1)
    hub = bound(sink)
    sink.write(b"abc")
    waiting = asyncio.create_task(sink.room())
    async with running(sink) as task:
        await waiting
        with pytest.raises(OSError, match="gone"):
            await task
    assert sink.gone
    assert not sink.open()
    assert hub.detached


async def test_a_sink_lets_its_owner_say_farewell_once_and_tells_it_of_the_end_once() -> None:
    owner = Stream()
    sink = SendSink(Gate(), high=1)
    sink.bind(cast(Hub, Drained()), (), owner)
    sink.close(CloseReason.SLOW)
    sink.close(CloseReason.SHUTDOWN)
    sink.lost()
    sink.lost()
    assert owner.told == [CloseReason.SLOW, "lost"]


async def test_a_sink_that_is_gone_says_nothing() -> None:
    owner = Stream()
    sink = SendSink(Gate(), high=1)
    sink.bind(cast(Hub, Drained()), (), owner)
    sink.lost()
    sink.close(CloseReason.SHUTDOWN)
    assert owner.told == ["lost"]
