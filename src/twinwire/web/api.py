"""`POST /api/<method>`: publishing and asking from the backend, in Centrifugo's shape.

The answer is ``{"result":…}`` or ``{"error":{"code":…,"message":…}}``, as Centrifugo's server
libraries expect, both with status 200; what is wrong with the request itself has a status of its
own: 400 not JSON, 401 no or a wrong key, 404 no such method, 413 too large, 503 not running.

Beyond Centrifugo's fields `publish` and `broadcast` take `key` and `type`.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from twinwire.core.event import Draft, Event, Kind, Position, draft
from twinwire.core.protocol import StreamPosition
from twinwire.errors import (
    BadFrame,
    BadInput,
    BadPosition,
    BrokerError,
    CloseReason,
    CommandError,
    NotRunning,
    Refusal,
    TooLarge,
)
from twinwire.hub import Hub
from twinwire.web.admission import Warming
from twinwire.web.answers import answer, body_of, error_object, later, refusal


class _Content(Struct):
    """What `publish` and `broadcast` have in common. `b64data` is for bytes."""

    data: Raw | UnsetType = UNSET
    b64data: str | None = None
    key: str | None = None
    type: str | None = None
    tags: dict[str, str] | None = None
    idempotency_key: str = ""


class _Publish(_Content):
    channel: str = ""


class _Broadcast(_Content):
    channels: list[str] = []


class _History(Struct):
    channel: str = ""
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class _Channel(Struct):
    channel: str = ""


class _Whom(Struct):
    """Whose connections. What Centrifugo calls a session is nothing here, and passed over."""

    user: str = ""
    client: str = ""


class _Reason(Struct, frozen=True):
    code: int = CloseReason.FORCE_NO_RECONNECT.code
    reason: str = ""


class _Disconnect(_Whom):
    disconnect: _Reason = _Reason()
    whitelist: list[str] = []


class _Unsubscribe(_Whom):
    channel: str = ""


class _Refresh(_Whom):
    expired: bool = False
    expire_at: int = 0


class _Channels(Struct):
    pattern: str = ">"


class _Info(Struct):
    pass


class _Batch(Struct):
    commands: list[dict[str, Raw]] = []


class Api:
    """The ASGI endpoint."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._methods: dict[
            str, tuple[Callable[[bytes | Raw], Any], Callable[[Any], Awaitable[Any]]]
        ] = {
            "publish": (_decoder(_Publish), self._publish),
            "broadcast": (_decoder(_Broadcast), self._broadcast),
            "history": (_decoder(_History), self._history),
            "presence": (_decoder(_Channel), self._presence),
            "presence_stats": (_decoder(_Channel), self._presence_stats),
            "disconnect": (_decoder(_Disconnect), self._disconnect),
            "unsubscribe": (_decoder(_Unsubscribe), self._unsubscribe),
            "refresh": (_decoder(_Refresh), self._refresh),
            "channels": (_decoder(_Channels), self._channels),
            "info": (_decoder(_Info), self._info),
        }
        self._decode_batch = _decoder(_Batch)
        key = hub.settings.api_key
        self._key = key.get_secret_value().encode() if key is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._respond(Request(scope, receive))
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        method = str(request.path_params["method"])
        if not self._allowed(request):
            message = "unauthorized: the API key in X-API-Key is missing or wrong"
            return refusal(Refusal.UNAUTHORIZED.code, message, 401)
        if method != "batch" and method not in self._methods:
            known = ", ".join([*self._methods, "batch"])
            message = f"there is no method {method[:64]!r}; there are {known}"
            return refusal(Refusal.METHOD_NOT_FOUND.code, message, 404)
        if request.method != "POST":
            response = refusal(Refusal.BAD_REQUEST.code, f"/api/{method} answers POST", 405)
            response.headers["Allow"] = "POST"
            return response
        if not self._hub.running:
            return later(str(Warming() if self._hub.warming else NotRunning()))
        try:
            body = await body_of(request, self._hub.settings.request_max_bytes) or b"{}"
            if method == "batch":
                return answer({"replies": await self._batch(self._decode_batch(body).commands)})
            decode, run = self._methods[method]
            return answer({"result": await run(decode(body))})
        except TooLarge as error:
            return refusal(Refusal.LIMIT_EXCEEDED.code, str(error), 413)
        except (BadFrame, msgspec.MsgspecError, RecursionError) as error:
            return refusal(Refusal.BAD_REQUEST.code, f"bad request: {error}", 400)
        except (CommandError, BadInput, BrokerError) as error:
            return answer({"error": error_object(_command_error(error))})

    def _allowed(self, request: Request) -> bool:
        if self._key is None:
            return True
        given = request.headers.get("x-api-key")
        if given is None:
            scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
            given = credentials.strip() if scheme.lower() == "apikey" else ""
        # A header's text is its bytes in this encoding.
        return hmac.compare_digest(given.encode("latin-1"), self._key)

    async def _publish(self, request: _Publish) -> Any:
        event = self._draft(request.channel, request)
        return _position((await self._hub.append([event]))[0])

    async def _broadcast(self, request: _Broadcast) -> Any:
        events = [self._draft(channel, request) for channel in request.channels]
        positions = await self._hub.append(events)
        return {"responses": [{"result": _position(position)} for position in positions]}

    async def _batch(self, commands: Sequence[dict[str, Raw]]) -> list[Any]:
        """The replies to `commands`. Neighbouring publishes are appended together."""
        replies: list[Any] = []
        waiting: list[tuple[int, Draft]] = []

        async def flush() -> None:
            if not waiting:
                return
            try:
                positions = await self._hub.append([event for _, event in waiting])
            except (BrokerError, NotRunning) as error:
                for index, _ in waiting:
                    replies[index] = {"error": error_object(_command_error(error))}
            else:
                for (index, _), position in zip(waiting, positions, strict=True):
                    replies[index] = {"publish": _position(position)}
            waiting.clear()

        for command in commands:
            replies.append(None)
            try:
                if len(command) != 1:
                    raise BadInput(f"a command has one method, this one has {len(command)}")
                ((method, raw),) = command.items()
                decode, run = self._method(method)
                request = decode(raw)
                if isinstance(request, _Publish):
                    waiting.append((len(replies) - 1, self._draft(request.channel, request)))
                else:
                    await flush()
                    replies[-1] = {method: await run(request)}
            except (CommandError, BadInput, BrokerError, NotRunning, msgspec.MsgspecError) as error:
                replies[-1] = {"error": error_object(_command_error(error))}
        await flush()
        return replies

    def _method(
        self, name: str
    ) -> tuple[Callable[[bytes | Raw], Any], Callable[[Any], Awaitable[Any]]]:
        if name not in self._methods:
            raise Refusal.METHOD_NOT_FOUND.error(f"method not found: {name[:64]!r}")
        return self._methods[name]

    def _draft(self, channel: str, content: _Content) -> Draft:
        data: Any = content.data
        if content.b64data is not None:
            try:
                data = base64.b64decode(content.b64data, validate=True)
            except ValueError as error:
                raise BadInput(f"b64data is not base64: {error}") from None
        elif data is UNSET:
            raise BadInput("there is no data")
        return draft(
            channel,
            data,
            key=content.key,
            type=content.type,
            tags=content.tags,
            idempotency_key=content.idempotency_key,
            max_bytes=self._hub.settings.event_max_bytes,
        )

    async def _history(self, request: _History) -> Any:
        since = None
        if request.since is not None:
            try:
                since = Position.parse(f"{request.since.epoch}-{request.since.offset}")
            except BadPosition:
                raise Refusal.UNRECOVERABLE_POSITION.error() from None
        past = self._hub.history(
            request.channel,
            limit=request.limit,
            since=since,
            reverse=request.reverse,
            max_bytes=self._hub.settings.read_bytes,
        )
        publications = [_publication(event) for event in past.events]
        result = {"publications": publications, **_position(past.head)}
        return {**result, "more": True} if past.more else result

    async def _presence(self, request: _Channel) -> Any:
        return {"presence": self._hub.nodes.presence(request.channel)}

    async def _presence_stats(self, request: _Channel) -> Any:
        return self._hub.nodes.presence_stats(request.channel)

    async def _disconnect(self, request: _Disconnect) -> Any:
        why = request.disconnect
        await self._hub.nodes.disconnect(
            user=request.user,
            client=request.client,
            code=why.code,
            reason=why.reason,
            spared=request.whitelist,
        )
        return {}

    async def _unsubscribe(self, request: _Unsubscribe) -> Any:
        await self._hub.nodes.unsubscribe(request.channel, user=request.user, client=request.client)
        return {}

    async def _refresh(self, request: _Refresh) -> Any:
        await self._hub.nodes.refresh(
            request.expire_at, user=request.user, client=request.client, expired=request.expired
        )
        return {}

    async def _channels(self, request: _Channels) -> Any:
        hub = self._hub
        names = hub.log.channels(request.pattern)
        return {"channels": {name: {"num_clients": hub.fanout.lanes.count(name)} for name in names}}

    async def _info(self, request: _Info) -> Any:
        nodes = [
            {
                "uid": uid,
                "name": figures.name,
                "version": figures.version,
                "num_clients": figures.clients,
                "num_channels": figures.channels,
                "num_lanes": figures.lanes,
                "num_events": figures.events,
                "uptime": figures.uptime,
            }
            for uid, figures in self._hub.nodes.info()
        ]
        return {"nodes": nodes}


def _decoder(type: Any) -> Callable[[bytes | Raw], Any]:
    return msgspec.json.Decoder(type).decode


def _position(position: Position) -> dict[str, Any]:
    return {"offset": position.seq, "epoch": str(position.epoch)}


def _publication(event: Event) -> dict[str, Any]:
    fields: dict[str, Any] = {"offset": event.seq, "time": event.time}
    if event.kind is Kind.JSON:
        fields["data"] = Raw(event.data)
    elif event.kind is Kind.TEXT:
        fields["data"] = event.data.decode()
    else:
        fields["b64data"] = event.data
    for name in ("key", "type", "tags"):
        if getattr(event, name) is not None:
            fields[name] = getattr(event, name)
    if event.publisher is not None:
        fields["info"] = event.publisher
    return fields


def _command_error(error: Exception) -> CommandError:
    """What a failure is called in an answer."""
    if isinstance(error, CommandError):
        return error
    if isinstance(error, TooLarge):
        return Refusal.LIMIT_EXCEEDED.error(str(error))
    if isinstance(error, BrokerError | NotRunning):
        return Refusal.INTERNAL.error(str(error))
    return Refusal.BAD_REQUEST.error(f"bad request: {error}")
