"""A WebSocket client as a subscriber: how its subscriptions begin and how they end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Iterable
from typing import Any

from twinwire.core import effects as wants
from twinwire.core import session as core
from twinwire.core.event import Event, Position
from twinwire.core.feed import Feed
from twinwire.core.grants import Grants
from twinwire.core.protocol import Publication, Reply
from twinwire.errors import Closed, CommandError, Reason, Refusal, Unsubscribed
from twinwire.hub import Hub
from twinwire.web.admission import Place
from twinwire.web.sink import Sink
from twinwire.wires import centrifuge_json as codec

_NO_ROOM = "limit exceeded: this server has no room for more subscriptions (feeds_bytes)"


class Subscriber:
    """The part of a conversation that has the feeds.

    The first feed has all subscriptions but the paced ones, and those that have begun with what
    only the broker still had: they have one each.
    """

    __slots__ = (
        "_feed", "_feeds", "_hub", "_place", "_session", "_tasks", "reason", "sink", "wire",
    )  # fmt: skip

    _session: core.Session

    def __init__(self, hub: Hub, sink: Sink, wire: codec.JsonWire, place: Place) -> None:
        self.reason: Reason | None = None
        """Why the connection has ended, once it has from our side."""
        self.sink = sink
        self.wire = wire
        self._hub = hub
        self._place = place
        self._feed = self._new_feed()
        self._feeds = [self._feed]
        self._tasks: set[asyncio.Task[None]] | None = None

    @property
    def client(self) -> str:
        """Its id."""
        return self._session.client

    @property
    def grants(self) -> Grants:
        """What it may do, and whose it is."""
        return self._place.grants

    def end(self, reason: Reason) -> None:
        """End it, as the backend wants."""
        self._hub.fanout.close(self._feed, reason)

    def unsubscribe(self, selector: str) -> None:
        """End a subscription, as the backend wants."""
        if self.drop(selector):
            told = said(self._session.expel(selector, Unsubscribed.SERVER))
            self._write([codec.encode(reply) for reply in told])

    def expire(self, seconds: float) -> None:
        """It ends in so many seconds, as expired. A conversation, which has the timer, says how."""
        raise NotImplementedError

    def dropped(self) -> None:
        """A gap has ended subscriptions."""
        self._hub.nodes.dropped(self, self._feeds)

    def drop(self, selector: str) -> bool:
        """End the subscription to `selector`; returns whether there was one."""
        fanout = self._hub.fanout
        for feed in self._feeds:
            if feed.selects(selector):
                if feed in fanout.feeds:
                    fanout.unsubscribe(feed, (selector,))
                else:
                    feed.drop((selector,))
                self._hub.nodes.leave(self, selector)
                return True
        return False

    def subscribe(self, effect: wants.Subscribe) -> list[Reply]:
        """Begin a subscription; returns what to say now. Raises `CommandError` and `Closed`."""
        if self._hub.forgotten((effect.selector,), effect.mode, effect.since):
            assert isinstance(effect.since, Position)
            # It has the selector from now on, so that nobody subscribes to it again meanwhile.
            feed = self._another_feed()
            feed.add(effect.selector, effect.mode, effect.since.seq)
            self.track(begun(self._read_back(effect, feed)))
            return []
        return self._subscribe_now(effect)

    async def _read_back(self, effect: wants.Subscribe, feed: Feed) -> None:
        """Begin a subscription with what only the broker still has."""
        since = effect.since
        assert isinstance(since, Position)
        earlier = await self._hub.earlier((effect.selector,), effect.mode, since)
        if self.reason is not None:
            return
        if not feed.count:
            gone = Refusal.NOT_AVAILABLE.error("not available: unsubscribed meanwhile")
            return self._write([codec.encode(core.refusal(effect.id, gone))])
        try:
            if earlier is not None and earlier.begin == since.seq:
                feed.take(earlier)
                if not self._hub.has_room(feed.cost):
                    self._feeds.remove(feed)
                    raise Refusal.LIMIT_EXCEEDED.error(_NO_ROOM)
                self._hub.fanout.attach(feed)
                self._hub.nodes.join(self, effect.selector, listens=effect.join_leave)
                told = said(self._session.subscribed(effect, [], True, since))
            else:
                self._feeds.remove(feed)
                told = self._subscribe_now(effect)
        except CommandError as error:
            told = [core.refusal(effect.id, error)]
        except Closed as closed:
            return self.end(closed.reason)
        self._write([codec.encode(reply) for reply in told])

    def _subscribe_now(self, effect: wants.Subscribe) -> list[Reply]:
        strict = effect.recovering and effect.strict
        if strict and not self._hub.holds(effect.selector, effect.since):
            raise Refusal.UNRECOVERABLE_POSITION.error()
        if not self._hub.has_room():
            raise Refusal.LIMIT_EXCEEDED.error(_NO_ROOM)
        feed = self._paced_feed(effect.pace) if effect.pace else self._feed
        recovery = self._hub.fanout.subscribe(feed, effect.selector, effect.mode, effect.since)
        self._hub.nodes.join(self, effect.selector, listens=effect.join_leave)
        missed = self.publications(recovery.events, effect.selector)
        return said(self._session.subscribed(effect, missed, recovery.recovered, recovery.start))

    def _new_feed(self, pace: int = 0) -> Feed:
        return Feed(self.wire, self.sink, pace=pace, strict=self._hub.settings.closes_slow)

    def _another_feed(self, pace: int = 0) -> Feed:
        """A feed for one subscription, not attached yet; those whose subscription is over go."""
        for feed in self._feeds[1:]:
            if not feed.count:
                self._hub.fanout.detach(feed)
                self._feeds.remove(feed)
        feed = self._new_feed(pace)
        self._feeds.append(feed)
        return feed

    def _paced_feed(self, pace: int) -> Feed:
        feed = self._another_feed(pace)
        self._hub.fanout.attach(feed)
        return feed

    def publications(self, events: Iterable[Event], selector: str) -> list[Publication]:
        """The events as a subscriber of `selector` sees them. Raises `Closed`."""
        return [codec.publication(event, selector) for event in events]

    def _write(self, replies: list[bytes]) -> None:
        if replies and self.reason is None:
            self.sink.write(self.wire.join(replies))

    def track(self, task: asyncio.Task[None]) -> None:
        """Keep the task until it is done."""
        if not task.done():
            if self._tasks is None:
                self._tasks = set()
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


def begun(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task that has begun already where Python can do that: an answer that waits for nothing is
    then written at once, and not after a turn of the loop, which under load is a slice later."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=asyncio.get_running_loop(), eager_start=True)
    else:
        return asyncio.create_task(work)


def said(effects: Iterable[wants.Effect]) -> list[Reply]:
    """The replies among these effects."""
    return [effect.reply for effect in effects if isinstance(effect, wants.Send)]
