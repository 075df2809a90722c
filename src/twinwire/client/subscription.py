"""Subscribing: items from one connection after another, as if it were one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from twinwire.client.address import Address
from twinwire.client.backoff import Backoff
from twinwire.client.errors import ComeBack
from twinwire.client.items import Connected, Disconnected, Item, Since, since_of
from twinwire.client.sse import SILENCE, SseReader
from twinwire.client.websocket import Send, WebSocketReader
from twinwire.core.event import Event, Position, check_selector
from twinwire.core.feed import Mode
from twinwire.errors import BadFrame, BadInput, TwinwireError

if TYPE_CHECKING:
    from twinwire.client.over_http import StreamLink
    from twinwire.client.over_websocket import SocketLink

_RETRY_LEAST: Final = 0.05


class Subscription:
    """An asynchronous iterator of what is published, over whatever connections it takes.

    It yields `Event`, `Gap` (events that this subscriber may have missed), `Connected` and
    `Disconnected`. It ends only by an exception: `Closed` or `Refused` when the server says that
    coming back is no use, `CommandError` when it refuses a channel. As a context manager it closes
    its connection at the end of the block; without, when it is garbage collected.
    """

    def __init__(self, address: Address, reader: SseReader | WebSocketReader) -> None:
        self._address = address
        self._reader = reader
        self._backoff = Backoff()
        self._link: StreamLink | SocketLink | None = None
        self._items: Iterator[Item | Send] = iter(())
        self._again = 0.0
        self._ended = False

    @property
    def position(self) -> Position | None:
        """Where to go on later, over either wire: everything up to here has been yielded.

        None before the first connection, unless the subscription began at a position.
        """
        position = self._reader.position
        return position if isinstance(position, Position) else None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        # Cancelled at any await below, the next call goes on where this one was.
        while not self._ended:
            try:
                if self._link is None:
                    await asyncio.sleep(self._again - asyncio.get_running_loop().time())
                    await self._connect()
                elif (item := next(self._items, None)) is None:
                    message = await self._link.receive(self._reader.patience)
                    self._items = self._reader.receive(message)
                elif isinstance(item, Send):
                    await self._link.send(item.text)
                else:
                    if isinstance(item, Event):
                        self._backoff.worked()
                    elif isinstance(item, Connected):
                        self._backoff.connected(asyncio.get_running_loop().time())
                    return item
            except ComeBack as lost:
                return await self._lost(lost.why, lost.delay)
            except BadFrame as error:
                return await self._lost(str(error), None)
            except TwinwireError:
                await self.aclose()
                raise
        raise StopAsyncIteration

    async def _connect(self) -> None:
        # Imported when needed: each is an optional package, and takes its time.
        if isinstance(self._reader, SseReader):
            from twinwire.client.over_http import StreamLink

            request = self._reader.request()
            self._link = StreamLink(self._address, request, self._reader.patience)
        else:
            from twinwire.client.over_websocket import SocketLink

            self._link = await SocketLink.open(self._address)
            self._items = iter([self._reader.open()])

    async def _lost(self, why: str, asked: float | None) -> Disconnected:
        if isinstance(self._reader, SseReader) and self._reader.retry is not None:
            self._backoff.base = max(self._reader.retry, _RETRY_LEAST)
        now = asyncio.get_running_loop().time()
        delay = self._backoff.lost(now, random.random(), asked)
        self._again = now + delay
        await self._close()
        return Disconnected(why, delay)

    async def _close(self) -> None:
        link, self._link = self._link, None
        self._items = iter(())
        if link is not None:
            await link.aclose()

    async def aclose(self) -> None:
        """Close the connection and end the iteration."""
        self._ended = True
        await self._close()

    def __del__(self) -> None:
        if self._link is not None:
            self._link.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def subscribe(
    url: str,
    channels: Iterable[str],
    *,
    wire: str = "sse",
    since: Position | str | None = None,
    mode: Mode | str = Mode.EVERY,
    silence: float = SILENCE,
) -> Subscription:
    """Subscribe to `channels` (names and patterns) on the server at `url`, over `wire` sse or ws.

    It begins with what is published next, or after the position `since`, or at `"earliest"`, with
    the oldest event that the server still has. In mode `latest` it begins with the newest event of
    each key. `silence` is the time in seconds after which an event stream without a heartbeat is
    taken for dead; over WebSocket the server says how often it pings.

    Connections are made while the result is iterated over. Raises `BadInput`: `BadChannel`,
    `BadPosition`, or for a URL, a wire or a mode that is none.
    """
    address = Address(url)
    selectors = list(dict.fromkeys([channels] if isinstance(channels, str) else channels))
    for selector in selectors:
        check_selector(selector)
    if not selectors:
        raise BadInput("no channel to subscribe to")
    try:
        chosen = Mode(mode)
    except ValueError:
        modes = ", ".join(known.value for known in Mode)
        raise BadInput(f"{mode!r} is no mode; there are {modes}") from None
    begin: Since = since_of(since)
    if wire == "sse":
        return Subscription(address, SseReader(selectors, chosen, begin, silence))
    if wire == "ws":
        return Subscription(address, WebSocketReader(selectors, chosen, begin))
    raise BadInput(f"{wire!r} is no wire; there are sse and ws")
