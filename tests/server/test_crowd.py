"""A crowd at the door is let in in portions, and others are served in between."""

import asyncio
import socket
import time
from collections.abc import Callable

import pytest

from twinwire.server.accept import Acceptor
from twinwire.server.crowd import _FIRST, _MOST, Gate, Portions


async def turns_until(done: Callable[[], bool]) -> int:
    """How many turns of the loop it takes, at most 10,000."""
    turns = 0
    while not done() and turns < 10_000:
        turns += 1
        await asyncio.sleep(0)
    return turns


def busy(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


async def test_a_few_are_let_in_at_once() -> None:
    gate, entered = Gate(), list[int]()
    for number in range(_FIRST):
        assert gate.enter(lambda number=number: entered.append(number))  # type: ignore[misc]
    assert entered == list(range(_FIRST))


async def test_a_crowd_is_let_in_in_order_and_in_portions() -> None:
    gate, entered = Gate(), list[int]()
    sizes, before = [], 0
    for number in range(1000):
        gate.enter(lambda number=number: entered.append(number))  # type: ignore[misc]
    while len(entered) < 1000:
        sizes.append(len(entered) - before)
        before = len(entered)
        await asyncio.sleep(0)
    assert entered == list(range(1000))
    assert max(sizes) <= _MOST
    await turns_until(lambda: not gate._turning)
    assert gate.enter(lambda: None), "when the crowd is gone, the next one is let in at once"


async def test_the_portions_follow_what_they_cost() -> None:
    gate, entered = Gate(), list[int]()

    def dear() -> None:
        busy(0.002)
        entered.append(1)

    for _ in range(100):
        gate.enter(dear)
    longest = 0.0
    while len(entered) < 100:
        begun = time.thread_time()
        await asyncio.sleep(0)
        longest = max(longest, time.thread_time() - begun)
    # The first portion is not known to be dear.
    assert longest < 0.002 * (2 * _FIRST + 2)
    assert len(entered) == 100


def test_portions_shrink_and_grow() -> None:
    portions = Portions()
    assert portions.next() == _FIRST
    assert portions.next() == _FIRST + 1
    busy(0.006)
    assert portions.next() == (_FIRST + 1) // 2
    for _ in range(10):
        busy(0.006)
        last = portions.next()
    assert last == 1
    for _ in range(2 * _MOST):
        last = portions.next()
    assert last == _MOST
    portions.over()
    assert portions.next() == _FIRST


class _Door:
    """A listening socket, its acceptor, and how many have come in."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.address = self.listener.getsockname()
        self.came = 0
        self.entered = asyncio.Event()
        self.clients: list[socket.socket] = []

    def protocol(self) -> asyncio.Protocol:
        self.came += 1
        self.entered.set()
        return asyncio.Protocol()

    def knock(self, count: int) -> None:
        for _ in range(count):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(self.address)
            self.clients.append(client)

    def close(self) -> None:
        for one in (self.listener, *self.clients):
            one.close()


async def test_a_burst_of_connections_leaves_turns_to_the_others() -> None:
    door = _Door()
    acceptor = Acceptor(door.listener, door.protocol)
    try:
        door.knock(500)
        before, largest = 0, 0
        deadline = time.monotonic() + 20
        while door.came < 500 and time.monotonic() < deadline:
            await asyncio.sleep(0)
            largest = max(largest, door.came - before)
            before = door.came
        assert door.came == 500
        assert largest <= _MOST
    finally:
        acceptor.close()
        await acceptor.wait_closed()
        door.close()


async def test_without_files_left_it_waits_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    door = _Door()
    monkeypatch.setattr("twinwire.server.accept._PAUSE", 0.01)
    failing = [OSError(24, "too many open files"), OSError(103, "connection aborted")]

    class Listener:
        """The socket, whose first answers are failures."""

        def accept(self) -> tuple[socket.socket, object]:
            if failing:
                raise failing.pop(0)
            return door.listener.accept()

        def setblocking(self, blocking: bool) -> None:
            door.listener.setblocking(blocking)

        def fileno(self) -> int:
            return door.listener.fileno()

    acceptor = Acceptor(Listener(), door.protocol)  # type: ignore[arg-type]
    try:
        door.knock(3)
        async with asyncio.timeout(10):
            while door.came < 3:
                door.entered.clear()
                await door.entered.wait()
    finally:
        acceptor.close()
        await acceptor.wait_closed()
        door.close()
