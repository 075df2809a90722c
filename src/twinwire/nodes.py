"""The nodes of one hub: who else is there, what they are told, and what is heard of them.

The log is not told between nodes, it is the broker's. This is about what is not in the log: who is
in which channel, that a node lives, and what the backend orders about a client wherever it is. All
of it is told by `Broker.tell`, at most once; `twinwire.core.presence` sees to it that what is lost
does not matter for long. A node whose broker is its own has nobody to tell.

Joins and leaves are pushed to the clients that asked for them, those of a moment together. Who is
full does not get them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any, Final
from uuid import uuid4

from msgspec import UNSET

from twinwire.brokers import Broker
from twinwire.connections import Connection, Connections, PresenceWire
from twinwire.core import notices
from twinwire.core.event import Selection, check_channel, check_selector
from twinwire.core.feed import Feed
from twinwire.core.notices import Disconnect, Figures, Order, Refresh, Unsubscribe
from twinwire.core.presence import Change, Roster
from twinwire.core.protocol import Member, PresenceStats
from twinwire.errors import (
    BadFrame,
    BadInput,
    BrokerError,
    CloseReason,
    NotRunning,
    Refusal,
    close_reason,
)
from twinwire.fanout import Fanout
from twinwire.settings import Settings
from twinwire.soon import Soon
from twinwire.version import __version__

_log = logging.getLogger("twinwire")

_TOGETHER: Final = 0.05
"""Seconds for which joins and leaves wait for others."""

_COMPLAIN: Final = 60.0
"""Seconds between two lines in the log about the same trouble."""

_BYE_TIME: Final = 1.0
"""Seconds that the last notice may take."""


class Nodes:
    """This node among the others, and the tail of its broker: the events go on to the fan-out.

    Belongs to the event loop it was made in.
    """

    def __init__(self, broker: Broker, fanout: Fanout, settings: Settings) -> None:
        self.uid = uuid4().hex
        self.begin = fanout.restart
        self.deliver = fanout.append
        self.connections = Connections(fanout, slice_ms=settings.slice_ms)
        self._broker = broker
        self._fanout = fanout
        self._settings = settings
        self._started = time.monotonic()
        self._roster = Roster(
            self.uid,
            period=settings.presence_beat,
            now=self._started,
            alone=not broker.shared,
        )
        self._listeners: dict[str, dict[Connection, None]] = {}
        self._pushing = Soon(self._push, _TOGETHER)
        self._telling = Soon(self._tell, _TOGETHER)
        self._beating: asyncio.TimerHandle | None = None
        self._running = False
        self._kept = any(rule.presence for rule in settings.channels)
        self._complained: dict[str, float] = {}

    def start(self) -> None:
        """Begin: tell the others that this node is there, and ask them for theirs."""
        self._running = True
        if self._broker.shared:
            self._beat()

    async def stop(self) -> None:
        """Say goodbye. The node's clients have been told to leave before."""
        self._running = False
        if self._beating is not None:
            self._beating.cancel()
        for soon in (self._pushing, self._telling, self.connections):
            await soon.stop()
        if self._broker.shared:
            try:
                async with asyncio.timeout(_BYE_TIME):
                    await self._broker.tell(notices.pack(self._roster.bye()))
            except (BrokerError, TimeoutError):
                pass  # the others will find out

    # Telling and hearing

    def hear(self, data: bytes) -> None:
        """Take a notice; see `twinwire.brokers.base.Tail`."""
        try:
            notice = notices.unpack(data)
        except BadFrame as error:
            return self._complain("a notice that cannot be read was passed over", error)
        if not self._running or notice.node == self.uid:
            return
        if isinstance(notice, Order):
            self.connections.order(notice)
        else:
            self._roster.hear(notice, time.monotonic())
            self._stir()

    def _stir(self) -> None:
        if not self._running:
            return
        if self._roster.changed:
            self._pushing.ask()
        if self._roster.telling:
            self._telling.ask()

    def _beat(self) -> None:
        self._roster.beat(self._figures(), time.monotonic())
        self._stir()
        period = self._settings.presence_beat
        self._beating = asyncio.get_running_loop().call_later(period, self._beat)

    async def _tell(self) -> None:
        try:
            for notice in self._roster.tell():
                await self._broker.tell(notices.pack(notice))
        except BrokerError as error:
            self._complain("other nodes cannot be told anything for now", error)

    def _complain(self, what: str, error: Exception) -> None:
        now = time.monotonic()
        if now - self._complained.get(what, -_COMPLAIN) >= _COMPLAIN:
            self._complained[what] = now
            _log.warning("%s: %s", what, error)

    def _figures(self) -> Figures:
        fanout, log = self._fanout, self._fanout.log
        return Figures(
            self._settings.node_name,
            __version__,
            len(fanout.feeds),
            log.channel_count,
            len(fanout.lanes),
            len(log),
            int(time.monotonic() - self._started),
        )

    def info(self) -> list[tuple[str, Figures]]:
        """All nodes: the id of each, and what it says of itself. This one is the first."""
        others = [(beat.node, beat.figures) for beat in self._roster.beats()]
        return [(self.uid, self._figures()), *others]

    # Presence

    def joins(self, selection: Selection) -> list[str]:
        """The channels of `selection` of which whoever selects them is a member."""
        if not self._kept:
            return []
        return [c for c in selection.exact if self._settings.keeps_presence(c)]

    def join(self, connection: Connection, channel: str, *, listens: bool) -> None:
        """`connection` is subscribed to `channel`, and may want to hear who joins and leaves. If
        nobody is to know who is there it is no member."""
        if not self._settings.keeps_presence(channel):
            return
        grants = connection.grants
        info = UNSET if grants.info is None else grants.info
        self._roster.join(channel, Member(grants.user, connection.client, info))
        if listens:
            self._listeners.setdefault(channel, {})[connection] = None
        self._stir()

    def leave(self, connection: Connection, channel: str) -> None:
        """`connection` is no longer subscribed to `channel`. Done twice it does nothing."""
        self._roster.leave(channel, connection.client)
        listeners = self._listeners.get(channel)
        if listeners is not None and connection in listeners:
            del listeners[connection]
            if not listeners:
                del self._listeners[channel]
        self._stir()

    def gone(self, connection: Connection) -> None:
        """`connection` has ended. Done twice it does nothing."""
        for channel in self._roster.channels(connection.client):
            self.leave(connection, channel)

    def dropped(self, connection: Connection, feeds: Iterable[Feed]) -> None:
        """`connection` is still subscribed to what `feeds` select, and to nothing else."""
        for channel in self._roster.channels(connection.client):
            if not any(feed.selects(channel) for feed in feeds):
                self.leave(connection, channel)

    @property
    def memory(self) -> int:
        """About how many bytes of memory this node's members take."""
        return self._roster.memory

    def presence(self, channel: str) -> dict[str, Member]:
        """Who is in `channel`, on all nodes, by client id.

        Raises `BadChannel`, and `CommandError`: 108 if that is not known, 106 if they are too many.
        """
        self._check(channel)
        members, most = self._roster.present(channel), self._settings.presence_members
        if len(members) > most:
            raise Refusal.LIMIT_EXCEEDED.error(
                f"limit exceeded: {len(members)} clients, {most} are listed (presence_members)"
            )
        return dict(members)

    def presence_stats(self, channel: str) -> PresenceStats:
        """How many they are. Raises `BadChannel`, and `CommandError` 108."""
        self._check(channel)
        return self._roster.stats(channel)

    def _check(self, channel: str) -> None:
        check_channel(channel)
        if not self._settings.keeps_presence(channel):
            raise Refusal.NOT_AVAILABLE.error(
                "not available: no rule in channels says presence = true for this one"
            )

    async def _push(self) -> None:
        """Tell the clients who have asked for it who has joined and left."""
        by_channel: dict[str, list[Change]] = {}
        for change in self._roster.changes():
            if change.channel in self._listeners:
                by_channel.setdefault(change.channel, []).append(change)
        turn = self._settings.slice_ms / 1000
        until = time.perf_counter() + turn
        for channel, changes in by_channel.items():
            listeners = self._listeners.get(channel, {})
            joined: dict[PresenceWire, bytes] = {}
            for connection in list(listeners):
                if connection in listeners and not connection.sink.full:
                    wire = connection.wire
                    if wire not in joined:
                        parts = [wire.change(change) for change in changes]
                        joined[wire] = wire.join(parts, len(listeners))
                    _write(connection, joined[wire])
                if time.perf_counter() > until:
                    await asyncio.sleep(0)
                    until = time.perf_counter() + turn

    # What the backend orders

    async def disconnect(
        self, *, user: str = "", client: str = "", code: int, reason: str, spared: Iterable[str]
    ) -> None:
        """End connections; see `twinwire.Hub.disconnect`."""
        why = close_reason(code, reason)
        await self._order(Disconnect(self.uid, user, client, why.code, why.text, list(spared)))

    async def unsubscribe(self, channel: str, *, user: str = "", client: str = "") -> None:
        """End subscriptions; see `twinwire.Hub.unsubscribe`."""
        check_selector(channel)
        await self._order(Unsubscribe(self.uid, user, client, channel))

    async def refresh(
        self, expire_at: float, *, user: str = "", client: str = "", expired: bool = False
    ) -> None:
        """Change when connections end; see `twinwire.Hub.refresh`."""
        # On every clock that is over.
        expires = 1.0 if expired else expire_at
        await self._order(Refresh(self.uid, user, client, expires))

    async def _order(self, order: Order) -> None:
        if not self._running:
            raise NotRunning
        if not (order.user or order.client):
            raise BadInput("whose connections: say a user, a client or both")
        await asyncio.wait((self.connections.order(order),))
        if self._broker.shared:
            await self._broker.tell(notices.pack(order))


def _write(connection: Connection, data: Any) -> None:
    try:
        connection.sink.write(data)
    except Exception:  # noqa: BLE001 (nothing a client does may hurt the others)
        _log.exception("a sink failed")
        connection.end(CloseReason.WRITE_ERROR)
