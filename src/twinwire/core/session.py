"""One WebSocket client's conversation: commands in, effects out.

1. The first command is `connect`, within the connect timeout. A second one ends the session.
2. A command is decided when those before it have been carried out: the outside takes an effect,
   carries it out, comes back with what it gave (`connected`, `subscribed`, `refused`, …), and only
   then takes the next one. So commands that share a frame mean what they would mean one by one.
3. A command with an id is answered once: with its result or with an error.
4. A command without an id that is no `send` is a pong. It must have been asked for, and answers
   the oldest ping that is open.
5. Time is an argument, in seconds of any steady clock; `beat` wants to be called when it is `due`.
6. After `Close` nothing more comes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, auto
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Raw

from twinwire.core.effects import (
    Call,
    Close,
    Connect,
    Effect,
    History,
    Notify,
    Present,
    Publish,
    Send,
    Subscribe,
    Unsubscribe,
)
from twinwire.core.event import Position, check_channel, check_selector
from twinwire.core.feed import PACE_MAX, Feed, Mode, Start
from twinwire.core.grants import Grants
from twinwire.core.protocol import (
    Command,
    ConnectResult,
    Empty,
    Error,
    HistoryRequest,
    Publication,
    Push,
    Reply,
    RpcResult,
    SubscribePush,
    SubscribeRequest,
    SubscribeResult,
    UnsubscribePush,
)
from twinwire.errors import (
    BadChannel,
    BadPosition,
    CloseReason,
    CommandError,
    Reason,
    Refusal,
    Unsubscribed,
)


class Limits(NamedTuple):
    """What a session is bound by; times in seconds."""

    channels: int
    in_flight: int
    ping: float
    pong_timeout: float
    connect_timeout: float
    rate: int
    """Commands in a second, and at once."""


class _State(Enum):
    NEW = auto()
    CONNECTING = auto()
    OPEN = auto()
    CLOSED = auto()


class _Options(msgspec.Struct):
    """What a subscribe request's `data` may say to us."""

    mode: str = Mode.EVERY.value
    max_age: Annotated[int, msgspec.Meta(ge=0, le=PACE_MAX)] = 0


class Session:
    """The state of one conversation. The feeds are its subscriptions."""

    __slots__ = (
        "_allowance", "_connect_by", "_in_flight", "_last", "_limits", "_next_ping", "_pongs_by",
        "_state", "_version", "client", "feeds", "grants",
    )  # fmt: skip

    def __init__(
        self,
        client: str,
        feeds: Sequence[Feed],
        limits: Limits,
        version: str,
        *,
        now: float,
        first_ping: float,
    ) -> None:
        """`first_ping` is the time until the first ping, spread so that clients who came together
        are not pinged together."""
        self.client = client
        self.feeds = feeds
        self.grants = Grants()
        self._limits = limits
        self._version = version
        self._state = _State.NEW
        self._in_flight = 0
        self._allowance = float(limits.rate)
        self._last = now
        self._connect_by = now + limits.connect_timeout
        self._next_ping = now + first_ping
        # Hardly ever more than one: a list is a tenth of what a deque would be.
        self._pongs_by: list[float] = []

    def receive(self, commands: Iterable[Command], now: float) -> Iterator[Effect]:
        """What follows from one frame's commands; see rule 2."""
        rate = self._limits.rate
        self._allowance = min(rate, self._allowance + (now - self._last) * rate)
        self._last = now
        for command in commands:
            if self._state is _State.CLOSED:
                return
            try:
                yield self._command(command)
            except CommandError as error:
                yield Send(refusal(command.id, error))
            except _Pong:
                continue
            except _Bad:
                yield self.close(CloseReason.BAD_REQUEST)

    def _command(self, command: Command) -> Effect:
        if command.id == 0 and command.send is None:
            if not self._pongs_by:
                raise _Bad
            del self._pongs_by[0]
            raise _Pong
        if self._state is _State.NEW:
            if command.connect is None:
                raise _Bad
            self._state = _State.CONNECTING
            return Connect(command.id, command.connect)
        if command.connect is not None or self._state is not _State.OPEN:
            raise _Bad
        if self._allowance < 1:
            # What has come together stays: who keeps asking gets as much as is allowed.
            if command.send is not None:
                # It has no id and so cannot be answered with an error.
                return self.close(CloseReason.TOO_MANY_REQUESTS)
            raise Refusal.TOO_MANY_REQUESTS.error(
                f"too many requests: {self._limits.rate} a second (commands_per_second)"
            )
        self._allowance -= 1
        if command.subscribe is not None:
            return self._subscribe(command.id, command.subscribe)
        if command.unsubscribe is not None:
            return Unsubscribe(command.id, command.unsubscribe.channel)
        if command.publish is not None:
            _check(command.publish.channel)
            if not self.grants.may_publish(command.publish.channel):
                raise Refusal.PERMISSION_DENIED.error()
            if not bytes(command.publish.data):
                raise Refusal.BAD_REQUEST.error("bad request: publish has no data")
            self._begin()
            return Publish(command.id, command.publish.channel, command.publish.data)
        if command.rpc is not None:
            self._begin()
            return Call(command.id, command.rpc.method, command.rpc.data)
        if command.send is not None:
            if self._in_flight >= self._limits.in_flight:
                # It has no id and so cannot be answered with an error.
                return self.close(CloseReason.TOO_MANY_REQUESTS)
            self._in_flight += 1
            return Notify(command.send.data)
        if command.history is not None:
            return self._history(command.id, command.history)
        if command.ping is not None:
            return Send(Reply(id=command.id, ping=Empty()))
        if command.presence is not None:
            return self._present(command.id, command.presence.channel, stats=False)
        if command.presence_stats is not None:
            return self._present(command.id, command.presence_stats.channel, stats=True)
        if command.refresh or command.sub_refresh:
            raise Refusal.NOT_AVAILABLE.error()
        raise _Bad

    def _subscribe(self, id: int, request: SubscribeRequest) -> Subscribe:
        selector = request.channel
        try:
            check_selector(selector)
        except BadChannel as error:
            raise Refusal.BAD_REQUEST.error(str(error)) from None
        if any(feed.selects(selector) for feed in self.feeds):
            raise Refusal.ALREADY_SUBSCRIBED.error()
        if sum(feed.count for feed in self.feeds) >= self._limits.channels:
            raise Refusal.LIMIT_EXCEEDED.error(
                f"limit exceeded: {self._limits.channels} channels (channels_per_connection)"
            )
        if not self.grants.may_subscribe(selector):
            raise Refusal.PERMISSION_DENIED.error()
        try:
            options = msgspec.json.decode(bytes(request.data) or b"{}", type=_Options | None)
            options = options or _Options()
            mode = Mode(options.mode)
            if options.max_age and mode is not Mode.LATEST:
                raise ValueError
        except (ValueError, RecursionError):
            raise Refusal.BAD_REQUEST.error(
                'bad request: the data of subscribe may be {"mode":"every"}, {"mode":"latest"} or '
                '{"mode":"latest","max_age":MS}'
            ) from None
        since: Position | Start | None = None
        if request.recover:
            # From the beginning of a log whose epoch the client cannot know yet.
            earliest = not request.epoch and not request.offset
            since = Start.EARLIEST if earliest else _position(request.epoch, request.offset)
        return Subscribe(
            id,
            selector,
            mode,
            since,
            request.recover,
            options.max_age,
            strict=bool(request.flag & 2),
            join_leave=request.join_leave,
        )

    def _history(self, id: int, request: HistoryRequest) -> History:
        _check(request.channel)
        if not self.grants.may_subscribe(request.channel):
            raise Refusal.PERMISSION_DENIED.error()
        since = None
        if request.since is not None:
            since = _position(request.since.epoch, request.since.offset)
            if since is None:
                raise Refusal.UNRECOVERABLE_POSITION.error()
        return History(id, request.channel, request.limit, since, request.reverse)

    def _present(self, id: int, channel: str, *, stats: bool) -> Present:
        _check(channel)
        if not self.grants.may_subscribe(channel):
            raise Refusal.PERMISSION_DENIED.error()
        return Present(id, channel, stats)

    def _begin(self) -> None:
        if self._in_flight >= self._limits.in_flight:
            raise Refusal.TOO_MANY_REQUESTS.error(
                f"too many requests: {self._limits.in_flight} at once (commands_in_flight)"
            )
        self._in_flight += 1

    def connected(self, id: int, grants: Grants) -> list[Effect]:
        """The client may come in, with these grants."""
        if self._state is not _State.CONNECTING:
            return []
        self._state = _State.OPEN
        self.grants = grants
        ping = max(1, round(self._limits.ping))
        result = ConnectResult(self.client, self._version, ping=ping, pong=True)
        return [Send(Reply(id=id, connect=result))]

    def subscribed(
        self,
        request: Subscribe,
        publications: list[Publication],
        recovered: bool,
        start: Position,
    ) -> list[Effect]:
        """The feed has the selector now: it begins at `start` and has missed `publications`."""
        result = SubscribeResult(
            recoverable=True,
            positioned=True,
            epoch=str(start.epoch),
            offset=start.seq,
            publications=publications,
            recovered=recovered and request.recovering,
            was_recovering=request.recovering,
        )
        return [Send(Reply(id=request.id, subscribe=result))]

    def unsubscribed(self, id: int) -> list[Effect]:
        """The feed no longer has the selector."""
        return [Send(Reply(id=id, unsubscribe=Empty()))]

    def published(self, id: int) -> list[Effect]:
        """The event has its position."""
        return self._end(Reply(id=id, publish=Empty()))

    def answered(self, id: int, data: Raw) -> list[Effect]:
        """A command has this result."""
        return self._end(Reply(id=id, rpc=RpcResult(data)))

    def refused(self, id: int, error: CommandError) -> list[Effect]:
        """A publish or a call has failed."""
        return self._end(refusal(id, error))

    def streaming(self, id: int, channel: str) -> list[Effect]:
        """A command answers with a stream: publications of a channel that only this client has."""
        if self._state is _State.CLOSED:
            return []
        answer = RpcResult(Raw(msgspec.json.encode({"stream": channel})))
        opening = Push(channel=channel, subscribe=SubscribePush())
        return [Send(Reply(id=id, rpc=answer)), Send(Reply(push=opening))]

    def streamed(self, channel: str, data: Raw) -> list[Effect]:
        """The next message of a stream."""
        if self._state is _State.CLOSED:
            return []
        return [Send(Reply(push=Push(channel=channel, pub=Publication(data))))]

    def stream_ended(self, channel: str, why: Unsubscribed, detail: str = "") -> list[Effect]:
        """A stream is at its end, or has failed."""
        push = UnsubscribePush(why.code, detail or why.text)
        return self._end(Reply(push=Push(channel=channel, unsubscribe=push)))

    def notified(self) -> list[Effect]:
        """Something without an answer is done: a message, or a stream that the client left."""
        self._in_flight -= 1
        return []

    def _end(self, reply: Reply) -> list[Effect]:
        self._in_flight -= 1
        return [] if self._state is _State.CLOSED else [Send(reply)]

    def expel(self, selector: str, why: Unsubscribed) -> list[Effect]:
        """The server has ended one subscription."""
        push = UnsubscribePush(why.code, why.text)
        return [Send(Reply(push=Push(channel=selector, unsubscribe=push)))]

    @property
    def due(self) -> float:
        """When `beat` has something to do next."""
        if self._state is not _State.OPEN:
            return self._connect_by
        return min([self._next_ping, *self._pongs_by[:1]])

    def beat(self, now: float) -> list[Effect]:
        """What time has brought: a ping, or the end of waiting."""
        if self._state is _State.CLOSED:
            return []
        if self._state is not _State.OPEN:
            return [self.close(CloseReason.STALE)] if now >= self._connect_by else []
        if self._pongs_by and now >= self._pongs_by[0]:
            return [self.close(CloseReason.NO_PONG)]
        if now >= self._next_ping:
            due = self._next_ping + self._limits.ping
            # After a beat that was very late there is nothing to catch up with.
            self._next_ping = due if due > now else now + self._limits.ping
            self._pongs_by.append(now + self._limits.pong_timeout)
            return [Send(Reply())]
        return []

    def close(self, reason: Reason) -> Close:
        """End the session from this side."""
        self._state = _State.CLOSED
        return Close(reason)


class _Bad(Exception):
    """The command is against the protocol."""


class _Pong(Exception):
    """The command was a pong, and that is all."""


def _check(channel: str) -> None:
    try:
        check_channel(channel)
    except BadChannel as error:
        raise Refusal.BAD_REQUEST.error(str(error)) from None


def _position(epoch: str, offset: int) -> Position | None:
    """The position of a client's epoch and offset; None if it cannot be one of ours."""
    try:
        return Position.parse(f"{epoch}-{offset}")
    except BadPosition:
        return None


def refusal(id: int, error: CommandError) -> Reply:
    """The reply that answers the command `id` with `error`."""
    return Reply(id=id, error=Error(error.code, error.message, error.temporary))
