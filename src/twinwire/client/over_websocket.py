"""The client's WebSocket. Decides nothing."""

from __future__ import annotations

import asyncio
from typing import Final

from twinwire.client.address import Address
from twinwire.client.errors import ComeBack, MissingExtra, Refused, farewell, reason
from twinwire.client.websocket import ANSWER_TIME
from twinwire.errors import BadInput

try:
    from websockets.asyncio.client import ClientConnection, connect
    from websockets.exceptions import (
        ConnectionClosed,
        InvalidHandshake,
        InvalidProxy,
        InvalidStatus,
        InvalidURI,
    )
except ModuleNotFoundError as error:
    raise MissingExtra("websockets") from error

MESSAGE_MAX: Final = 64 << 20
"""Bytes of a message, at most; a longer one ends the connection with 1009, for good."""

_CLOSE_TIME: Final = 1.0
_TOO_BIG: Final = 1009


class SocketLink:
    """One WebSocket."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(cls, address: Address) -> SocketLink:
        """Connect. Raises `ComeBack`, `Refused` and `BadInput`."""
        url = address.ws("/ws")
        try:
            connection = await connect(
                url,
                max_size=MESSAGE_MAX,
                compression=None,
                # The protocol has pings of its own.
                ping_interval=None,
                open_timeout=ANSWER_TIME,
                close_timeout=_CLOSE_TIME,
            )
        except InvalidStatus as refused:
            status = refused.response.status_code
            why = f"no WebSocket at {url}"
            if status >= 500 or status in (408, 425, 429):
                raise ComeBack(f"{why} ({status})") from None
            raise Refused(status, why) from None
        except (InvalidURI, InvalidProxy) as error:
            raise BadInput(f"{address}: {error}") from None
        except InvalidHandshake as error:
            raise ComeBack(f"no WebSocket: {error}") from None
        except OSError as error:  # also a TimeoutError
            raise ComeBack(reason(error)) from None
        return cls(connection)

    async def receive(self, patience: float | None) -> bytes:
        """The next message, within `patience` seconds.

        Raises `ComeBack`, `Refused` and `Closed`.
        """
        try:
            async with asyncio.timeout(patience):
                return await self._connection.recv(decode=False)
        except TimeoutError:
            raise ComeBack(f"nothing heard for {patience:g} s") from None
        except ConnectionClosed as closed:
            raise _ended(closed) from None

    async def send(self, text: str) -> None:
        """Send a text message. What keeps it from arriving, `receive` tells too, and why."""
        try:
            async with asyncio.timeout(ANSWER_TIME):
                await self._connection.send(text)
        except ConnectionClosed:
            pass
        except TimeoutError:
            raise ComeBack("the server reads nothing") from None

    async def aclose(self) -> None:
        """End the connection."""
        await self._connection.close()

    def abort(self) -> None:
        """End the connection from anywhere, without waiting."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._connection.transport.abort)


def _ended(closed: ConnectionClosed) -> Exception:
    if closed.rcvd is not None:
        return farewell(closed.rcvd.code, closed.rcvd.reason)
    if closed.sent is not None and closed.sent.code == _TOO_BIG:
        return Refused(_TOO_BIG, f"a message of over {MESSAGE_MAX} bytes came")
    return ComeBack("the connection was lost")
