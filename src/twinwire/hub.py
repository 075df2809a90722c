"""The hub: one log, its subscribers, its commands; what an application publishes to and reads from.

The broker's tail goes into the log and to the subscribers in one step (`twinwire.fanout`); what
nodes tell each other beside the log is in `twinwire.nodes`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from itertools import accumulate, takewhile
from typing import Any, NamedTuple, Self

from twinwire import hubs
from twinwire.brokers import Broker, Config, connect
from twinwire.commands import Caller, Commands, Handler
from twinwire.core.event import Draft, Event, Position, Selection, check_channel, draft
from twinwire.core.feed import Earlier, Feed, Mode, Start, knows
from twinwire.core.grants import Grants
from twinwire.core.log import OVERHEAD, Log
from twinwire.errors import BrokerError, CloseReason, NotRunning, Refusal
from twinwire.fanout import Fanout
from twinwire.iterator import Iterator
from twinwire.nodes import Nodes
from twinwire.settings import Settings
from twinwire.signals import at_end
from twinwire.wires.objects import OBJECTS

_log = logging.getLogger("twinwire")

_EXPIRE_SECONDS = 1.0
_READING = 4
"""How many may read back from the broker at once; others wait."""

_DRAIN_STEP = 0.05
"""Seconds below which two clients are told to come back in one go."""


class Past(NamedTuple):
    """A channel's history, and the log's head when it was read.

    `more`: there is more than was given, which begins after the last of `events`.
    """

    events: list[Event]
    head: Position
    more: bool = False


Authorize = Callable[[Any], Awaitable[Grants | None]]
"""Decides what a connection may do; see `Hub`."""


class Hub:
    """One log, its subscribers and its commands."""

    def __init__(
        self,
        broker: str | Broker | None = None,
        *,
        authorize: Authorize | None = None,
        settings: Settings | None = None,
        **overrides: Any,
    ) -> None:
        """`broker` is a URL, or one of your own; `overrides` are settings by name.

        Raises `BadSettings`.

        `authorize` is asked for every connection that wants a stream, before it is answered: with
        Starlette's `HTTPConnection` (a `Request` or a `WebSocket`), for what it may do, or None to
        refuse it. Without it everybody may do what the settings allow.
        """
        if settings is None:
            settings = Settings.load(given=overrides)
        elif overrides:
            settings = Settings.load(given={**settings.model_dump(exclude_unset=True), **overrides})
        self.settings = settings
        self.authorize = authorize
        self.commands = Commands()
        self.on_message: Callable[[Caller, bytes], Awaitable[None]] | None = None
        self.running = self.warming = False
        """It is warming while its broker is opened, and what that has is read."""
        self._draining: asyncio.Task[None] | None = None
        if broker is None or isinstance(broker, str):
            broker = connect(broker or settings.broker, _config(settings))
        self._broker = broker
        self.shared = broker.shared
        """Whether hubs in other processes can have the same log."""
        self._expiring: asyncio.TimerHandle | None = None
        self._reading = asyncio.Semaphore(_READING)
        hubs.known.add(self)

    # Beginning and end

    async def start(self) -> None:
        """Open the broker and begin. Raises `BrokerError`."""
        settings = self.settings
        self.log = Log(
            0,
            retention=settings.retention(),
            rules=settings.retention_rules(),
            channels_max=settings.log_channels,
            keys_max=settings.log_keys,
        )
        self.fanout = Fanout(
            self.log,
            slice_ms=settings.slice_ms,
            read_bytes=settings.read_bytes,
            replay_bytes=settings.replay_bytes,
            write_timeout=settings.write_timeout,
            buffered_bytes=settings.buffered_bytes,
        )
        self.nodes = Nodes(self._broker, self.fanout, settings)
        self.warming = True
        try:
            await self._broker.open(self.nodes)
            self.running = True
        finally:
            self.warming = False
            if not self.running:
                await self._broker.close()
        self.nodes.start()
        self._expire()

    @property
    def accepting(self) -> bool:
        """Whether new streams are taken: the hub runs and does not drain."""
        return self.running and self._draining is None

    async def drain(self, seconds: float) -> None:
        """Take no new streams, and tell the clients to come back, spread over `seconds`.

        Publishing and commands go on. Called again it ends the rest in the time given then.
        """
        if not self.running:
            return
        self._begin_drain(seconds)
        # Who called before waits for the end that counts now.
        while self._draining is not None and not self._draining.done():
            await asyncio.wait((self._draining,))

    def _begin_drain(self, seconds: float) -> None:
        if self._draining is not None:
            self._draining.cancel()
        self._draining = asyncio.create_task(self._drain(seconds))

    async def _drain(self, seconds: float) -> None:
        feeds = list(self.fanout.feeds)
        random.shuffle(feeds)
        begun = time.monotonic()
        for index, feed in enumerate(feeds):
            wait = begun + seconds * index / len(feeds) - time.monotonic()
            if wait > _DRAIN_STEP:
                await asyncio.sleep(wait)
            self.fanout.close(feed, CloseReason.SHUTDOWN)

    async def stop(self) -> None:
        """End every stream with the advice to come back, and let go of the broker."""
        self.running = False
        if self._draining is not None:
            self._draining.cancel()
            self._draining = None
        if self._expiring is not None:
            self._expiring.cancel()
        for feed in list(self.fanout.feeds):
            self.fanout.close(feed, CloseReason.SHUTDOWN)
        self.fanout.cut.set()
        await self.nodes.stop()
        await self._broker.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """For `FastAPI(lifespan=hub.lifespan)` and Starlette alike."""
        async with self:
            with at_end(lambda at_once: self.end(at_once=at_once)):
                yield

    async def end(self, *, at_once: bool) -> None:
        """Drain over the time of the settings, or at once."""
        await self.drain(0.0 if at_once else self.settings.drain_time)

    # Publishing

    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        key: str | None = None,
        type: str | None = None,
        tags: Mapping[str, str] | None = None,
        idempotency_key: str = "",
    ) -> Position:
        """Publish one event and return its position.

        `data` is anything that JSON can hold, `str` for text, `bytes` for bytes, or `msgspec.Raw`
        for JSON that is encoded already. Published again under its `idempotency_key` within the
        window of the settings, it is not published twice: the position is the first one's. Raises
        `BadChannel`, `BadEvent`, `TooLarge`, `NotRunning` and `BrokerError`.
        """
        limit = self.settings.event_max_bytes
        event = draft(
            channel,
            data,
            key=key,
            type=type,
            tags=tags,
            idempotency_key=idempotency_key,
            max_bytes=limit,
        )
        return (await self.append([event]))[0]

    async def append(self, drafts: Sequence[Draft]) -> list[Position]:
        """Publish checked events, all or none. Raises `NotRunning` and `BrokerError`.

        Waits while more than `publish_ahead` events, or `publish_ahead_bytes`, have not been given
        to the lanes' members yet: a publisher in this process cannot outrun the fan-out for ever.
        """
        while self._too_far_ahead():
            self.fanout.cut.clear()
            await self.fanout.cut.wait()
        return await self._broker.append(drafts)

    def _too_far_ahead(self) -> bool:
        if not self.running:
            raise NotRunning
        settings, fanout = self.settings, self.fanout
        return (
            fanout.ahead >= settings.publish_ahead
            or fanout.ahead_bytes >= settings.publish_ahead_bytes
        )

    # Reading

    async def subscribe(
        self,
        *channels: str,
        mode: Mode | str = Mode.EVERY,
        since: Position | str | None = None,
    ) -> AsyncGenerator[Event]:
        """The events of these channels and patterns, from now on or after the position `since`;
        "earliest" begins with the oldest that is retained.

        Raises `BadChannel`, `BadPosition`, `NotRunning`, `Lost` when events are gone from the log
        (go on with ``since=lost.end``), and `Closed` when the hub stops.
        """
        if not self.running:
            raise NotRunning
        sink = Iterator(self.fanout)
        feed = sink.feed = Feed(OBJECTS, sink)
        start, selection = starting(since), Selection(channels)
        earlier = await self.earlier(selection, Mode(mode), start)
        if not self.running:
            raise NotRunning
        feed.start(selection, Mode(mode), start, self.log, earlier)
        self.fanout.attach(feed)
        try:
            while True:
                yield await sink.next()
        finally:
            self.fanout.detach(feed)

    def history(
        self,
        channel: str,
        *,
        limit: int = -1,
        since: Position | None = None,
        reverse: bool = False,
        max_bytes: int = 0,
    ) -> Past:
        """A channel's retained events, oldest first, or with `reverse` newest first.

        `limit` 0 gives none (the head alone), -1 all; `since` is exclusive. With `max_bytes` about
        so many bytes of them: who asks for more goes on from the last one. Raises `BadChannel`,
        and `CommandError` 112 if events after `since` are gone.
        """
        check_channel(channel)
        log = self.log
        if since is not None and not reverse:
            if not knows(log, since) or log.evicted(channel) > since.seq:
                raise Refusal.UNRECOVERABLE_POSITION.error()
        elif since is not None and since.epoch != log.epoch:
            raise Refusal.UNRECOVERABLE_POSITION.error()
        if limit == 0:
            return Past([], log.position)
        after = since.seq if since else 0
        events = log.history(channel, after=after, limit=max(limit, 0), reverse=reverse)
        count = len(events)
        if max_bytes:
            sizes = accumulate(len(event.data) + OVERHEAD for event in events[:-1])
            count = min(count, 1 + sum(1 for _ in takewhile(max_bytes.__gt__, sizes)))
        return Past(events[:count], log.position, more=count < len(events))

    async def earlier(
        self, selectors: Iterable[str], mode: Mode, since: Position | Start | None
    ) -> Earlier | None:
        """What the broker has of the time between `since` and this node's memory, if it is needed;
        `read_back_events` at most. Raises `BadChannel`."""
        selection, log = Selection.of(selectors), self.log
        gone = self.forgotten(selection, mode, since)
        if not gone:
            return None
        assert isinstance(since, Position)
        limit = self.settings.read_back_events
        # Somewhat further than to what is gone: meanwhile more of it goes.
        upto = min(log.head, gone + limit // 4)
        try:
            async with self._reading:
                earlier = await self._broker.read(selection, since.seq, upto, limit)
        except BrokerError as error:
            _log.warning("cannot read back: %s", error)
            return None
        return earlier if earlier.begin < gone and self.log.epoch == since.epoch else None

    def forgotten(
        self, selectors: Iterable[str], mode: Mode, since: Position | Start | None
    ) -> int:
        """Up to which `seq` events after `since` are out of this node's memory, but may be read
        back (`earlier`); 0 if none are."""
        log = self.log
        if (
            mode is not Mode.EVERY
            or not isinstance(since, Position)
            or not knows(log, since)
            or not self.settings.read_back_events
        ):
            return 0
        gone = max(map(log.evicted, selectors), default=0)
        return gone if gone > since.seq else 0

    def holds(self, selector: str, since: Position | Start | None) -> bool:
        """Whether everything of `selector` after `since` is still in the log."""
        log = self.log
        if isinstance(since, Position):
            return knows(log, since) and log.evicted(selector) <= since.seq
        return since is Start.EARLIEST

    def has_room(self, more: int = 0) -> bool:
        """Whether subscriptions may take `more` bytes of memory still (`feeds_bytes`)."""
        return self.fanout.memory + self.nodes.memory + more <= self.settings.feeds_bytes

    # Commands

    def command(self, name: str) -> Callable[[Handler], Handler]:
        """Registers the decorated function as the command `name`; see `twinwire.commands`."""

        def register(handler: Handler) -> Handler:
            self.commands.add(name, handler)
            return handler

        return register

    def _expire(self) -> None:
        self.fanout.expire(time.time_ns() // 1_000_000)
        self._expiring = asyncio.get_running_loop().call_later(_EXPIRE_SECONDS, self._expire)


def _config(settings: Settings) -> Config:
    return Config(
        warm=settings.retention(),
        keep=settings.stored(),
        keys_max=settings.stored_keys,
        wait=settings.broker_wait,
        idempotency_window=settings.idempotency_window,
        idempotency_keys=settings.idempotency_keys,
        synchronous=settings.synchronous,
    )


def starting(since: Position | str | None) -> Position | Start:
    """Where to start: a position or its text, "earliest", or None: now. Raises `BadPosition`."""
    if since is None:
        return Start.NOW
    if isinstance(since, str):
        return Start.EARLIEST if since == Start.EARLIEST.value else Position.parse(since)
    return since
