"""`/ws`: the Centrifuge client protocol over WebSocket, and `/echo`.

`core.session` decides; this file carries its effects out, in their order, and gives the results
back to it. Publishing and commands run as tasks of their own, so that a slow one holds up neither
pings nor the others; all else is done at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any
from uuid import uuid4

from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from twinwire.commands import Caller
from twinwire.core import session as core
from twinwire.core.event import Event, Publisher, draft
from twinwire.core.feed import Feed
from twinwire.core.grants import Grants
from twinwire.core.protocol import HistoryResult, Publication, Reply
from twinwire.errors import (
    BadFrame,
    BadInput,
    BrokerError,
    Closed,
    CloseReason,
    CommandError,
    NotRunning,
    Refusal,
)
from twinwire.hub import Hub
from twinwire.version import __version__
from twinwire.web.sink import SendSink, Sink, native
from twinwire.wires import centrifuge_json as codec
from twinwire.wires import frame

_log = logging.getLogger("twinwire")


class WebSocketEndpoint:
    """The ASGI endpoint."""

    def __init__(self, hub: Hub, grants: Callable[[], Grants]) -> None:
        self._hub = hub
        self._grants = grants

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hub = self._hub
        await receive()
        if not hub.running:
            return await send({"type": "websocket.close", "code": 1013})
        offered = scope.get("subprotocols") or []
        chosen = "centrifuge-json" if "centrifuge-json" in offered else None
        await send({"type": "websocket.accept", "subprotocol": chosen})
        if _wants_protobuf(scope, offered):
            reason = CloseReason.INAPPROPRIATE_PROTOCOL
            return await send(
                {"type": "websocket.close", "code": reason.code, "reason": reason.text}
            )
        sink = native(scope)
        if sink is not None and sink.open():
            talk = _Conversation(hub, sink, codec.FRAMED, self._grants)
            await talk.run(receive)
        else:
            await _send_conversation(hub, self._grants, receive, send)


async def _send_conversation(
    hub: Hub, grants: Callable[[], Grants], receive: Receive, send: Send
) -> None:
    """The conversation through plain `send()`."""

    async def pass_on(data: bytes) -> None:
        await send({"type": "websocket.send", "text": data.decode()})

    sink = SendSink(pass_on, hub.settings.write_high)
    talk = _Conversation(hub, sink, codec.MESSAGES, grants)
    writer = asyncio.create_task(sink.run())
    reader = asyncio.create_task(talk.run(receive))
    try:
        await asyncio.wait((writer, reader), return_when=asyncio.FIRST_COMPLETED)
        if not reader.done() and talk.reason is not None:
            close: Message = {
                "type": "websocket.close",
                "code": talk.reason.code,
                "reason": talk.reason.text,
            }
            await send(close)
    finally:
        for task in (writer, reader):
            task.cancel()
        await asyncio.gather(writer, reader, return_exceptions=True)


class _Conversation:
    """One client: its session, its feed and its sink."""

    def __init__(
        self, hub: Hub, sink: Sink, wire: codec.JsonWire, grants: Callable[[], Grants]
    ) -> None:
        settings = hub.settings
        limits = core.Limits(
            settings.channels_per_connection,
            settings.commands_in_flight,
            settings.ping,
            settings.pong_timeout,
            settings.connect_timeout,
        )
        self.reason: CloseReason | None = None
        self._hub = hub
        self._sink = sink
        self._wire = wire
        self._grants = grants
        self._feed = Feed(wire, sink)
        self._tasks: set[asyncio.Task[None]] = set()
        # Pings are spread over the second half of the period: clients who came together are not
        # served together for ever.
        self._session = core.Session(
            str(uuid4()),
            self._feed,
            limits,
            f"twinwire {__version__}",
            now=time.monotonic(),
            first_ping=settings.ping * (0.5 + 0.5 * random.random()),
        )
        sink.bind(hub, self._feed, self._close)

    async def run(self, receive: Receive) -> None:
        """Take the client's messages until it is gone."""
        self._hub.fanout.attach(self._feed)
        beating = asyncio.get_running_loop().call_later(1, self._beat)
        self._beating = beating
        try:
            while (message := await receive())["type"] == "websocket.receive":
                try:
                    commands = codec.decode(message.get("text") or message.get("bytes") or b"")
                except BadFrame:
                    self._carry_out([self._session.close(CloseReason.BAD_REQUEST)])
                else:
                    self._carry_out(self._session.receive(commands))
        finally:
            self._beating.cancel()
            self._hub.fanout.detach(self._feed)
            for task in list(self._tasks):
                task.cancel()

    def _beat(self) -> None:
        self._beating = asyncio.get_running_loop().call_later(1, self._beat)
        self._carry_out(self._session.beat(time.monotonic()))

    def _close(self, reason: CloseReason) -> None:
        """The hub ends the connection, or the session does."""
        if self.reason is None:
            self.reason = reason
            self._session.close(reason)
            self._beating.cancel()
            framed = self._wire.framed
            self._sink.finish(frame.close(reason.code, reason.text) if framed else b"")

    def _carry_out(self, effects: Iterable[core.Effect]) -> None:
        replies: list[bytes] = []
        for effect in effects:
            try:
                replies += [codec.encode(reply) for reply in self._effect(effect)]
            except CommandError as error:
                refused = core.refusal(getattr(effect, "id", 0), error)
                replies.append(codec.encode(refused))
            except Closed as closed:
                self._write(replies)
                replies = []
                self._hub.fanout.close(self._feed, closed.reason)
        self._write(replies)

    def _write(self, replies: list[bytes]) -> None:
        if replies and self.reason is None:
            self._sink.write(self._wire.join(replies))

    def _effect(self, effect: core.Effect) -> list[Reply]:
        """Carry out one effect and return what is to be said now. Raises `Closed` to end."""
        session, hub = self._session, self._hub
        match effect:
            case core.Send(reply):
                return [reply]
            case core.Close(reason):
                raise Closed(reason)
            case core.Connect(id, _):
                return _said(session.connected(id, self._grants()))
            case core.Subscribe():
                return self._subscribe(effect)
            case core.Unsubscribe(id, selector):
                if selector in self._feed.selection:
                    hub.fanout.unsubscribe(self._feed, (selector,))
                return _said(session.unsubscribed(id))
            case core.Publish():
                self._start(effect.id, self._publish(effect))
            case core.Call():
                self._start(effect.id, self._call(effect))
            case core.Notify(data):
                self._start(0, self._notify(bytes(data)))
            case core.History():
                return self._history(effect)
        return []

    def _subscribe(self, effect: core.Subscribe) -> list[Reply]:
        strict = effect.recovering and effect.strict
        if strict and not self._hub.holds(effect.selector, effect.since):
            raise Refusal.UNRECOVERABLE_POSITION.error()
        recovery = self._hub.fanout.subscribe(self._feed, effect.selector, effect.mode, effect.since)
        missed = self._publications(recovery.events, effect.selector)
        return _said(self._session.subscribed(effect, missed, recovery.recovered, recovery.start))

    def _history(self, effect: core.History) -> list[Reply]:
        past = self._hub.history(
            effect.channel, limit=effect.limit, since=effect.since, reverse=effect.reverse
        )
        publications = self._publications(past.events, effect.channel)
        result = HistoryResult(publications, str(past.head.epoch), past.head.seq)
        return [Reply(id=effect.id, history=result)]

    def _publications(self, events: Iterable[Event], selector: str) -> list[Publication]:
        return [codec.publication(event, selector) for event in events]

    def _start(self, id: int, work: Coroutine[Any, Any, list[core.Effect]]) -> None:
        task = asyncio.create_task(self._finish(id, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, id: int, work: Coroutine[Any, Any, list[core.Effect]]) -> None:
        try:
            effects = await work
        except CommandError as error:
            effects = self._session.refused(id, error)
        except BadInput as error:
            effects = self._session.refused(id, Refusal.BAD_REQUEST.error(f"bad request: {error}"))
        except (BrokerError, NotRunning):
            _log.exception("a client's command failed")
            effects = self._session.refused(id, Refusal.INTERNAL.error())
        self._carry_out(effects)

    async def _publish(self, effect: core.Publish) -> list[core.Effect]:
        limit = self._hub.settings.event_max_bytes
        event = draft(effect.channel, effect.data, max_bytes=limit, publisher=self._publisher())
        await self._hub.append([event])
        return self._session.published(effect.id)

    async def _call(self, effect: core.Call) -> list[core.Effect]:
        caller = Caller(self._session.client)
        data = await self._hub.commands.call(effect.method, effect.data, caller)
        return self._session.answered(effect.id, data)

    async def _notify(self, data: bytes) -> list[core.Effect]:
        try:
            if self._hub.on_message is not None:
                await self._hub.on_message(Caller(self._session.client), data)
        except Exception:  # noqa: BLE001 (the handler is the application's)
            _log.exception("the handler of messages failed")
        return self._session.notified()

    def _publisher(self) -> Publisher:
        return Publisher(client=self._session.client)


def _said(effects: Iterable[core.Effect]) -> list[Reply]:
    return [effect.reply for effect in effects if isinstance(effect, core.Send)]


def _wants_protobuf(scope: Scope, offered: list[str]) -> bool:
    query = WebSocket(scope, _never, _never).query_params
    return "centrifuge-protobuf" in offered or "protobuf" in (
        query.get("cf_protocol"),
        query.get("format"),
    )


async def _never(*args: Any) -> Any:
    raise RuntimeError("only the scope is asked")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Returns each message as it came, text as text and bytes as bytes."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") is not None:
            await send({"type": "websocket.send", "text": message["text"]})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
