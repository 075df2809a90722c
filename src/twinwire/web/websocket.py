"""`/ws`: the Centrifuge client protocol over WebSocket; who is let in, and through which sink."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from twinwire.core import session as core
from twinwire.errors import CloseReason, Reason
from twinwire.hub import Hub
from twinwire.web.admission import Admission, Crowded, Later, Place, Refused
from twinwire.web.conversation import Conversation
from twinwire.web.sink import SendSink, native
from twinwire.wires import centrifuge_json as codec
from twinwire.wires.extensions import deflate_agreed

_EXTENSIONS = "sec-websocket-extensions"


class WebSocketEndpoint:
    """The ASGI endpoint."""

    def __init__(self, hub: Hub, admission: Admission) -> None:
        self._hub = hub
        self._admission = admission
        settings = hub.settings
        self._limits = core.Limits(
            settings.channels_per_connection,
            settings.commands_in_flight,
            settings.ping,
            settings.pong_timeout,
            settings.connect_timeout,
            settings.commands_per_second,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = WebSocket(scope, receive, send)
        await receive()
        try:
            place = await self._admission.admit(connection)
        except Later as error:
            await _refuse_handshake(scope, send, str(error))
        except Crowded:
            await _accept_and_close(send, CloseReason.CONNECTION_LIMIT)
        except Refused:
            await _accept_and_close(send, CloseReason.DENIED)
        else:
            with place:
                await self._serve(connection, place, receive, send)

    async def _serve(
        self, connection: WebSocket, place: Place, receive: Receive, send: Send
    ) -> None:
        """Begin the conversation."""
        scope = connection.scope
        offered = scope.get("subprotocols") or []
        chosen = "centrifuge-json" if "centrifuge-json" in offered else None
        if _wants_protobuf(connection, offered):
            return await _accept_and_close(send, CloseReason.INAPPROPRIATE_PROTOCOL, chosen)
        sink = native(scope)
        agreed = None
        if sink is not None and self._hub.settings.ws_compression:
            agreed = deflate_agreed(", ".join(connection.headers.getlist(_EXTENSIONS)))
        headers = [(_EXTENSIONS.encode(), agreed.encode())] if agreed else []
        await send({"type": "websocket.accept", "subprotocol": chosen, "headers": headers})
        if sink is None or not sink.open():
            return await self._converse(place, receive, send)
        wire = codec.DEFLATED if agreed else codec.FRAMED
        conversation = Conversation(self._hub, sink, wire, place, self._limits)
        conversation.begin()
        sink.take(conversation, deflated=agreed is not None)
        place.keep()

    async def _converse(self, place: Place, receive: Receive, send: Send) -> None:
        """The conversation through plain `send()`."""
        hub = self._hub

        async def pass_on(data: bytes) -> None:
            await send({"type": "websocket.send", "text": data.decode()})

        sink = SendSink(pass_on, hub.settings.write_high)
        talk = Conversation(hub, sink, codec.MESSAGES, place, self._limits)
        talk.begin()
        writer = asyncio.create_task(sink.run())
        reader = asyncio.create_task(talk.listen(receive))
        try:
            await asyncio.wait((writer, reader), return_when=asyncio.FIRST_COMPLETED)
            gave_up = writer.done() and writer.cancelled()
            if not (reader.done() or gave_up) and talk.reason is not None:
                # Granian closes nothing while somebody waits for the next message.
                reader.cancel()
                await asyncio.wait((reader,))
                await send(_closing(talk.reason))
        finally:
            sink.lost()
            for task in (writer, reader):
                task.cancel()
            await asyncio.gather(writer, reader, return_exceptions=True)


def _closing(reason: Reason) -> Message:
    return {"type": "websocket.close", "code": reason.code, "reason": reason.text}


async def _accept_and_close(
    send: Send, reason: CloseReason, subprotocol: str | None = None
) -> None:
    """Open the WebSocket to say why it is not opened: of a refused one a browser tells nothing."""
    await send({"type": "websocket.accept", "subprotocol": subprotocol})
    await send(_closing(reason))


async def _refuse_handshake(scope: Scope, send: Send, text: str) -> None:
    """Answer 503 instead of opening the WebSocket: the client tries again later."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        return await send({"type": "websocket.close", "code": 1013, "reason": text})
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"retry-after", b"1")]
    await send({"type": "websocket.http.response.start", "status": 503, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": text.encode() + b"\n"})


def _wants_protobuf(connection: WebSocket, offered: list[str]) -> bool:
    query = connection.query_params
    return "centrifuge-protobuf" in offered or "protobuf" in (
        query.get("cf_protocol"),
        query.get("format"),
    )
