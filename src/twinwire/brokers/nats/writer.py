"""The appends that wait, in the order of their calls.

1. What waits when the last append is done is stored together, as one message if it fits in one.
2. One thing is under way at a time, so nothing can overtake what has to be sent again.
3. Everything has an id that the server knows for a while, so what is sent again is stored once:
   what is repeated is the same parts with the same ids. Where the server says that it has one
   already, it is asked which.
4. An append fails when its time is over, and not before. What was sent may be stored all the same.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Final, NamedTuple, Protocol

from twinwire.brokers.nats.link import ApiError, Gone, Link
from twinwire.brokers.nats.message import SLOTS, Item, Part, Place, divide, item, seq, wrap
from twinwire.brokers.nats.store import TOO_MANY, Letter, store
from twinwire.core.event import Draft, Position
from twinwire.errors import BrokerError

_log = logging.getLogger("twinwire")

_HEADERS: Final = 1024
"""Bytes of a message that are left for its headers."""

_IDS: Final = 400
"""Items with an id that go together, at most, unless the server takes less at once."""

_NO_ROLLUP: Final = 10111
_IN_PROCESS: Final = 10158
_HAS_DUPLICATE: Final = 10201
_TOO_OLD: Final = {10174, 10177}
_TOO_BIG: Final = {10054, 10097}
"""JetStream's error codes."""

_AGAIN: Final = 0.05


class Session(Protocol):
    """What the writer has to know of the connection that there is."""

    link: Link
    epoch: int
    subject: str

    @property
    def newest(self) -> int:
        """The newest message that this node knows."""
        ...

    def time(self) -> int:
        """The server's time, in ms."""
        ...

    def stored(self, message: int, id: str) -> None:
        """Take note that a message was stored."""
        ...


class _TooMany(BrokerError):
    """More messages than the server takes at once."""


class _Append(NamedTuple):
    items: list[Item]
    size: int
    deadline: float
    done: asyncio.Future[list[Position]]


class Writer:
    """See the rules above."""

    def __init__(self, wait: float) -> None:
        self._wait = wait
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Append] = deque()
        self._under_way: list[_Append] = []
        self._arrived = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self._ids = count()
        self._run = secrets.token_hex(4)
        self._ids_max = _IDS
        self.why = "it is not connected"
        """What is the matter, for those whose time is over."""

        self.room = 1 << 20
        """Bytes that a message may have, headers included."""

    async def append(self, drafts: Sequence[Draft]) -> list[Position]:
        """See `Broker.append`."""
        if self._ended:
            raise BrokerError("the nats broker is not open")
        items = [item(draft) for draft in drafts]
        if not items:
            return []
        size = 0
        for record, _ in items:
            size += len(record) + 8
            if len(record) + _HEADERS > self.room:
                raise BrokerError(
                    f"nats: an event of {len(record)} bytes does not fit into a message of at most "
                    f"{self.room} (max_payload of the server)"
                )
        done: asyncio.Future[list[Position]] = self._loop.create_future()
        self._waiting.append(_Append(items, size, self._loop.time() + self._wait, done))
        self._arrived.set()
        if self._timer is None:
            self._timer = self._loop.call_later(self._wait, self._expire)
        return await done

    def end(self) -> None:
        """Fail what waits, and whatever comes."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        for append in (*self._under_way, *self._waiting):
            if not append.done.done():
                append.done.set_exception(BrokerError("the nats broker was closed"))
        self._waiting.clear()

    def _expire(self) -> None:
        now = self._loop.time()
        self._timer = None
        for append in (*self._under_way, *self._waiting):
            if append.done.done():
                continue
            if append.deadline > now:
                self._timer = self._loop.call_later(append.deadline - now, self._expire)
                break
            append.done.set_exception(
                BrokerError(f"not stored within {self._wait:g} s: {self.why}")
            )
        while self._waiting and self._waiting[0].done.done():
            self._waiting.popleft()

    async def run(self, session: Callable[[], asyncio.Future[Session]]) -> None:
        """Store what comes, for ever. `session` is asked for the connection to use."""
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            await session()  # whoever waits for it in vain is not stored
            group = self._under_way = self._take()
            items = [item for append in group for item in append.items]
            work = _Work(items, self.room - _HEADERS, self._new_id)
            while not all(append.done.done() for append in group):
                on = await session()
                if all(append.done.done() for append in group):
                    break
                try:
                    positions = await work.attempt(on)
                except Gone as error:
                    self.why = str(error)
                    on.link.end(str(error))
                except _TooMany as error:
                    if len(group) == 1:
                        _fail(group, error)
                        break
                    self._ids_max = max(1, self._ids_max // 2)
                    self._waiting.extendleft(reversed(group))
                    break
                except BrokerError as error:
                    _fail(group, error)
                except Exception:  # noqa: BLE001 (those who come later must not wait for ever)
                    _log.exception("nats: an append has failed")
                    _fail(group, BrokerError("nats: an append has failed, see the log"))
                else:
                    if positions is None:
                        await asyncio.sleep(_AGAIN)
                    else:
                        _answer(group, positions)
            self._under_way = []

    def _take(self) -> list[_Append]:
        """What goes together: the oldest, and as many after it as fit. Those whose time is over, or
        whose callers do not wait any longer, are left out."""
        group: list[_Append] = []
        count = size = ids = 0
        while self._waiting:
            append = self._waiting[0]
            if not append.done.done():
                count += len(append.items)
                size += append.size
                ids += sum(1 for item in append.items if item.id)
                fits = count <= SLOTS and size <= self.room - _HEADERS and ids <= self._ids_max
                if group and not fits:
                    break
                group.append(append)
            self._waiting.popleft()
        return group

    def _new_id(self) -> str:
        return f"{self._run}.{next(self._ids):x}"


def _fail(group: Sequence[_Append], error: BrokerError) -> None:
    for append in group:
        if not append.done.done():
            append.done.set_exception(error)


def _answer(group: Sequence[_Append], positions: list[Position]) -> None:
    begin = 0
    for append in group:
        end = begin + len(append.items)
        if not append.done.done():
            append.done.set_result(positions[begin:end])
        begin = end


class _Work:
    """Items on their way into the log, until they are there."""

    def __init__(self, items: Sequence[Item], room: int, new_id: Callable[[], str]) -> None:
        self._items = items
        self._room = room
        self._new_id = new_id
        self._known: dict[str, int] = {}
        self._divide()

    def _divide(self) -> None:
        parts, self._places = divide(self._items, self._known, self._room)
        # One id of our own is enough to know all parts by: they are stored together or not at all.
        self._own = next((n for n, part in enumerate(parts) if not part.id), None)
        if self._own is not None:
            parts[self._own] = parts[self._own]._replace(id=self._new_id())
        self._parts: list[Part] = parts

    async def attempt(self, on: Session) -> list[Position] | None:
        """Try it. None: not yet. Raises `Gone`, and `BrokerError` if it cannot be done."""
        if not self._parts:
            return self._positions(on, 0)
        time, newest = on.time(), on.newest
        letters = [
            Letter(on.subject, wrap(part, time), {"Nats-Msg-Id": part.id} if part.id else {})
            for part in self._parts
        ]
        try:
            ack = await store(on.link, letters)
        except ApiError as error:
            return await self._refused(on, error)
        first = ack.number - len(letters) + 1
        if not ack.duplicate:
            if first <= newest:
                # What had these numbers before is gone. It is asked for again when the log was
                # looked at: under its id it is there.
                raise Gone("nats: the log has lost events")
            known = len(letters) - 1 if self._own is None else self._own
            on.stored(first + known, self._parts[known].id)
        return self._positions(on, first)

    def _positions(self, on: Session, first: int) -> list[Position]:
        return [
            Position(
                on.epoch,
                seq(first + place.part, place.slot) if isinstance(place, Place) else seq(place, 0),
            )
            for place in self._places
        ]

    async def _refused(self, on: Session, error: ApiError) -> list[Position] | None:
        if error.code == _IN_PROCESS:
            return None
        if error.code == _HAS_DUPLICATE:
            return await self._find(on)
        if error.code == TOO_MANY:
            raise _TooMany(
                f"nats: the append would be {len(self._parts)} messages, more than the server "
                "takes at once (jetstream limits batch max_msgs)"
            )
        if error.code in _TOO_OLD:
            raise BrokerError("nats: the server that has the log is too old: 2.12.1 is needed")
        if error.code in _TOO_BIG:
            raise error
        raise Gone(str(error))

    async def _find(self, on: Session) -> list[Position] | None:
        """Which parts does the server have?"""
        if self._own is not None:
            number = await _probe(on, self._parts[self._own].id)
            if number:
                # An earlier attempt was stored, all of it.
                return self._positions(on, number - self._own)
        found = {
            part.id: number
            for index, part in enumerate(self._parts)
            if part.id and index != self._own and (number := await _probe(on, part.id))
        }
        if found:
            self._known |= found
            self._divide()
            return await self.attempt(on)
        return None


async def _probe(on: Session, id: str) -> int:
    """The number of the message with that id, or 0.

    Asked by a message that is refused in any case, for a header that has no meaning: the server
    looks first whether it knows the id. (An expectation of the last id or number that cannot be
    would do as well on one server, but nats-server 2.15.1 answers the first wrongly, and in a
    cluster the second stops the stream for good.)
    """
    headers = {"Nats-Msg-Id": id, "Nats-Rollup": "never"}
    try:
        return (await store(on.link, [Letter(on.subject, b"", headers)])).number
    except ApiError as error:
        if error.code in (_NO_ROLLUP, _IN_PROCESS):
            return 0
        raise Gone(str(error)) from None
