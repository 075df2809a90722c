"""The connections of one node's clients, and what the backend orders about them.

Whom an order concerns is found by looking at every connection, in slices. In return a connection
costs nothing for being found. Orders that come meanwhile wait for the next look, which is one for
all of them; and between two looks there is a pause, so that orders that never end take a part of
the time and no more. Looking at 100,000 connections takes 0.15 s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any, Final, Protocol

from twinwire.core.grants import Grants
from twinwire.core.notices import Disconnect, Order, Refresh, Unsubscribe
from twinwire.core.presence import Change
from twinwire.errors import CloseReason, Reason, close_reason
from twinwire.fanout import Fanout, Sink
from twinwire.soon import Soon

_log = logging.getLogger("twinwire")

_STEP: Final = 32
"""Connections between two looks at the clock."""

_PAUSE: Final = 9
"""How many times as long as it takes to look it is not looked again."""


class PresenceWire(Protocol):
    """How joins and leaves are written."""

    def change(self, change: Change) -> bytes:
        """The part that tells of it."""

    def join(self, parts: list[bytes], readers: int = 1) -> bytes:
        """The bytes that carry these parts, to so many readers."""


class Connection(Protocol):
    """One client's connection, on either wire; the owner of its sink."""

    @property
    def client(self) -> str:
        """Its id; "" as long as nobody needs to know it."""

    @property
    def grants(self) -> Grants:
        """What it may do, and whose it is."""

    @property
    def wire(self) -> PresenceWire:
        """How it is written to."""

    @property
    def sink(self) -> Sink:
        """Where."""

    def end(self, reason: Reason) -> None:
        """End it."""

    def unsubscribe(self, selector: str) -> None:
        """End its subscription to `selector`, if it has one, and tell it so."""

    def expire(self, seconds: float) -> None:
        """It ends in so many seconds, as expired."""


class Connections:
    """All connections of a node."""

    def __init__(self, fanout: Fanout, *, slice_ms: float) -> None:
        """`slice_ms` is how long looking for somebody may hold the loop at a stretch."""
        self._fanout = fanout
        self._slice = slice_ms / 1000
        self._orders: list[Order] = []
        self._look = Soon(self._carry_out, 0)
        self._rested = 0.0

    def order(self, order: Order) -> asyncio.Task[None]:
        """Carry out `order` for those who are connected now; returns what can be waited for."""
        self._orders.append(order)
        return self._look.ask()

    async def stop(self) -> None:
        """Carry out nothing more."""
        await self._look.stop()

    async def _carry_out(self) -> None:
        await asyncio.sleep(self._rested - time.perf_counter())
        orders, self._orders = self._orders, []
        by_user: dict[str, list[Order]] = {}
        by_client: dict[str, list[Order]] = {}
        for order in orders:
            if order.client:
                by_client.setdefault(order.client, []).append(order)
            elif order.user:
                by_user.setdefault(order.user, []).append(order)
        spent = 0.0
        begun = time.perf_counter()
        for number, connection in enumerate(self._all()):
            user, client = connection.grants.user, connection.client
            if client in by_client or user in by_user:
                for order in (*by_client.get(client, ()), *by_user.get(user, ())):
                    if order.user in ("", user):
                        _obey(connection, order)
            if not number % _STEP and (held := time.perf_counter() - begun) > self._slice:
                spent += held
                await asyncio.sleep(0)
                begun = time.perf_counter()
        now = time.perf_counter()
        self._rested = now + _PAUSE * (spent + now - begun)

    def _all(self) -> Iterator[Any]:
        """The connections that are there now; one with several feeds may come several times."""
        feeds = self._fanout.feeds
        for feed in list(feeds):
            owner = getattr(feed.sink, "owner", None)
            if owner is not None and feed in feeds:
                yield owner


def _obey(connection: Connection, order: Order) -> None:
    try:
        match order:
            case Disconnect(code=code, reason=reason, spared=spared):
                if connection.client not in spared:
                    connection.end(close_reason(code, reason))
            case Unsubscribe(channel=channel):
                connection.unsubscribe(channel)
            case Refresh(expires=0):
                connection.expire(float("inf"))
            case Refresh(expires=expires):
                left = expires - time.time()
                if left > 0:
                    connection.expire(left)
                else:
                    connection.end(CloseReason.EXPIRED)
    except Exception:  # noqa: BLE001 (one connection's failure is not the others')
        _log.exception("an order failed")
