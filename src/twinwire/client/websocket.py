"""Subscribing over WebSocket, without the I/O: the client's side of the Centrifuge protocol.

1. `open` begins a connection, `receive` takes a message. What they yield has happened when it is
   taken: who stops in the middle of a message loses nothing.
2. Once connected, every channel is subscribed at once, recovering from where it had got to. What
   comes meanwhile is held until all of them are answered, and then yielded in order of position.
3. Of each channel everything from `begin` to `reached` has been yielded. While nothing is held, any
   event moves them all (`_live`), since the server serves a connection's channels in one order.
4. An event that comes through several overlapping subscriptions is yielded once, and none after a
   later one of its channel: what one subscription has lost another may bring until then.
5. What could not be recovered is a gap: from where the channel had got to, to where it goes on.
6. A connection ends in an exception: `ComeBack`, or what `farewell` makes of a final reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from twinwire.client.errors import ComeBack, Refused, farewell
from twinwire.client.items import EARLIEST, Connected, Item, Since
from twinwire.core.event import Event, Kind, Position, Publisher, Selection
from twinwire.core.feed import Gap, Mode, Why
from twinwire.errors import BadFrame, BadPosition, CommandError, Unsubscribed

ANSWER_TIME: Final = 10.0
"""Seconds that the server has to answer a command."""

PING_LEEWAY: Final = 10.0
"""Seconds that a ping may be late, as for the protocol's other clients."""

_MESSAGE_BYTES: Final = 32 * 1024
"""Bytes after which a message takes no further command: servers have a limit, of 64 KiB usually."""

_COME_BACK: Final = Unsubscribed.INSUFFICIENT.code
"""From this unsubscribe code up the client subscribes again."""


class _Error(msgspec.Struct):
    code: int = 0
    message: str = ""
    temporary: bool = False


class _Publication(msgspec.Struct):
    data: Raw = Raw(b"null")
    offset: int = 0
    time: int = 0
    channel: str = ""
    key: str | None = None
    type: str | None = None
    tags: dict[str, str] | None = None
    info: Publisher | None = None


class _Reason(msgspec.Struct):
    code: int = 0
    reason: str = ""


class _Push(msgspec.Struct):
    channel: str = ""
    pub: _Publication | None = None
    unsubscribe: _Reason | None = None
    disconnect: _Reason | None = None


class _Connect(msgspec.Struct):
    ping: int = 0
    pong: bool = False


class _Subscribe(msgspec.Struct):
    epoch: str = ""
    offset: int = 0
    recovered: bool = False
    publications: list[_Publication] = []


class _Reply(msgspec.Struct):
    id: int = 0
    error: _Error | None = None
    push: _Push | None = None
    connect: _Connect | None = None
    subscribe: _Subscribe | None = None


_reply: Final = msgspec.json.Decoder(_Reply).decode
_encode: Final = msgspec.json.encode


class Send(NamedTuple):
    """A text message for the server."""

    text: str


class _Channel:
    """One subscription; see rule 3."""

    __slots__ = ("asked", "begin", "had", "reached")

    def __init__(self) -> None:
        self.asked: Since = None
        self.begin: Position | None = None
        self.reached: Position | None = None
        # A snapshot brings again what is still the newest of its key from before this position.
        self.had: Position | None = None


class WebSocketReader:
    """One subscription of any number of channels, over as many connections as it takes."""

    def __init__(self, channels: Sequence[str], mode: Mode, since: Since) -> None:
        self.mode = mode
        self._since = since
        self._channels = {name: _Channel() for name in channels}
        self._selection = Selection(channels)
        self._overlapping = len(self._channels) > 1 and bool(self._selection.patterns)
        self._id = 0
        self._awaited: dict[int, str] = {}
        self._held: list[tuple[str, Event]] = []
        self._live: Position | None = None
        self._ping: int | None = None
        self._pong = False

    @property
    def position(self) -> Since:
        """Where to go on, on another connection or wire: all up to here has been yielded."""
        if self._live is not None:
            return self._live
        reached = [channel.reached for channel in self._channels.values()]
        known = [position for position in reached if position is not None]
        return min(known) if len(known) == len(reached) else self._since

    @property
    def patience(self) -> float | None:
        """Seconds of silence after which the connection is dead; None if the server never pings."""
        if self._ping is None or self._awaited:
            return ANSWER_TIME
        return self._ping + PING_LEEWAY if self._ping else None

    def open(self) -> Send:
        """The first message of a new connection."""
        self._settle()
        self._awaited.clear()
        self._held.clear()
        self._ping = None
        self._id = 1
        return Send('{"id":1,"connect":{"name":"twinwire-python"}}')

    def receive(self, message: str | bytes) -> Iterator[Item | Send]:
        """What a text message brings, and what to send because of it.

        Raises `ComeBack`, `Closed`, `Refused` and `CommandError` as the server says, and
        `BadFrame` for what is not the protocol.
        """
        text = message.encode() if isinstance(message, str) else message
        for line in text.split(b"\n"):
            if line:
                try:
                    reply = _reply(line)
                except (msgspec.DecodeError, UnicodeError) as error:
                    raise BadFrame(f"not the Centrifuge protocol: {error}") from None
                yield from self._take(reply)

    def _take(self, reply: _Reply) -> Iterator[Item | Send]:
        if reply.push is not None:
            yield from self._pushed(reply.push)
        elif reply.error is not None:
            raise self._failed(reply.id, reply.error)
        elif reply.connect is not None:
            self._ping, self._pong = reply.connect.ping, reply.connect.pong
            yield Connected(self.position)
            yield from self._subscribe(self._channels)
        elif reply.subscribe is not None:
            if name := self._awaited.pop(reply.id, ""):
                yield from self._subscribed(name, reply.subscribe)
        elif reply.id == 0 and self._pong:
            yield Send("{}")

    def _subscribe(self, names: Iterable[str]) -> Iterator[Send]:
        self._settle()
        lines: list[bytes] = []
        size = 0
        for name in names:
            line = _encode(self._request(name))
            if lines and size + len(line) > _MESSAGE_BYTES:
                yield Send(b"\n".join(lines).decode())
                lines, size = [], 0
            lines.append(line)
            size += len(line) + 1
        yield Send(b"\n".join(lines).decode())

    def _request(self, name: str) -> dict[str, Any]:
        channel = self._channels[name]
        channel.asked = channel.reached or self._since
        self._id += 1
        self._awaited[self._id] = name
        request: dict[str, Any] = {"channel": name}
        if self.mode is not Mode.EVERY:
            request["data"] = {"mode": self.mode.value}
        if channel.asked is not None:
            request["recover"] = True
        if isinstance(channel.asked, Position):
            # Without these two it is the protocol's way to ask for everything from the beginning.
            request["epoch"] = str(channel.asked.epoch)
            request["offset"] = channel.asked.seq
        return {"id": self._id, "subscribe": request}

    def _subscribed(self, name: str, result: _Subscribe) -> Iterator[Item]:
        channel = self._channels[name]
        start = _position(result.epoch, result.offset)
        asked = Position(start.epoch, 0) if channel.asked == EARLIEST else channel.asked
        known = isinstance(asked, Position) and asked.epoch == start.epoch and asked <= start
        channel.had = asked if isinstance(asked, Position) and known else None
        if not result.recovered or channel.reached is None:
            if result.publications and not result.recovered:
                # A snapshot, of which more may come: it is had once its events are.
                first = min(publication.offset for publication in result.publications)
                channel.begin = Position(start.epoch, first - 1)
                channel.reached = max(channel.begin, channel.had or channel.begin)
            else:
                channel.begin = channel.reached = start
        if isinstance(asked, Position) and not result.recovered and asked != start:
            yield Gap(asked, start, Why.EVICTED if known else Why.RESTARTED, (name,))
        self._held.extend((name, _event(name, p, start.epoch)) for p in result.publications)
        if not self._awaited:
            held = sorted(self._held, key=lambda item: item[1].position)
            self._held.clear()
            for name, event in held:
                yield from self._yield(name, event)

    def _pushed(self, push: _Push) -> Iterator[Item | Send]:
        if push.disconnect is not None:
            raise farewell(push.disconnect.code, push.disconnect.reason)
        channel = self._channels.get(push.channel)
        if channel is None:
            return
        if push.unsubscribe is not None:
            code, reason = push.unsubscribe.code, push.unsubscribe.reason
            if code < _COME_BACK:
                raise Refused(code, f"{push.channel}: {reason or 'unsubscribed'}")
            if push.channel not in self._awaited.values():
                yield from self._subscribe([push.channel])
        elif push.pub is not None and channel.reached is not None:
            event = _event(push.channel, push.pub, channel.reached.epoch)
            if self._awaited:
                self._held.append((push.channel, event))
            else:
                yield from self._yield(push.channel, event, live=True)

    def _yield(self, name: str, event: Event, *, live: bool = False) -> Iterator[Event]:
        position = event.position
        channel = self._channels[name]
        known = self._overlapping and self._yielded(event)
        known = known or (channel.had is not None and position <= channel.had)
        channel.reached = max(channel.reached or position, position)
        if live:
            self._live = max(self._live or position, position)
        if not known:
            yield event

    def _yielded(self, event: Event) -> bool:
        position = event.position
        for name in self._selection.matching(event.channel):
            channel = self._channels[name]
            if channel.had is not None and position <= channel.had:
                return True
            if channel.begin is not None and channel.reached is not None:
                reached = max(channel.reached, self._live or channel.reached)
                # What comes late from its gap is not yielded either once it has gone on.
                if channel.begin < reached and position <= reached:
                    return True
        return False

    def _settle(self) -> None:
        """Give every channel what `_live` says."""
        if self._live is not None:
            for channel in self._channels.values():
                channel.reached = max(channel.reached or self._live, self._live)
            self._live = None

    def _failed(self, id: int, error: _Error) -> ComeBack | CommandError:
        text = error.message or "refused"
        if error.temporary:
            return ComeBack(f"{text} ({error.code})")
        name = self._awaited.get(id)
        return CommandError(error.code, f"{name}: {text}" if name else text)


def _event(name: str, said: _Publication, epoch: int) -> Event:
    return Event(
        said.channel or name, bytes(said.data), epoch, said.offset, said.time,
        Kind.JSON, said.key, said.type, said.tags, said.info,
    )  # fmt: skip


def _position(epoch: str, offset: int) -> Position:
    try:
        return Position.parse(f"{epoch}-{offset}")
    except BadPosition as error:
        raise BadFrame(f"not a twinwire server: {error}") from None
