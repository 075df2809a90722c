"""The broker on Redis and Valkey: see `twinwire.brokers.redis`.

Three connections: the tail's, which waits in XREAD; one that hears what nodes tell each other; and
one for the rest. Each is kept up by a task of its own. Whatever becomes of them, the tail goes on
after its last position, and says by the numbers if something is missing there.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from twinwire.brokers.base import Config, Tail
from twinwire.brokers.redis import notices, reading, scripts, stream
from twinwire.brokers.redis.address import Address
from twinwire.brokers.redis.finding import PATIENCE, Explained, Finder, Unusable, delays
from twinwire.brokers.redis.identity import Found, Outcome, judge, least_epoch
from twinwire.brokers.redis.link import SILENT, Cut, Link, Refused
from twinwire.brokers.redis.reading import BATCH
from twinwire.brokers.redis.scripts import Appender, Keys
from twinwire.brokers.redis.writer import Writer
from twinwire.core.event import Draft, Position, Selection
from twinwire.core.feed import Earlier
from twinwire.errors import BrokerError

_log = logging.getLogger("twinwire")

_Answer = TypeVar("_Answer")

_IDLE: Final = 2.0
"""Seconds that the tail waits for events before it looks whether all is well."""

_TICK: Final = 0.5
"""Seconds between looks at what does not answer."""


class RedisBroker:
    """A log in Redis or Valkey."""

    shared = True

    def __init__(self, address: Address, config: Config = Config()) -> None:  # noqa: B008 (an immutable tuple)
        self._address = address
        self._config = config
        self._keys = Keys(address.hub, address.database)
        self._find = Finder(address, self._keys)
        self._appender = Appender(self._keys, secrets.token_hex(8), config)
        self._turn = asyncio.Event()
        """Set when the main connection is gone, or the log has to be looked at."""
        self._usable = asyncio.Event()
        """Set while there is a main connection."""
        self._writer = Writer(
            self._appender,
            config.wait,
            acknowledged=self._acknowledged,
            look=self._turn.set,
            explained=self._find.explained,
        )
        self._opened = False
        self._tasks: list[asyncio.Task[None]] = []
        self._links: dict[str, Link] = {}
        self._main: Link | None = None
        self._cursor: stream.Cursor | None = None
        self._lost: tuple[int, str] | None = None
        """The epoch of which it is known that it has lost events, and which."""
        self._said = ""
        """The trouble that was logged last, while it lasts."""

    # Beginning and end

    async def open(self, tail: Tail) -> None:
        """See `Broker.open`."""
        self._tail = tail
        try:
            await self._begin()
        except BaseException:
            await self.close()
            raise
        self._opened = True

    async def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.wait
        waits = delays()
        why: Explained | None = None
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    main, _, ear = [
                        self._hold(name, await self._find.connect())
                        for name in ("main", "tail", "ear")
                    ]
                    await main.within(
                        PATIENCE, "EVAL", scripts.PROBE, 1, f"{self._keys.prefix}probe",
                        self._keys.tell,
                    )  # fmt: skip
                    found, _ = await self._settle(main)
                    assert found.noted is not None
                    nothing = self._appender.command(0, found.noted.epoch, (), ())
                    await main.within(PATIENCE, *nothing)
                    await notices.subscribe(ear, self._keys.tell, self._heard)
                break
            except TimeoutError:
                # What was said before is more than that the time is over.
                why = why or Explained(f"{self._address} does not answer")
            except BrokerError as error:
                why = self._find.explained(error)
            for link in self._links.values():
                link.close()
            delay = next(waits)
            if isinstance(why, Unusable):
                raise BrokerError(str(why)) from None
            if loop.time() + delay > deadline:
                raise BrokerError(f"{why}; check that it runs, and the broker's URL") from None
            await asyncio.sleep(delay)
        self._tasks = [asyncio.create_task(self._watch())]
        try:
            await self._warn(main)
            await self._warm_up(main)
        except BrokerError as error:
            raise BrokerError(str(self._find.explained(error))) from None
        uses = {"main": self._serve, "tail": self._follow, "ear": self._hear}
        self._tasks += [asyncio.create_task(self._keep(name, use)) for name, use in uses.items()]

    async def close(self) -> None:
        """See `Broker.close`."""
        self._opened = False
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._writer.close()
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._main = None

    # What the hub asks

    async def append(self, drafts: Sequence[Draft]) -> list[Position]:
        """See `Broker.append`."""
        self._check_open()
        return await self._writer.append(drafts)

    async def tell(self, notice: bytes) -> None:
        """See `Broker.tell`."""
        await self._ask(lambda link: notices.tell(link, self._keys.tell, notice))

    async def read(self, selection: Selection, after: int, upto: int, limit: int) -> Earlier:
        """See `Broker.read`."""
        self._check_open()
        assert self._cursor is not None
        epoch = self._cursor.position.epoch
        keys = self._keys
        return await self._ask(
            lambda link: reading.earlier(link, keys, selection, epoch, after, upto, limit),
            again=True,
        )

    def _check_open(self) -> None:
        if not self._opened:
            raise BrokerError(f"the broker {self._address} is not open")

    async def _ask(
        self, ask: Callable[[Link], Awaitable[_Answer]], *, again: bool = False
    ) -> _Answer:
        """What `ask` gets from the main link, once there is one; if that breaks, perhaps `again`
        from the next."""
        self._check_open()
        try:
            async with asyncio.timeout(self._config.wait):
                while True:
                    await self._usable.wait()
                    assert self._main is not None
                    try:
                        return await ask(self._main)
                    except Cut:
                        if not again:
                            raise
                        # Until its end has been noticed everywhere.
                        await asyncio.sleep(0)
        except TimeoutError:
            why = self._writer.why
            raise BrokerError(f"no answer within {self._config.wait:g} s: {why}") from None
        except (Cut, Refused) as error:
            raise BrokerError(str(self._find.explained(error))) from None

    # The log's beginning

    async def _warn(self, link: Link) -> None:
        info = scripts.info_of(await link.within(PATIENCE, "INFO", "memory"))
        policy = info.get("maxmemory_policy", "noeviction")
        if info.get("maxmemory", "0") != "0" and policy != "noeviction":
            _log.warning(
                "%s may throw the log away when it is full: its maxmemory-policy is %s, and "
                "should be noeviction", self._address, policy,
            )  # fmt: skip

    async def _warm_up(self, link: Link) -> None:
        """Tell where the log begins, and the newest events."""
        found, now = await self._settle(link)
        assert found.head is not None
        epoch = found.head.epoch
        warm = self._config.warm
        events, begin = await reading.newest(link, self._keys.log, found.head, warm, now)
        latest = await reading.of_keys(link, self._keys, Position(epoch, begin))
        self._cursor = stream.Cursor(found.head)
        self._tail.begin(Position(epoch, begin), latest)
        for start in range(0, len(events), BATCH):
            self._tail.deliver(events[start : start + BATCH])
            await asyncio.sleep(0)

    # Which log it is

    def _acknowledged(self, position: Position) -> None:
        assert self._cursor is not None
        self._cursor.acknowledge(position)

    async def _settle(self, link: Link) -> tuple[Found, int]:
        """Make sure that the log is the one that this node knows, or give it its next epoch.

        Returns it, and the server's time in ms. Raises `BrokerError`.
        """
        while True:
            # Before it is looked, since more becomes known meanwhile.
            known = None if self._cursor is None else self._cursor.known
            reply = await link.within(
                PATIENCE, "EVAL", scripts.LOOK, 2, self._keys.meta, self._keys.log
            )
            found = scripts.found_by(reply)
            if not found.server.primary:
                raise Cut("it is a replica")
            outcome, why = judge(found, known)
            if found.noted and self._lost and self._lost[0] == found.noted.epoch:
                outcome, why = Outcome.RENEWED, self._lost[1]
            if outcome is Outcome.GONE_ON and found.noted:
                break
            did = await link.within(
                PATIENCE, "EVAL", scripts.SETTLE, 5, *self._keys.main,
                found.noted.epoch if found.noted else "", str(found.head or ""),
                outcome.value, least_epoch(found, known),
            )  # fmt: skip
            if did and (found.noted or known):
                what = "has a later epoch" if outcome is Outcome.RENEWED else "goes on"
                _log.warning("the log in %s %s: %s", self._address, what, why)
        if self._lost and self._lost[0] != found.noted.epoch:
            self._lost = None
        self._agree(link, found.server.history)
        return found, int(reply[4][0]) * 1000 + int(reply[4][1]) // 1000

    def _agree(self, link: Link, history: str) -> None:
        """All connections are to one server: the one that was found last."""
        link.history = history
        link.worked = True
        for other in self._links.values():
            if other.history not in ("", history):
                other.close("another server is the primary now")
        self._well()

    def _well(self) -> None:
        if self._said and not any(link.why for link in self._links.values()):
            _log.info("%s can be used again", self._address)
            self._said = ""

    # The connections

    def _hold(self, name: str, link: Link) -> Link:
        self._links[name] = link
        return link

    async def _keep(self, name: str, use: Callable[[Link], Awaitable[None]]) -> None:
        """Let `use` have a connection, and another one when it is gone."""
        waits = delays()
        link = self._links[name]
        while True:
            try:
                if link.why:
                    link = self._hold(name, await self._find.connect())
                await use(link)
            except BrokerError as error:
                self._trouble(str(self._find.explained(error, link.host)))
                link.close(str(error))
            except Exception:  # noqa: BLE001 (a fault of ours must not end the broker)
                _log.exception("the broker's connection failed, and is made anew")
                link.close("it failed")
            if link.worked:
                waits, link.worked = delays(), False
            await asyncio.sleep(next(waits))

    def _trouble(self, why: str) -> None:
        if why != self._said:
            _log.warning("%s; trying again", why)
        self._said = why
        if self._main is None:
            self._writer.pause(why)

    async def _serve(self, link: Link) -> None:
        """The main connection: appends and questions."""
        link.closed.add_done_callback(lambda _: self._turn.set())
        try:
            while not link.why:
                self._turn.clear()
                found, _ = await self._settle(link)
                assert found.noted is not None
                self._main = link
                self._usable.set()
                self._writer.go_on(link, found.noted.epoch)
                await self._turn.wait()
            raise Cut(link.why)
        finally:
            self._main = None
            self._usable.clear()
            self._writer.pause(link.why)

    async def _follow(self, link: Link) -> None:
        """The tail's connection."""
        assert self._cursor is not None
        cursor, tail = self._cursor, self._tail
        await self._settle(link)
        coming = self._read_on(link, str(cursor.position))
        while True:
            reply = await coming
            if reply is None:
                await self._settle(link)
                coming = self._read_on(link, str(cursor.position))
                continue
            entries = reply[0][1]
            # The server gets the next ones together while these are taken apart.
            more = len(entries) == BATCH
            if more:
                coming = self._read_on(link, entries[-1][0], wait=False)
            for said in cursor.take(entries):
                if isinstance(said, list):
                    tail.deliver(said)
                elif isinstance(said, stream.Began):
                    tail.begin(
                        said.position, await reading.of_keys(link, self._keys, said.position)
                    )
                else:
                    self._lost = (cursor.position.epoch, said.why)
                    raise Cut(said.why)
            if not more:
                coming = self._read_on(link, str(cursor.position))
            await asyncio.sleep(0)

    def _read_on(self, link: Link, after: str | bytes, *, wait: bool = True) -> asyncio.Future[Any]:
        blocking: tuple[str | int, ...] = ("BLOCK", int(_IDLE * 1000)) if wait else ()
        return link.begin("XREAD", "COUNT", BATCH, *blocking, "STREAMS", self._keys.log, after)

    def _heard(self, notice: bytes) -> None:
        if self._opened:
            self._tail.hear(notice)

    async def _hear(self, link: Link) -> None:
        """The connection for what nodes tell each other."""
        if link.listen is None:
            await notices.subscribe(link, self._keys.tell, self._heard)
            self._well()
        await asyncio.shield(link.closed)
        raise Cut(link.why)

    async def _watch(self) -> None:
        """Close what does not answer, or is not the primary any more."""
        loop = asyncio.get_running_loop()
        asked = loop.time()
        while True:
            await asyncio.sleep(_TICK)
            now = loop.time()
            for name, link in self._links.items():
                idle = _IDLE if name == "tail" else 0.0
                if link.silent(now) > PATIENCE + idle:
                    link.close(SILENT)
            ear = self._links["ear"]
            if ear.listen is not None and now - ear.heard > _IDLE:
                ear.send("PING")
                if now - ear.heard > PATIENCE + _IDLE:
                    ear.close(SILENT)
            if self._address.service and now - asked > _IDLE:
                asked = now
                await self._ask_sentinels()

    async def _ask_sentinels(self) -> None:
        try:
            primary = await self._find.primary()
        except BrokerError:
            return  # as long as there is a connection, they are not needed
        for link in self._links.values():
            if link.host != primary:
                link.close("the sentinels name another primary")
