"""Appends in the order of their calls, each event once.

1. One call of the script is under way at a time; what arrives meanwhile goes into the next one
   together. A call holds whole appends.
2. A call has a number. The server keeps a node's newest number with its answer: a call whose answer
   was lost is repeated under its number, and is done once.
3. Who has waited for long enough, or is cancelled, leaves. What has not been sent by then is never
   done; what has been may be.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from twinwire.brokers.record import pack
from twinwire.brokers.redis.link import Cut, Link, Refused
from twinwire.brokers.redis.scripts import Appender
from twinwire.core.event import Draft, Position
from twinwire.errors import BrokerError

_EVENTS: Final = 1000
_BYTES: Final = 1 << 20
"""What one call holds, about, if no single append is larger: the server serves nobody meanwhile."""

_AGAIN: Final = 0.1
"""Seconds until a call is repeated that the server could not do."""

_PASSING: Final = frozenset(
    {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "TRYAGAIN"}
)
"""Refusals that may pass. Nothing of the call has been done."""

_ELSEWHERE: Final = frozenset({"MOVED", "ASK", "READONLY", "NOSCRIPT"})
"""Refusals by a server that is not the right one any more, or not ready."""


class _Waiting(NamedTuple):
    drafts: Sequence[Draft]
    records: list[bytes]
    done: asyncio.Future[list[Position]]


class _Call(NamedTuple):
    number: int
    drafts: list[Draft]
    records: list[bytes]
    parts: list[_Waiting]

    @property
    def awaited(self) -> bool:
        return not all(part.done.done() for part in self.parts)


class Writer:
    """The appends of one node."""

    def __init__(
        self,
        appender: Appender,
        wait: float,
        *,
        acknowledged: Callable[[Position], None],
        look: Callable[[], None],
        explained: Callable[[BrokerError], BrokerError],
    ) -> None:
        """`acknowledged` is told the newest position of each call, `look` that the log must be
        looked at before anything can be appended; `explained` says an error in the user's words."""
        self.why = "it has not been reached yet"
        """Why nothing can be appended right now, for those who have waited in vain."""
        self._appender = appender
        self._wait = wait
        self._acknowledged = acknowledged
        self._look = look
        self._explained = explained
        self._waiting: deque[_Waiting] = deque()
        self._call: _Call | None = None
        self._sent = False
        self._number = 0
        self._epoch = 0
        self._link: Link | None = None
        self._due: asyncio.Handle | None = None

    async def append(self, drafts: Sequence[Draft]) -> list[Position]:
        """See `Broker.append`."""
        if not drafts:
            return []
        loop = asyncio.get_running_loop()
        part = _Waiting(drafts, [pack(draft) for draft in drafts], loop.create_future())
        self._waiting.append(part)
        self._soon()
        late = loop.call_later(self._wait, self._give_up, part)
        try:
            return await part.done
        finally:
            late.cancel()

    def go_on(self, link: Link, epoch: int) -> None:
        """Append by `link`, whose log has `epoch`."""
        self._link, self._epoch = link, epoch
        self._soon()

    def pause(self, why: str) -> None:
        """There is no link now, because of `why`."""
        self._link, self.why = None, why

    def close(self) -> None:
        """Who waits fails."""
        if self._due is not None:
            self._due.cancel()
        parts = [*(self._call.parts if self._call else ()), *self._waiting]
        self._waiting.clear()
        self._link = self._call = self._due = None
        self._sent = False
        for part in parts:
            if not part.done.done():
                part.done.set_exception(BrokerError("the broker was closed before it answered"))

    def _give_up(self, part: _Waiting) -> None:
        if not part.done.done():
            part.done.set_exception(
                BrokerError(f"not published within {self._wait:g} s: {self.why}")
            )

    def _soon(self, seconds: float = 0.0) -> None:
        # Not at once: what is appended in the same turn of the loop goes together.
        if self._due is None and not self._sent:
            loop = asyncio.get_running_loop()
            later = loop.call_later(seconds, self._send) if seconds else loop.call_soon(self._send)
            self._due = later

    def _send(self) -> None:
        self._due = None
        link = self._link
        if link is None or self._sent:
            return
        call = self._call
        if call is None or not call.awaited:
            call = self._call = self._next()
            if call is None:
                return
        command = self._appender.command(call.number, self._epoch, call.drafts, call.records)
        self._sent = True
        self.why = f"{link.host} does not answer"
        link.ask(command, lambda reply: self._answered(call, link, reply))

    def _next(self) -> _Call | None:
        parts: list[_Waiting] = []
        events = size = 0
        waiting = self._waiting
        while waiting:
            part = waiting[0]
            if not part.done.done():
                events += len(part.drafts)
                size += sum(map(len, part.records))
                if parts and (events > _EVENTS or size > _BYTES):
                    break
                parts.append(part)
            waiting.popleft()
        if not parts:
            return None
        self._number += 1
        drafts = [draft for part in parts for draft in part.drafts]
        records = [record for part in parts for record in part.records]
        return _Call(self._number, drafts, records, parts)

    def _answered(self, call: _Call, link: Link, reply: Any) -> None:
        if call is not self._call:
            return  # closed meanwhile
        self._sent = False
        if isinstance(reply, Cut):
            # The next link repeats it.
            self.pause(str(self._explained(reply)))
        elif isinstance(reply, Refused):
            self._refused(call, link, reply)
        elif reply == b"look":
            self.pause("the log is looked at")
            self._look()
        else:
            self._done(call, reply)
            self._soon()

    def _done(self, call: _Call, reply: bytes) -> None:
        self._call = None
        if reply == b"late":
            return self._fail(call, BrokerError("this call was given up before"))
        positions, newest = self._appender.positions(reply, len(call.drafts))
        if newest is not None:
            self._acknowledged(newest)
        start = 0
        for part in call.parts:
            end = start + len(part.drafts)
            if not part.done.done():
                part.done.set_result(positions[start:end])
            start = end

    def _refused(self, call: _Call, link: Link, error: Refused) -> None:
        self.why = str(self._explained(error))
        if error.code in _PASSING:
            self._soon(_AGAIN)
        elif error.code in _ELSEWHERE:
            link.close(str(error))
            self.pause(self.why)
        else:
            self._call = None
            self._fail(call, BrokerError(self.why))
            self._soon()

    @staticmethod
    def _fail(call: _Call, error: BrokerError) -> None:
        for part in call.parts:
            if not part.done.done():
                part.done.set_exception(BrokerError(str(error)))
