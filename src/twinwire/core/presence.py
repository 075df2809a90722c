"""Presence: who is in which channel, on all nodes of a hub.

1. Only the node that a client is connected to says where it is a member. Others keep what they
   have heard, by node.
2. A node numbers its notices. One that comes after a later one of the same node is passed over: in
   whatever order notices arrive, an old one brings nobody back.
3. Each change of a node's members makes their next version. Changes that follow what is known are
   taken. Who has missed some learns it from the versions, of the next change or beat, and asks
   for the whole, which is told to all.
4. A node that has not been heard for `DEAD_AFTER` of its beats is dead, and its members have left.
   If it is heard again it is a node of which nothing is known yet, and is asked. One that has said
   goodbye is not heard again.
5. What is told, here and to other nodes, is the difference to what was told before: each client's
   joins and leaves of a channel alternate.
6. Client ids are unique among all nodes. Time is an argument, in seconds of any steady clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from msgspec import UNSET, Raw, UnsetType

from twinwire.core import notices
from twinwire.core.notices import Ask, Beat, Bye, Changes, Entry, Figures, Notice, Whole
from twinwire.core.protocol import Member, PresenceStats

DEAD_AFTER: Final = 4
"""Beats of a node that may be missed."""

_NOTICE_BYTES: Final = 32 * 1024
"""Bytes of members in one notice, about: brokers have their limits."""

_GONE_MAX: Final = 1000
"""Nodes that are remembered after their end."""

_COST: Final = 500
"""Bytes of memory that a client takes for each channel that it is a member of, about. Measured as
what `tracemalloc` counts for 5,000 clients that are alone in a channel each; with 400 in each it is
200, and 330 on another node."""


class Change(NamedTuple):
    """A client has joined a channel, or else has left it."""

    channel: str
    member: Member
    joined: bool


class _Channel:
    """A channel with members."""

    __slots__ = ("members", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.members: dict[str, Member] = {}


class _Node:
    """What is known of a node. `version` is that of its members, as far as they are known."""

    __slots__ = (
        "asked", "beat", "heard", "members", "number", "part", "period", "uid", "version", "whole",
    )  # fmt: skip

    def __init__(self, uid: str, period: float, now: float) -> None:
        self.uid = uid
        self.members: dict[str, list[_Channel]] = {}
        """The channels of each of its clients."""
        self.version = 0
        self.number = 0
        self.period = period
        self.heard = now
        self.asked = -math.inf
        self.beat: Beat | None = None
        # The whole that is coming, and which part of it is next.
        self.whole: Whole | None = None
        self.part: list[Entry] = []


class Roster:
    """Who is in which channel, as one node knows it."""

    def __init__(self, node: str, *, period: float, now: float, alone: bool = False) -> None:
        """`node` is an id that no other node has or had. It beats every `period` seconds. If it
        is `alone` it has nothing to tell."""
        self._me = _Node(node, period, now)
        self._alone = alone
        self._nodes: dict[str, _Node] = {}
        self._gone: dict[str, float] = {}
        """Nodes that have ended, with the number of what was last heard of each."""
        self._channels: dict[str, _Channel] = {}
        self._beaten = now
        # Who was where when that was last told: here, and of our own members to other nodes.
        self._before: dict[tuple[str, str], Member | None] = {}
        self._touched: dict[tuple[str, str], None] = {}
        # What is to be told beside that.
        self._figures: Figures | None = None
        self._asks: list[str] | None = None if alone else []
        """The nodes to be asked; an empty list is for all of them."""
        self._asked = False

    # This node's own members

    def join(self, channel: str, member: Member) -> None:
        """From now on `member`, a client of this node, is in `channel`."""
        self._put(self._me, channel, member)
        self._touch(channel, member.client)

    def leave(self, channel: str, client: str) -> None:
        """A client of this node has left `channel`. If it was not there nothing happens."""
        if self._remove(self._me, channel, client):
            self._touch(channel, client)

    def gone(self, client: str) -> None:
        """A client of this node has left all its channels."""
        for channel in self.channels(client):
            self.leave(channel, client)

    def channels(self, client: str) -> list[str]:
        """The channels in which a client of this node is."""
        return [channel.name for channel in self._me.members.get(client, ())]

    def _touch(self, channel: str, client: str) -> None:
        if not self._alone:
            self._touched[channel, client] = None

    # Asking

    def present(self, channel: str) -> Mapping[str, Member]:
        """The members of `channel`, by client."""
        found = self._channels.get(channel)
        return {} if found is None else found.members

    def stats(self, channel: str) -> PresenceStats:
        """How many they are."""
        members = self.present(channel)
        return PresenceStats(len(members), len({member.user for member in members.values()}))

    def beats(self) -> list[Beat]:
        """The last beat of each of the other nodes."""
        return [node.beat for node in self._nodes.values() if node.beat is not None]

    @property
    def memory(self) -> int:
        """About how many bytes of memory this node's own members take."""
        return _COST * sum(map(len, self._me.members.values()))

    # What has changed

    def changes(self) -> list[Change]:
        """Who has joined and left since this was last asked."""
        before, self._before = self._before, {}
        found: list[Change] = []
        for (channel, client), was in before.items():
            member = self.present(channel).get(client)
            if member is None and was is not None:
                found.append(Change(channel, was, joined=False))
            elif member is not None and was is None:
                found.append(Change(channel, member, joined=True))
        return found

    @property
    def changed(self) -> bool:
        """Whether there may be changes."""
        return bool(self._before)

    def _put(self, node: _Node, name: str, member: Member) -> None:
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel(name)
        client = member.client
        before = channel.members.get(client)
        self._before.setdefault((name, client), before)
        channel.members[client] = member
        if before is None:
            node.members.setdefault(client, []).append(channel)

    def _remove(self, node: _Node, name: str, client: str) -> bool:
        """Take a member of `node` from a channel, if it is there; returns whether it was."""
        channel, joined = self._channels.get(name), node.members.get(client)
        if channel is None or joined is None or channel not in joined:
            return False
        joined.remove(channel)
        if not joined:
            del node.members[client]
        member = channel.members.pop(client)
        self._before.setdefault((name, client), member)
        if not channel.members:
            del self._channels[name]
        return True

    # What other nodes say

    def hear(self, notice: notices.Presence, now: float) -> None:
        """Take what a node tells; what this one has told itself is passed over."""
        if notice.node == self._me.uid:
            return
        node = self._nodes.get(notice.node)
        if notice.number <= (node.number if node else self._gone.get(notice.node, 0)):
            return
        if node is None:
            node = self._nodes[notice.node] = _Node(notice.node, self._me.period, now)
        node.number = notice.number
        node.heard = now
        match notice:
            case Beat():
                node.beat, node.period = notice, notice.period
                if notice.version != node.version:
                    self._ask(node, now)
            case Changes():
                if notice.version == node.version + 1:
                    self._follow(node, notice)
                else:
                    self._ask(node, now)
            case Whole():
                self._assemble(node, notice)
            case Ask(nodes=nodes):
                self._asked = self._asked or not nodes or self._me.uid in nodes
            case Bye():
                self._bury(node, math.inf)

    def _ask(self, node: _Node, now: float) -> None:
        # An answer takes its time; what was lost is asked for again at the next beat.
        if now - node.asked > node.period / 2:
            node.asked = now
            if self._asks is None:
                self._asks = [node.uid]
            elif self._asks and node.uid not in self._asks:
                self._asks.append(node.uid)

    def _follow(self, node: _Node, changes: Changes) -> None:
        node.version = changes.version
        for name, client in changes.left:
            self._remove(node, name, client)
        for entry in changes.joined:
            self._put(node, entry.channel, _member(entry))

    def _assemble(self, node: _Node, notice: Whole) -> None:
        """Take one part of a node's members, and with the last one all of them."""
        before, node.whole = node.whole, None
        if notice.version == node.version:
            return
        if notice.part == 0:
            node.part = []
        elif before is None or (before.version, before.part + 1) != (notice.version, notice.part):
            return  # a part is missing
        node.part += notice.members
        if notice.part + 1 < notice.parts:
            node.whole = notice
            return
        members, node.part = node.part, []
        node.version = notice.version
        here = {(entry.channel, entry.client) for entry in members}
        for name, client in [pair for pair in _pairs(node) if pair not in here]:
            self._remove(node, name, client)
        for entry in members:
            self._put(node, entry.channel, _member(entry))

    def _bury(self, node: _Node, number: float) -> None:
        """The node is dead, or has said goodbye; what it told up to `number` is not heard again."""
        for name, client in list(_pairs(node)):
            self._remove(node, name, client)
        del self._nodes[node.uid]
        self._gone.pop(node.uid, None)
        self._gone[node.uid] = number
        if len(self._gone) > _GONE_MAX:
            del self._gone[next(iter(self._gone))]

    # What this node says

    def beat(self, figures: Figures, now: float) -> None:
        """The time for a beat has come. Those who have not been heard for too long are dead."""
        late = now - self._beaten - self._me.period
        self._beaten = now
        for node in list(self._nodes.values()):
            if late > self._me.period:
                # We were asleep ourselves: what they told meanwhile is still to be heard.
                node.heard += late
            if now - node.heard > DEAD_AFTER * node.period:
                self._bury(node, node.number)
        if not self._alone:
            self._figures = figures

    @property
    def telling(self) -> bool:
        """Whether there is something to tell other nodes."""
        return bool(
            self._touched or self._asked or self._asks is not None or self._figures is not None
        )

    def tell(self) -> list[Notice]:
        """What to tell the other nodes, in this order. Whether it arrives does not matter."""
        told: list[Notice] = []
        if self._asks is not None:
            told.append(Ask(*self._next(), self._asks))
        touched, self._touched = self._touched, {}
        if self._asked:
            # It says what has changed as well.
            self._me.version += bool(touched)
            told += self._whole()
        else:
            told += self._told(touched)
        if self._figures is not None:
            told.append(Beat(*self._next(), self._me.version, self._me.period, self._figures))
        self._asks = self._figures = None
        self._asked = False
        return told

    def bye(self) -> Notice:
        """The last thing to tell."""
        return Bye(*self._next())

    def _next(self) -> tuple[str, int]:
        self._me.number += 1
        return self._me.uid, self._me.number

    def _told(self, touched: Iterable[tuple[str, str]]) -> Iterator[Notice]:
        entries = [
            Entry(name, client) if member is None else _entry(name, member)
            for name, client in touched
            for member in [self.present(name).get(client)]
        ]
        for some in _portions(entries):
            joined = [e for e in some if e.client in self.present(e.channel)]
            left = [(e.channel, e.client) for e in some if e.client not in self.present(e.channel)]
            self._me.version += 1
            yield Changes(*self._next(), self._me.version, joined, left)

    def _whole(self) -> Iterator[Notice]:
        entries = [
            _entry(channel.name, channel.members[client])
            for client, channels in self._me.members.items()
            for channel in channels
        ]
        portions = list(_portions(entries)) or [[]]
        for part, some in enumerate(portions):
            yield Whole(*self._next(), self._me.version, part, len(portions), some)


def _pairs(node: _Node) -> Iterator[tuple[str, str]]:
    """The channel and the client of each of the node's members."""
    for client, channels in node.members.items():
        for channel in channels:
            yield channel.name, client


def _portions(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """The entries, so many at a time as make one notice."""
    some: list[Entry] = []
    size = 0
    for entry in entries:
        some.append(entry)
        size += len(entry.channel) + len(entry.client) + len(entry.user) + 16
        size += len(entry.conn_info or b"") + len(entry.chan_info or b"")
        if size > _NOTICE_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def _entry(channel: str, member: Member) -> Entry:
    return Entry(
        channel, member.client, member.user, _bytes(member.conn_info), _bytes(member.chan_info)
    )


def _bytes(info: Raw | UnsetType) -> bytes | None:
    return bytes(info) if isinstance(info, Raw) else None


def _member(entry: Entry) -> Member:
    return Member(entry.user, entry.client, _raw(entry.conn_info), _raw(entry.chan_info))


def _raw(info: bytes | None) -> Raw | UnsetType:
    return UNSET if info is None else Raw(info)
