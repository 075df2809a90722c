"""The broker: one session after the other, and what the hub is told.

1. A session is a connection on which the log was looked at, and found to be what this node knows,
   or begun anew. Only then is anything written or told.
2. Whatever is not as it should be ends the connection. There is one way back: a new session.
3. What this node knows of the log is the newest message that it was told of, and the newest that it
   has stored. It is kept from session to session.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Sequence
from typing import Final

from nats.aio.msg import Msg

from twinwire.brokers.base import Config, Tail
from twinwire.brokers.nats import epochs
from twinwire.brokers.nats.address import Address
from twinwire.brokers.nats.book import Book
from twinwire.brokers.nats.epochs import Found, Known, Verdict
from twinwire.brokers.nats.follow import Follower, Told
from twinwire.brokers.nats.history import Beginning, back, begin
from twinwire.brokers.nats.keeper import Keeper
from twinwire.brokers.nats.link import Gone, Link
from twinwire.brokers.nats.message import open_message
from twinwire.brokers.nats.stream import Streams
from twinwire.brokers.nats.writer import Session, Writer
from twinwire.core.event import Draft, Event, Position, Selection
from twinwire.core.feed import Earlier
from twinwire.errors import BrokerError

_log = logging.getLogger("twinwire")

_PATIENCE: Final = 5.0
"""Seconds that a server has to answer, at most."""

_FIRST_DELAY: Final = 0.05
_LAST_DELAY: Final = 2.0
"""Seconds between two tries to connect."""

_KEEP: Final = 1.0
"""Seconds between two writings of the book, at least; twice that at most."""

_APART: Final = 0.02
"""Seconds by which nodes are spread that have to write at once."""

_PORTION: Final = 5000
"""Events of a warm start that are delivered at once."""


class NatsBroker:
    """`nats://`; see `twinwire.brokers.nats`. How durable it is: docs/operations.md."""

    shared = True

    def __init__(self, address: Address, config: Config = Config()) -> None:  # noqa: B008 (immutable)
        self._address = address
        self._config = config
        self._streams = Streams(address, config)
        self._book = Book(config.keep, config.keys_max)
        self._servers = random.sample(address.servers, len(address.servers))
        self._patience = min(_PATIENCE, max(config.wait, 0.5))
        self._told: Known | None = None
        self._wrote: Known | None = None
        self._tail: Tail | None = None
        self._writer: Writer | None = None
        self._session: _Session | None = None
        self._waiting: list[asyncio.Future[Session]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._pressing = asyncio.Event()
        self._begun = False
        """Whether the hub was told where the log begins, since it was opened."""

    # Beginning and end

    async def open(self, tail: Tail) -> None:
        """See `Broker.open`."""
        loop = asyncio.get_running_loop()
        self._tail = tail
        self._begun = False
        deadline = loop.time() + self._config.wait
        delay = _FIRST_DELAY
        while True:
            try:
                session = await self._connect()
                break
            except Gone as error:
                if loop.time() + delay > deadline:
                    self._tail = None
                    raise BrokerError(str(error)) from None
            except BaseException:
                self._tail = None
                raise
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LAST_DELAY)
        self._writer = Writer(self._config.wait)
        self._go(session)
        self._tasks = [
            asyncio.create_task(self._stay(session)),
            asyncio.create_task(self._writer.run(self._live)),
        ]

    async def close(self) -> None:
        """See `Broker.close`."""
        self._tail = None
        if self._writer is not None:
            self._writer.end()
        tasks, self._tasks = self._tasks, []
        for future in self._waiting:
            future.cancel()
        session, self._session = self._session, None
        if session is not None:
            session.cancel()
            # Whoever opens it next would read from the log what is not written now.
            last = asyncio.create_task(self._write_book(session))
            await asyncio.wait((last,), timeout=_KEEP)
            session.link.end("closed")
            tasks += (last, *session.tasks)
        while running := [task for task in tasks if not task.done()]:
            # Again, since nats-py swallows being cancelled at times.
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=0.1)
        if session is not None:
            await session.link.closed()

    async def _stay(self, session: _Session) -> None:
        """Have a session, as long as the broker is open."""
        while True:
            why = await asyncio.shield(session.link.over)
            self._session = None
            assert self._writer is not None
            self._writer.why = f"the connection to {session.link.server} is over: {why}"
            _log.info("nats: the connection to %s is over: %s", session.link.server, why)
            session.cancel()
            await session.link.closed()
            session = await self._again()
            self._go(session)

    async def _again(self) -> _Session:
        delay = _FIRST_DELAY
        assert self._writer is not None
        while True:
            await asyncio.sleep(delay * (0.5 + random.random()))
            delay = min(2 * delay, _LAST_DELAY)
            try:
                return await self._connect()
            except BrokerError as error:
                self._writer.why = str(error)
                if not isinstance(error, Gone):
                    _log.warning("%s", error)
            except Exception:  # noqa: BLE001 (whatever it is, without a session everybody would wait for ever)
                _log.exception("nats: a session could not be begun")

    async def _connect(self) -> _Session:
        server = self._servers.pop(0)
        self._servers.append(server)
        link = await Link.open(self._address, server, self._patience)
        self._servers += [other for other in link.others if other not in self._servers]
        try:
            return await self._begin(link)
        except BaseException:
            link.end("given up")
            await link.closed()
            raise

    def _go(self, session: _Session) -> None:
        assert self._writer is not None
        self._writer.room = session.link.max_payload
        session.tasks.append(asyncio.create_task(self._keep(session)))
        self._session = session
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(session)

    def _live(self) -> asyncio.Future[Session]:
        """The session that there is or will be."""
        future: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        if self._session is not None and not self._session.link.over.done():
            future.set_result(self._session)
        else:
            self._waiting.append(future)
        return future

    # The log, looked at

    @property
    def _known(self) -> Known | None:
        told, wrote = self._told, self._wrote
        if told is None or wrote is None or told.epoch != wrote.epoch:
            return told
        return max(told, wrote, key=lambda known: known.message)

    async def _begin(self, link: Link) -> _Session:
        found, verdict = await self._judge(link)
        keeper = Keeper(link, self._streams, found.renewals, self._book)
        session = _Session(self, link, found, keeper)
        if verdict is not Verdict.SAME or not self._begun:
            floor = 0
            if self._told is not None and self._begun:
                floor = self._told.message if verdict is Verdict.TRIMMED else found.begins
            await self._begin_anew(link, found, floor, keeper)
        told = self._told
        assert told is not None
        await link.subscribe(self._streams.notices, self._heard)
        await link.subscribe(self._streams.renewed, session.renewed)
        follower = Follower(link, session.subject, session.take)
        await follower.start(self._streams.log, told.message)
        return session

    async def _judge(self, link: Link) -> tuple[Found, Verdict]:
        streams = self._streams
        found = await streams.find(link)
        for _ in range(5):
            known = self._known
            there = None
            if known is not None and found.first <= known.message <= found.last:
                there = await streams.stored(link, known.message)
            verdict = epochs.judge(found, known, there)
            if verdict is not Verdict.LOST:
                return found, verdict
            _log.warning("nats: the log %s has lost events, a new epoch begins", streams.log)
            found = await streams.renew(link, found, known, self._told)
        raise Gone(f"nats: the log {streams.log} is not what it was time and again")

    async def _begin_anew(self, link: Link, found: Found, floor: int, keeper: Keeper) -> None:
        """Tell where the log begins, after the message `floor` or later, and what is warm of it."""
        there = None
        if found.first <= found.last:
            there = await self._streams.stored(link, found.last)
        beginning: Beginning = await begin(
            link, self._streams.log, found, floor, self._config.warm, keeper, self._book
        )
        self._told = Known(found.epoch, found.last, there.time if there is not None else 0)
        self._wrote = None
        if self._tail is None:
            return
        self._begun = True
        self._tail.begin(Position(found.epoch, beginning.after), beginning.latest)
        for start in range(0, len(beginning.events), _PORTION):
            if start:
                await asyncio.sleep(0)
            if self._tail is not None:
                self._tail.deliver(beginning.events[start : start + _PORTION])

    def take(self, epoch: int, came: Sequence[Told]) -> None:
        """The next messages of the log."""
        if self._tail is None:
            return
        events: list[Event] = []
        for number, _, data in came:
            try:
                some = open_message(data, epoch, number)
            except BrokerError as error:
                _log.warning("nats: left out: %s", error)
                some = []
            self._book.note(number, some)
            events += some
        self._told = Known(epoch, came[-1].number, came[-1].time)
        if self._book.pressing:
            self._pressing.set()
        if events:
            self._tail.deliver(events)

    def wrote(self, known: Known) -> None:
        """This node has stored that."""
        self._wrote = known

    @property
    def newest(self) -> int:
        """The newest message that this node knows."""
        return self._known.message if self._known is not None else 0

    async def _heard(self, msg: Msg) -> None:
        if self._tail is not None:
            self._tail.hear(msg.data)

    # The newest events of keys

    async def _keep(self, session: _Session) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_KEEP * (1 + random.random())):
                    await self._pressing.wait()
                    # All nodes have noticed at once, and one of them is enough.
                    await asyncio.sleep(_APART * random.random())
            self._pressing.clear()
            await self._write_book(session)

    async def _write_book(self, session: _Session) -> None:
        try:
            await session.keeper.keep(session.time())
        except Gone:
            pass  # the next time, or the next session
        except BrokerError as error:
            _log.warning("nats: the newest events of keys are not kept: %s", error)
        except Exception:  # noqa: BLE001 (the next time is another try)
            _log.exception("nats: the newest events of keys are not kept")

    # What the hub asks for

    async def append(self, drafts: Sequence[Draft]) -> list[Position]:
        """See `Broker.append`."""
        if self._writer is None:
            raise BrokerError("the nats broker is not open")
        return await self._writer.append(drafts)

    async def read(self, selection: Selection, after: int, upto: int, limit: int) -> Earlier:
        """See `Broker.read`."""
        session = await self._now()
        found = await self._streams.look(session.link)
        if found.epoch != session.epoch:
            raise Gone("nats: the log has a new epoch")
        return await back(session.link, self._streams.log, found, selection, after, upto, limit)

    async def tell(self, notice: bytes) -> None:
        """See `Broker.tell`."""
        session = await self._now()
        await session.link.publish(self._streams.notices, notice)

    async def _now(self) -> Session:
        if self._tail is None or self._writer is None:
            raise BrokerError("the nats broker is not open")
        future = self._live()
        await asyncio.wait((future,), timeout=self._config.wait)
        if not future.done() or future.cancelled():
            future.cancel()
            raise BrokerError(f"not connected within {self._config.wait:g} s: {self._writer.why}")
        return future.result()


class _Session:
    """A connection on which the log is known; see rule 1."""

    def __init__(self, broker: NatsBroker, link: Link, found: Found, keeper: Keeper) -> None:
        self.link = link
        self.epoch = found.epoch
        self.subject = broker._streams.subject(found.epoch)
        self.keeper = keeper
        self.tasks: list[asyncio.Task[None]] = []
        self._broker = broker

    def cancel(self) -> None:
        """End what runs on it."""
        for task in self.tasks:
            task.cancel()

    def time(self) -> int:
        """The server's time, in ms."""
        return time.time_ns() // 1_000_000 + self._broker._streams.skew

    @property
    def newest(self) -> int:
        """The newest message that this node knows."""
        return self._broker.newest

    def stored(self, message: int, id: str) -> None:
        """Take note that a message was stored."""
        self._broker.wrote(Known(self.epoch, message, 0, id))

    def take(self, came: Sequence[Told]) -> None:
        """The next messages of the log."""
        self._broker.take(self.epoch, came)

    async def renewed(self, msg: Msg) -> None:
        """Some node has begun a new epoch."""
        with contextlib.suppress(BrokerError):
            if (await self._broker._streams.look(self.link)).epoch == self.epoch:
                return
        self.link.end("the log has a new epoch")
