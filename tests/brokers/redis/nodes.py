"""Nodes that share a log, and what must hold whatever happens to it."""

import asyncio
from collections.abc import Iterable, Sized
from contextlib import AbstractAsyncContextManager

from tests.brokers.opened import opened_as_node
from twinwire.brokers import Config, connect
from twinwire.core.event import Draft, Position
from twinwire.errors import BrokerError
from twinwire.testing.contract import Node


def opened(
    url: str,
    config: Config = Config(),  # noqa: B008 (an immutable tuple)
) -> AbstractAsyncContextManager[Node]:
    """A node, which must have kept the rules at the end."""
    return opened_as_node(connect(url, config))


class Publisher:
    """Publishes different events until it is stopped, and notes what it was answered."""

    def __init__(self, name: str, node: Node) -> None:
        self.name = name
        self.acknowledged: dict[Position, bytes] = {}
        self.failed: list[bytes] = []
        self._node = node
        self._count = 0
        self._stopping = False
        self._answered = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []

    async def publish(self) -> Position | None:
        """One event."""
        self._count += 1
        data = f"{self.name}{self._count}".encode()
        try:
            (position,) = await self._node.broker.append([Draft("a", data, key=self.name)])
        except BrokerError:
            self.failed.append(data)
            return None
        finally:
            self._answered.set()
        assert position not in self.acknowledged
        self.acknowledged[position] = data
        return position

    async def _go_on(self) -> None:
        while not self._stopping:
            await self.publish()

    async def __aenter__(self) -> "Publisher":
        self._running = [asyncio.create_task(self._go_on()) for _ in range(5)]
        await self.until(20)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._running)

    async def until(self, more: int) -> None:
        """Wait until so many more were acknowledged."""
        await self._more(self.acknowledged, more)

    async def until_failed(self, more: int) -> None:
        """Wait until so many more have failed."""
        await self._more(self.failed, more)

    async def _more(self, answers: Sized, more: int) -> None:
        enough = len(answers) + more
        async with asyncio.timeout(30):
            while len(answers) < enough:
                self._answered.clear()
                await self._answered.wait()


def events_of(node: Node) -> dict[Position, bytes]:
    """What a node was told, by position; nothing twice."""
    found = {event.position: event.data for event in node.heard.events}
    assert len(found) == len(node.heard.events)
    return found


def agree(nodes: Iterable[Node], publishers: Iterable[Publisher] = ()) -> dict[Position, bytes]:
    """All that anybody knows of, if no position stands for two events."""
    everything: dict[Position, bytes] = {}
    known = [*map(events_of, nodes), *(publisher.acknowledged for publisher in publishers)]
    for one in known:
        for position, data in one.items():
            assert everything.setdefault(position, data) == data, position
    return everything


def exactly_once(node: Node, publishers: Iterable[Publisher]) -> None:
    """The node has got every event that was acknowledged, where that was said, and none twice."""
    events = events_of(node)
    assert len(set(events.values())) == len(events)
    for publisher in publishers:
        assert publisher.acknowledged.items() <= events.items()
