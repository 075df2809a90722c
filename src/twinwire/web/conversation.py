"""A conversation: one WebSocket client, from its first command on.

`core.session` decides; this file carries its effects out, in their order, and gives the results
back to it. Publishing and commands run as tasks of their own, so that a slow one holds up neither
pings nor the others; all else is done at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator
from typing import Any, cast
from uuid import uuid4

from msgspec import UNSET, Raw
from starlette.types import Receive

from twinwire.commands import Caller
from twinwire.core import effects as wants
from twinwire.core import session as core
from twinwire.core.event import Publisher, draft
from twinwire.core.protocol import HistoryResult, PresenceResult, Reply
from twinwire.errors import (
    BadFrame,
    BadInput,
    Closed,
    CloseReason,
    CommandError,
    Reason,
    Refusal,
    Unsubscribed,
)
from twinwire.hub import Hub
from twinwire.version import __version__
from twinwire.web.admission import EARLY, Place
from twinwire.web.sink import Sink
from twinwire.web.subscriber import Subscriber, begun, said
from twinwire.wires import centrifuge_json as codec
from twinwire.wires import frame

_log = logging.getLogger("twinwire")

_VERSION = f"twinwire {__version__}"

_REPLY_BYTES = 16 * 1024
"""Bytes of replies after which they are written. While they do not go out the client's further
commands wait: one that asks and does not read must not fill our memory."""


class Conversation(Subscriber):
    """One client: its session, its subscriptions and its sink, which it owns.

    What a command wants is carried out before the next one is looked at. When the client has enough
    to read for now, the rest of its commands waits in `_effects`.
    """

    __slots__ = ("_beating", "_effects", "_streams")

    def __init__(
        self, hub: Hub, sink: Sink, wire: codec.JsonWire, place: Place, limits: core.Limits
    ) -> None:
        super().__init__(hub, sink, wire, place)
        self._streams: dict[str, asyncio.Task[Any]] = {}
        self._effects: Iterator[wants.Effect] = iter(())
        # Pings are spread over the second half of the period: clients who came together are not
        # served together for ever.
        self._session = core.Session(
            str(uuid4()),
            self._feeds,
            limits,
            _VERSION,
            now=time.monotonic(),
            first_ping=limits.ping * (0.5 + 0.5 * random.random()),
        )
        sink.bind(hub, self._feeds, self)

    def begin(self) -> None:
        """The client may speak now."""
        self._hub.fanout.attach(self._feed)
        self._schedule()

    async def listen(self, receive: Receive) -> None:
        """Take the client's messages from an ASGI server until it is gone."""
        while (message := await receive())["type"] == "websocket.receive":
            text = message.get("text")
            heard = self._hear(text if text is not None else message.get("bytes") or b"")
            while not heard and not self.sink.gone:
                await self.sink.room()
                heard = self.go_on()

    def hear(self, opcode: int, payload: bytes) -> bool:
        """Take one message, text or binary alike; returns whether there is room for the next."""
        return self._hear(payload)

    def _hear(self, message: str | bytes) -> bool:
        try:
            commands = codec.decode(message)
        except BadFrame:
            self._effects = iter((self._session.close(CloseReason.BAD_REQUEST),))
        else:
            self._effects = self._session.receive(commands, time.monotonic())
        return self.go_on()

    def go_on(self) -> bool:
        """Carry out what the last message has asked for, as far as there is room."""
        return self._carry_out(self._effects)

    def lost(self) -> None:
        """The client is gone."""
        self._beating.cancel()
        self._effects = iter(())
        for task in list(self._tasks or ()):
            task.cancel()
        self._hub.nodes.gone(self)
        self._place.leave()

    def say_farewell(self, reason: Reason) -> None:
        """The hub ends the connection, or the session does."""
        self.reason = reason
        self._session.close(reason)
        self._beating.cancel()
        self._hub.nodes.gone(self)
        framed = self.wire.framed
        self.sink.finish(frame.close(reason.code, reason.text) if framed else b"")

    def expire(self, seconds: float) -> None:
        """It ends in so many seconds, as expired."""
        self._place.expires = time.monotonic() + seconds
        self._beating.cancel()
        self._schedule()

    def _schedule(self) -> None:
        delay = max(0.0, min(self._session.due, self._place.ends) - time.monotonic())
        self._beating = asyncio.get_running_loop().call_later(delay, self._beat)

    def _beat(self) -> None:
        now = time.monotonic() + EARLY
        if now >= self._place.ends:
            return self.end(self._place.why)
        self._carry_out(self._session.beat(now))
        if self.reason is None:
            self._schedule()

    def _carry_out(self, effects: Iterable[wants.Effect]) -> bool:
        """Take effects and carry them out until there are no more, or the client has enough to
        read for now; returns whether there are no more."""
        replies: list[bytes] = []
        size = 0
        for effect in effects:
            try:
                said = [codec.encode(reply) for reply in self._effect(effect)]
            except CommandError as error:
                said = [codec.encode(core.refusal(getattr(effect, "id", 0), error))]
            except Closed as closed:
                self._write(replies)
                self._hub.fanout.close(self._feed, closed.reason)
                return True
            replies += said
            size += sum(map(len, said))
            if size > _REPLY_BYTES:
                self._write(replies)
                replies, size = [], 0
                if self.sink.full:
                    return False
        self._write(replies)
        return not (replies and self.sink.full)

    def _effect(self, effect: wants.Effect) -> list[Reply]:
        """Carry out one effect and return what is to be said now. Raises `Closed` to end."""
        session, hub = self._session, self._hub
        match effect:
            case wants.Send(reply):
                return [reply]
            case wants.Close(reason):
                raise Closed(reason)
            case wants.Connect(id, _):
                replies = said(session.connected(id, self._place.grants))
                # From waiting for it to the pings.
                self._beating.cancel()
                self._schedule()
                return replies
            case wants.Subscribe():
                return self.subscribe(effect)
            case wants.Unsubscribe(id, selector):
                self.drop(selector)
                if selector in self._streams:
                    self._streams.pop(selector).cancel()
                return said(session.unsubscribed(id))
            case wants.Publish():
                self._start(effect.id, self._publish(effect))
            case wants.Call():
                self._start(effect.id, self._call(effect))
            case wants.Notify(data):
                self._start(0, self._notify(bytes(data)))
            case wants.History():
                return self._history(effect)
            case wants.Present(id, channel, stats):
                if stats:
                    return [Reply(id=id, presence_stats=hub.nodes.presence_stats(channel))]
                members = hub.nodes.presence(channel)
                return [Reply(id=id, presence=PresenceResult(members))]
        return []

    def _history(self, effect: wants.History) -> list[Reply]:
        past = self._hub.history(
            effect.channel,
            limit=effect.limit,
            since=effect.since,
            reverse=effect.reverse,
            max_bytes=self._hub.settings.read_bytes,
        )
        publications = self.publications(past.events, effect.channel)
        result = HistoryResult(publications, str(past.head.epoch), past.head.seq)
        return [Reply(id=effect.id, history=result)]

    def _start(self, id: int, work: Coroutine[Any, Any, list[wants.Effect]]) -> None:
        self.track(begun(self._finish(id, work)))

    async def _finish(self, id: int, work: Coroutine[Any, Any, list[wants.Effect]]) -> None:
        try:
            effects = await work
        except CommandError as error:
            effects = self._session.refused(id, error)
        except BadInput as error:
            effects = self._session.refused(id, Refusal.BAD_REQUEST.error(f"bad request: {error}"))
        except Exception:  # noqa: BLE001 (whatever it is, the client gets an answer)
            _log.exception("a client's command failed")
            effects = self._session.refused(id, Refusal.INTERNAL.error())
        self._carry_out(effects)

    async def _publish(self, effect: wants.Publish) -> list[wants.Effect]:
        limit = self._hub.settings.event_max_bytes
        event = draft(effect.channel, effect.data, max_bytes=limit, publisher=self._publisher())
        await self._hub.append([event])
        return self._session.published(effect.id)

    async def _call(self, effect: wants.Call) -> list[wants.Effect]:
        answer = await self._hub.commands.call(effect.method, effect.data, self._caller())
        if isinstance(answer, Raw):
            return self._session.answered(effect.id, answer)
        async with contextlib.aclosing(answer):
            return await self._stream(effect.id, answer)

    async def _stream(self, id: int, answer: AsyncGenerator[Raw]) -> list[wants.Effect]:
        """Write each message of `answer` when the socket has room."""
        session, sink = self._session, self.sink
        channel = f"stream:{session.client}:{id}"
        task = self._streams[channel] = cast("asyncio.Task[Any]", asyncio.current_task())
        turn = self._hub.settings.slice_ms / 1000
        until = time.perf_counter() + turn
        self._carry_out(session.streaming(id, channel))
        try:
            async for data in answer:
                await sink.room()
                if self.reason is not None:
                    return session.notified()
                self._carry_out(session.streamed(channel, data))
                if time.perf_counter() > until:
                    # A handler that waits for nothing, and a client as fast: others go on.
                    await asyncio.sleep(0)
                    until = time.perf_counter() + turn
        except CommandError as error:
            return session.stream_ended(channel, Unsubscribed.STREAM_FAILED, error.message)
        except asyncio.CancelledError:
            if channel in self._streams:
                raise
            # The client has unsubscribed from the stream, and no more than that.
            task.uncancel()
            return session.notified()
        finally:
            self._streams.pop(channel, None)
        return session.stream_ended(channel, Unsubscribed.STREAM_END)

    async def _notify(self, data: bytes) -> list[wants.Effect]:
        try:
            if self._hub.on_message is not None:
                await self._hub.on_message(self._caller(), data)
        except Exception:  # noqa: BLE001 (the handler is the application's)
            _log.exception("the handler of messages failed")
        return self._session.notified()

    def _caller(self) -> Caller:
        return Caller(self._session.client, self._place.grants.user)

    def _publisher(self) -> Publisher:
        grants = self._place.grants
        info = UNSET if grants.info is None else grants.info
        return Publisher(grants.user, self._session.client, info)
