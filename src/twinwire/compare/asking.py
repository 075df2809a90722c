"""Those of the load clients who ask and are answered: over HTTP, and over a WebSocket."""

from __future__ import annotations

import asyncio
from typing import cast

from twinwire.client.errors import Refused, Unreachable, reason
from twinwire.compare import speak
from twinwire.compare.connections import PATIENCE, Dialer
from twinwire.compare.speak import Answer, NotOpened, SocketOpening


class _Asking(asyncio.Protocol):
    """A connection with one question open at a time."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are transports in all but their class.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        why = reason(error) if error else "the connection was closed"
        self._settle(NotOpened(0, why))

    def _settle(self, result: bytes | Exception) -> None:
        answer = self._answer
        if answer is None or answer.done():
            return
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    async def _ask(self, question: bytes) -> bytes:
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(question)
        async with asyncio.timeout(PATIENCE):
            return await self._answer

    def close(self) -> None:
        """End the connection."""
        self._transport.abort()


class Poster(_Asking):
    """Posts to the HTTP API on one connection, which it makes anew when the server has ended it."""

    def __init__(self, dialer: Dialer, api_key: str | None) -> None:
        super().__init__()
        self._dialer = dialer
        self._api_key = api_key
        self._open = False
        self._reading = Answer()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._open = True

    def data_received(self, data: bytes) -> None:
        try:
            answer = self._reading.feed(data)
        except (NotOpened, ValueError) as error:
            self._settle(error)
            self._transport.abort()
            return
        if answer is not None:
            self._settle(answer[1])

    def connection_lost(self, error: Exception | None) -> None:
        self._open = False
        super().connection_lost(error)

    async def post(self, method: str, body: bytes) -> bytes:
        """The body of the answer. Raises `Unreachable`, and `Refused` when the server says no."""
        if not self._open:
            await self._dialer.dial(lambda: self)
        self._reading = Answer()
        question = speak.post(self._dialer.target, method, body, self._api_key)
        try:
            return await self._ask(question)
        except NotOpened as error:
            if not error.status:
                raise Unreachable(str(self._dialer.target.address), error.why) from None
            raise Refused(error.status, error.why) from None
        except TimeoutError:
            why = f"no answer within {PATIENCE:g} s"
            raise Unreachable(str(self._dialer.target.address), why) from None

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._open:
            super().close()


class Caller(_Asking):
    """Sends commands over a WebSocket and waits for their answers."""

    def __init__(self, opening: SocketOpening) -> None:
        super().__init__()
        self._opening: SocketOpening | None = opening
        self._live: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited = b""
        self._buffer = b""
        self._id = 10

    @classmethod
    async def open(cls, dialer: Dialer) -> Caller:
        """A caller that is connected. Raises `Unreachable` and `NotOpened`."""
        connect = speak.frame(b'{"id":1,"connect":{}}')
        caller = cls(SocketOpening(speak.get_socket(dialer.target), connect, awaited=1))
        transport = await dialer.dial(lambda: caller)
        try:
            async with asyncio.timeout(PATIENCE):
                await caller._live
        except TimeoutError:
            transport.abort()
            raise NotOpened(0, f"no answer within {PATIENCE:g} s") from None
        return caller

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self._opening is not None
        self._transport.write(self._opening.first)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if not self._live.done():
            self._live.set_exception(NotOpened(0, "the connection was closed"))

    def data_received(self, data: bytes) -> None:
        if self._opening is None:
            # One answer is awaited, and all else is small.
            self._buffer += data
            if self._awaited in self._buffer:
                said, self._buffer = self._buffer, b""
                self._settle(said)
            return
        try:
            send, rest = self._opening.feed(data)
        except NotOpened as error:
            self._live.set_exception(error)
            self._transport.abort()
            return
        if send:
            self._transport.write(send)
        if rest is not None:
            self._opening = None
            self._live.set_result(None)

    async def call(self, command: bytes) -> bytes:
        """The answer to a command, such as ``"rpc":{…}``. Raises `NotOpened`."""
        self._id += 1
        self._awaited = b'"id":%d,' % self._id
        try:
            return await self._ask(speak.frame(b'{"id":%d,%b}' % (self._id, command)))
        except TimeoutError:
            raise NotOpened(0, f"no answer within {PATIENCE:g} s") from None
