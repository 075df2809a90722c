"""Publishing over the HTTP API, in batches of what is waiting.

1. One batch is under way at a time, so events arrive in the order in which they were given. What is
   given meanwhile makes the next batch: nobody waits for a batch to fill.
2. Nothing is sent twice that may have arrived. A batch is sent again only if no connection was made
   or the server said that it took nothing of it. An idempotent publisher sends it again in every
   case: its events carry keys, under which the server takes each of them once.
3. When a batch fails, what waits behind it fails with it: nothing is published beyond a hole. What
   is given afterwards begins anew.
4. An event that the server refuses fails alone.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Mapping
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self
from uuid import uuid4

from twinwire.client import commands
from twinwire.client.address import Address
from twinwire.client.backoff import Backoff
from twinwire.client.errors import InDoubt, Refused, Unreachable
from twinwire.core.event import Position
from twinwire.errors import BadFrame, CommandError, Refusal

if TYPE_CHECKING:
    from twinwire.client.over_http import ApiLink

PATIENCE: Final = 30.0
"""Seconds for which a server that has answered before is tried again while it is away."""

WAITING_EVENTS: Final = 8192
WAITING_BYTES: Final = 8 * 1024 * 1024
"""What may wait to be sent, about; then `Publisher.send` waits."""

BATCH_EVENTS: Final = 1024
BATCH_BYTES: Final = 256 * 1024
"""What one request carries, at most. Servers have a limit, of 1 MiB usually."""

_LATER: Final = frozenset({429, 503})
"""Answers with which a server says that it has done nothing, and that later it might."""

_UNKNOWN: Final = frozenset({408, 500, 502, 504})
"""Answers from which it cannot be known what the server has done."""


class _Waiting(NamedTuple):
    command: bytes
    settled: asyncio.Future[Position] | None


class _TooMuch(Exception):
    """The batch is too large for the server."""


class Publisher:
    """A connection to a server's API. Use it as ``async with Publisher(url) as publisher:``."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        patience: float = PATIENCE,
        idempotent: bool = False,
    ) -> None:
        """`patience` is for how many seconds a server that has answered before is tried again
        while no connection can be made. With `idempotent` events that may have arrived are sent
        again, too, and are published once: as long as the server remembers their keys
        (`idempotency_window`). Raises `BadInput` for what is no URL."""
        self._address = Address(url)
        self._api_key = api_key
        self._patience = patience
        self._name = uuid4().hex if idempotent else ""
        self._keys = count(1)
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._open = 0
        self._batch_bytes = BATCH_BYTES
        self._arrived = asyncio.Event()
        self._settled = asyncio.Event()
        self._failure: Exception | None = None
        self._answered = False
        self._link: ApiLink | None = None
        self._task: asyncio.Task[None] | None = None
        self.published = 0
        """Events that the server has confirmed."""

    async def __aenter__(self) -> Self:
        from twinwire.client.over_http import ApiLink

        self._link = await ApiLink(self._address, self._api_key).__aenter__()
        self._task = asyncio.create_task(self._run(self._link))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._task is not None
        assert self._link is not None
        try:
            if kind is None:
                await self.flush()
        finally:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._fail(self._closed())
            await self._link.__aexit__(None, None, None)
            self._task = self._link = None

    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        key: str | None = None,
        type: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Position:
        """Publish an event and wait for its position.

        `data` may be `msgspec.Raw` (JSON as it is), `bytes`, or anything that JSON can hold. Raises
        `BadChannel`, `BadEvent`, `CommandError` when the server refuses the event, `Refused` when
        it refuses the request, `Unreachable`, and `InDoubt` when it may have been published or not.
        """
        command = commands.publish(channel, data, key, type, tags, self._idempotency_key())
        settled: asyncio.Future[Position] = asyncio.get_running_loop().create_future()
        self._add(_Waiting(command, settled))
        return await settled

    async def send(
        self,
        channel: str,
        data: Any,
        *,
        key: str | None = None,
        type: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Publish an event without waiting for its position, only for room if many are waiting.

        Raises as `publish` does, also for events that were sent before: see `flush`.
        """
        command = commands.publish(channel, data, key, type, tags, self._idempotency_key())
        while self._full() and self._failure is None:
            self._settled.clear()
            await self._settled.wait()
        self._raise()
        self._add(_Waiting(command, None))

    async def flush(self) -> None:
        """Wait until everything sent is published. Raises the first failure since the last call."""
        while self._open and self._failure is None:
            self._settled.clear()
            await self._settled.wait()
        self._raise()

    def _idempotency_key(self) -> str | None:
        return f"{self._name}-{next(self._keys)}" if self._name else None

    def _raise(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _full(self) -> bool:
        return len(self._waiting) >= WAITING_EVENTS or self._waiting_bytes >= WAITING_BYTES

    def _closed(self) -> Unreachable:
        return Unreachable(str(self._address), "the publisher is closed; use 'async with'")

    def _add(self, event: _Waiting) -> None:
        if self._task is None:
            raise self._closed()
        self._waiting.append(event)
        self._waiting_bytes += len(event.command)
        self._open += 1
        self._arrived.set()

    async def _run(self, link: ApiLink) -> None:
        while True:
            self._arrived.clear()
            while batch := self._take():
                try:
                    results = await self._deliver(link, batch)
                except _TooMuch:
                    self._put_back(batch)
                    continue
                except asyncio.CancelledError:
                    self._fail(InDoubt(len(batch), "the publisher was closed"), batch)
                    raise
                except Exception as error:  # noqa: BLE001 (whoever waits must hear of it)
                    self._fail(error, batch)
                else:
                    for event, result in zip(batch, results, strict=True):
                        self._settle(event, result)
                self._settled.set()
            await self._arrived.wait()

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._waiting and len(batch) < BATCH_EVENTS:
            event = self._waiting[0]
            if batch and size + len(event.command) > self._batch_bytes:
                break
            batch.append(self._waiting.popleft())
            size += len(event.command)
        self._waiting_bytes -= size
        return batch

    def _put_back(self, batch: list[_Waiting]) -> None:
        """The server has taken nothing of the batch, since it is too large: halve the next."""
        size = sum(len(event.command) for event in batch)
        self._batch_bytes = size // 2
        self._waiting.extendleft(reversed(batch))
        self._waiting_bytes += size

    async def _deliver(self, link: ApiLink, batch: list[_Waiting]) -> list[Position | Exception]:
        """What became of each event. Raises `Unreachable`, `Refused`, `InDoubt` and `_TooMuch`."""
        from twinwire.client.over_http import NoAnswer, NotSent

        body = commands.batch([event.command for event in batch])
        clock = asyncio.get_running_loop().time
        until = clock() + self._patience
        backoff = Backoff(base=0.1, most=5.0)
        doubted = False
        while True:
            asked, doubt = None, False
            try:
                answer = await link.post("/api/batch", body)
            except NotSent as error:
                why = error.why
            except NoAnswer as error:
                why, doubt = error.why, True
            else:
                why, asked = answer.why, answer.retry_after
                if answer.status == 200:
                    self._answered = True
                    results = _results(answer.body, len(batch))
                    doubts = [result for result in results if isinstance(result, InDoubt)]
                    if not (doubts and self._name):
                        return results
                    why, doubt = doubts[0].why, True
                elif answer.status == 413 and len(batch) == 1:
                    return [Refusal.LIMIT_EXCEEDED.error(why)]
                elif answer.status == 413:
                    raise _TooMuch
                elif answer.status in _UNKNOWN:
                    why, doubt = f"{why} ({answer.status})", True
                elif answer.status not in _LATER:
                    raise Refused(answer.status, why)
            doubted = doubted or doubt
            if doubt and not self._name:
                raise InDoubt(len(batch), why)
            delay = backoff.lost(clock(), random.random(), asked)
            if not self._answered or clock() + delay > until:
                raise InDoubt(len(batch), why) if doubted else Unreachable(str(self._address), why)
            await asyncio.sleep(delay)

    def _fail(self, error: Exception, batch: list[_Waiting] | None = None) -> None:
        """The batch has failed, and with it what waits (rule 3)."""
        for event in batch or ():
            self._settle(event, error)
        if isinstance(error, InDoubt):
            error = Unreachable(str(self._address), f"not sent, since before it {error}")
        for event in self._waiting:
            self._settle(event, error)
        self._waiting.clear()
        self._waiting_bytes = 0
        self._settled.set()

    def _settle(self, event: _Waiting, result: Position | Exception) -> None:
        self._open -= 1
        if isinstance(result, Position):
            self.published += 1
            if event.settled is not None and not event.settled.done():
                event.settled.set_result(result)
        elif event.settled is None:
            self._failure = self._failure or result
        elif not event.settled.done():
            event.settled.set_exception(result)


def _results(body: bytes, count: int) -> list[Position | Exception]:
    try:
        results = commands.replies(body, count)
    except BadFrame as error:
        raise InDoubt(count, str(error)) from None
    # Its broker has failed, perhaps when it had taken the event already.
    unknown = Refusal.INTERNAL.code
    return [
        InDoubt(1, result.message)
        if isinstance(result, CommandError) and result.code == unknown
        else result
        for result in results
    ]
