"""`GET /sse`: a subscription as an event stream.

Query: `channel` (a name or pattern, any number of them), `last_event_id` (a position, or
`earliest`), `mode` (`every`, `latest`), `format` (`data`: just what was published; `event`: a JSON
object with the channel and all), `max_age` (with `mode=latest`: what is told is at most so many ms
old, and told no more often), `heartbeat=event` (heartbeats that page code can see), `join_leave=1`
(events when clients join and leave its channels, where that is known). The header
`Last-Event-ID` goes before the parameter: after a reconnect it is the browser's newer knowledge.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import NamedTuple
from uuid import uuid4

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from twinwire.core.event import Position, Selection
from twinwire.core.feed import PACE_MAX, Feed, Mode, Start
from twinwire.core.grants import Grants
from twinwire.errors import (
    BadInput,
    BadPosition,
    CloseReason,
    NotRunning,
    Reason,
    Refusal,
    Unsubscribed,
)
from twinwire.hub import Hub, starting
from twinwire.settings import Settings
from twinwire.web.admission import EARLY, Admission, Crowded, Later, Place, Refused
from twinwire.web.answers import later, refusal
from twinwire.web.coding import NotAcceptable, gzips
from twinwire.web.sink import SendSink, Sink, native
from twinwire.wires import sse

_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    # nginx would hold the stream back until a buffer is full.
    (b"x-accel-buffering", b"no"),
]


class _Wanted(NamedTuple):
    """What a request asks for."""

    channels: list[str]
    since: Position | Start
    mode: Mode
    envelope: bool
    visible: bool
    join_leave: bool
    pace: int
    gzip: bool


class SseEndpoint:
    """The ASGI endpoint."""

    def __init__(self, hub: Hub, admission: Admission) -> None:
        self._hub = hub
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        try:
            place = await self._admission.admit(request)
        except Later as error:
            response = self._later(request, str(error), error.reason)
        except Crowded as error:
            response = refusal(Refusal.LIMIT_EXCEEDED.code, str(error), 429)
        except Refused as error:
            response = refusal(Refusal.UNAUTHORIZED.code, str(error), 401)
        else:
            with place:
                return await self._serve(request, place, receive, send)
        await response(scope, receive, send)

    def _later(self, request: Request, why: str, reason: CloseReason) -> Response:
        """Come back in a moment: 503, but to an `EventSource` a stream that says so and ends.

        A browser gives up for good on every status but 200 (WHATWG HTML, section 9.2.3).
        """
        if "text/event-stream" in request.headers.get("accept", ""):
            last = sse.farewell(reason, _retry(self._hub))
            return Response(last, headers={k.decode(): v.decode() for k, v in _HEADERS})
        return later(why)

    async def _serve(self, request: Request, place: Place, receive: Receive, send: Send) -> None:
        """Answer the request."""
        hub, scope = self._hub, request.scope
        answer = await self._begin(request, place)
        if isinstance(answer, Response):
            return await answer(scope, receive, send)
        wanted, feed = answer
        sink = native(scope)
        headers = _headers(hub.settings, wanted)
        if sink is not None and wanted.gzip:
            sink.coding = b"gzip"
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] == "HEAD":
            return await send({"type": "http.response.body", "body": b""})
        if sink is None or not sink.open():
            return await _send_stream(hub, feed, sink, place, wanted, receive, send)
        feed.wire = _wire(wanted, chunked=scope["http_version"] != "1.0")
        _Stream(hub, feed, sink, place, visible=wanted.visible).begin(wanted.join_leave)
        sink.take()
        place.keep()

    async def _begin(self, request: Request, place: Place) -> tuple[_Wanted, Feed] | Response:
        """What the request asks for and the feed of it, or why not."""
        hub = self._hub
        if request.method not in ("GET", "HEAD"):
            response = refusal(Refusal.BAD_REQUEST.code, "/sse answers GET", 405)
            response.headers["Allow"] = "GET, HEAD"
            return response
        try:
            wanted = _parse(request, hub.settings)
            wire = _wire(wanted, chunked=False)
            feed = Feed(wire, pace=wanted.pace, strict=hub.settings.closes_slow)
            selection = Selection(wanted.channels)
            for channel in selection:
                if not place.grants.may_subscribe(channel):
                    message = f"permission denied: {channel[:64]}"
                    return refusal(Refusal.PERMISSION_DENIED.code, message, 403)
            earlier = await hub.earlier(selection, wanted.mode, wanted.since)
            feed.start(selection, wanted.mode, wanted.since, hub.log, earlier)
        except BadInput as error:
            return refusal(Refusal.BAD_REQUEST.code, str(error), 400)
        except NotAcceptable:
            return refusal(Refusal.BAD_REQUEST.code, "accept-encoding allows nothing", 406)
        if earlier is not None and not hub.accepting:
            return self._later(request, str(NotRunning()), CloseReason.SHUTDOWN)
        if not hub.has_room(feed.cost):
            why = "not available: this server has no room for more subscriptions (feeds_bytes)"
            return self._later(request, why, CloseReason.FORCE_RECONNECT)
        return wanted, feed


async def _send_stream(
    hub: Hub,
    feed: Feed,
    ours: Sink | None,
    place: Place,
    wanted: _Wanted,
    receive: Receive,
    send: Send,
) -> None:
    """The stream through plain `send()`, for any ASGI server and through any middleware.

    `ours` is our own server's sink that could not be used; it still tells of the server's end.
    """

    async def pass_on(data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})

    sink = SendSink(pass_on, hub.settings.write_high)
    if ours is not None:
        ours.bind(hub, (feed,))
    _Stream(hub, feed, sink, place, visible=wanted.visible).begin(wanted.join_leave)
    writer = asyncio.create_task(sink.run())
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((writer, gone), return_when=asyncio.FIRST_COMPLETED)
        if writer.done() and not writer.cancelled() and writer.exception() is None:
            await send({"type": "http.response.body", "body": b""})
    finally:
        sink.lost()
        for task in (writer, gone):
            task.cancel()
        await asyncio.gather(writer, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Stream:
    """A feed on its way through a sink, which it owns: the first block, the heartbeats, the
    farewell. As long as the connection is there nothing else is."""

    __slots__ = ("_beat", "_feed", "_hub", "_place", "_visible", "client", "sink", "wire")

    def __init__(self, hub: Hub, feed: Feed, sink: Sink, place: Place, *, visible: bool) -> None:
        self.client = ""
        """Its id, if it is in a channel of which is known who is there."""
        self.sink = sink
        assert isinstance(feed.wire, sse.SseWire)
        self.wire = feed.wire
        self._hub = hub
        self._feed = feed
        self._place = place
        self._visible = visible
        feed.sink = sink
        sink.bind(hub, (feed,), self)

    @property
    def grants(self) -> Grants:
        """What it may do, and whose it is."""
        return self._place.grants

    def begin(self, join_leave: bool) -> None:
        """Write the priming block and let the hub write what follows; with `join_leave` also who
        joins and leaves."""
        block = sse.priming(_retry(self._hub), self._feed.begins(self._hub.log))
        self.sink.write(self.wire.first(block))
        self._hub.fanout.attach(self._feed)
        if channels := self._hub.nodes.joins(self._feed.selection):
            self.client = str(uuid4())
            for channel in channels:
                self._hub.nodes.join(self, channel, listens=join_leave)
        # The first one comes somewhere within the period, so that clients who came together are
        # not served together for ever.
        period = self._hub.settings.heartbeat
        self._schedule(period * (0.5 + 0.5 * random.random()))

    def lost(self) -> None:
        """The connection is gone."""
        self._beat.cancel()
        self._hub.nodes.gone(self)
        self._place.leave()

    def dropped(self) -> None:
        """No gap ends a stream's subscriptions."""

    def say_farewell(self, reason: Reason) -> None:
        """The hub ends the stream."""
        self._beat.cancel()
        self._hub.nodes.gone(self)
        self.sink.finish(self.wire.last(sse.farewell(reason, _retry(self._hub))))

    def end(self, reason: Reason) -> None:
        """End it, as the backend wants."""
        self._hub.fanout.close(self._feed, reason)

    def unsubscribe(self, selector: str) -> None:
        """Leave out what `selector` selects from now on, and tell so. Without anything left the
        stream ends for good: come back, it would ask for the same again."""
        feed = self._feed
        if not feed.selects(selector):
            return
        block = sse.unsubscribed(selector, Unsubscribed.SERVER)
        self.sink.write(self.wire.join([block]))
        if feed.count == 1:
            return self.end(CloseReason.FORCE_NO_RECONNECT)
        self._hub.fanout.unsubscribe(feed, (selector,))
        self._hub.nodes.leave(self, selector)

    def expire(self, seconds: float) -> None:
        """It ends in so many seconds, as expired."""
        self._place.expires = time.monotonic() + seconds
        # The heartbeat that is due stays due.
        left = self._beat.when() - asyncio.get_running_loop().time()
        self._beat.cancel()
        self._schedule(max(0.0, left))

    def _schedule(self, delay: float) -> None:
        delay = min(delay, max(0.0, self._place.ends - time.monotonic()))
        self._beat = asyncio.get_running_loop().call_later(delay, self._heartbeat)

    def _heartbeat(self) -> None:
        hub, feed, sink = self._hub, self._feed, self.sink
        if time.monotonic() + EARLY >= self._place.ends:
            return self.end(self._place.why)
        if not sink.full and feed.foreign is None:
            block = sse.heartbeat(hub.fanout.position(feed), visible=self._visible)
            sink.write(self.wire.join([block]))
        self._schedule(hub.settings.heartbeat)


def _retry(hub: Hub) -> int:
    """When to come back, in ms: half to one and a half times the setting."""
    return int(hub.settings.retry * 1000 * (0.5 + random.random()))


def _parse(request: Request, settings: Settings) -> _Wanted:
    """What the request asks for. Raises `BadInput` and `NotAcceptable`."""
    channels_max = settings.channels_per_connection
    query: QueryParams = request.query_params
    channels = query.getlist("channel")
    if not channels:
        raise BadInput("no channel: ask for one or more, as in /sse?channel=prices.*")
    if len(channels) > channels_max:
        raise BadInput(
            f"{len(channels)} channels, and at most {channels_max} are allowed "
            "(channels_per_connection)"
        )
    mode = Mode(_one_of(query, "mode", [mode.value for mode in Mode]))
    formats = ["data", "event"]
    since: Position | Start
    header = request.headers.get("last-event-id")
    if header:
        try:
            since = starting(header)
        except BadPosition:
            # A browser cannot mend what it remembers, and would give up for good after an error:
            # a position that nobody knows is a gap.
            since = Position(0, 0)
    else:
        since = starting(query.get("last_event_id") or None)
    return _Wanted(
        channels,
        since,
        mode,
        _one_of(query, "format", formats) == "event",
        _one_of(query, "heartbeat", ["id", "event"]) == "event",
        _one_of(query, "join_leave", ["0", "1"]) == "1",
        _pace(query, mode),
        gzips(request.headers.getlist("accept-encoding"), enabled=settings.compression),
    )


def _wire(wanted: _Wanted, *, chunked: bool) -> sse.SseWire:
    return sse.wire(envelope=wanted.envelope, chunked=chunked, gzip=wanted.gzip)


def _headers(settings: Settings, wanted: _Wanted) -> list[tuple[bytes, bytes]]:
    headers = _HEADERS.copy()
    if settings.compression:
        headers.append((b"vary", b"accept-encoding"))
    if wanted.gzip:
        headers.append((b"content-encoding", b"gzip"))
    return headers


def _pace(query: QueryParams, mode: Mode) -> int:
    text = query.get("max_age")
    if text is None:
        return 0
    if mode is not Mode.LATEST:
        raise BadInput("max_age goes with mode=latest: only the newest of each key can be paced")
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= PACE_MAX):
        raise BadInput(f"max_age={text[:64]!r} is not a number of ms from 1 to {PACE_MAX}")
    return int(text)


def _one_of(query: QueryParams, name: str, choices: list[str]) -> str:
    value = query.get(name, choices[0])
    if value not in choices:
        raise BadInput(f"{name}={value[:64]!r} is not one of {', '.join(choices)}")
    return value
