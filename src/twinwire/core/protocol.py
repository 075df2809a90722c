"""The Centrifuge client protocol's messages, apart from how a wire writes them.

Field names are the protocol's. What its schema calls `bytes` is raw here: the JSON wire splices it
in as JSON. Zero values are left out of what we send, but where the protocol says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from twinwire.core.event import Publisher


class StreamPosition(Struct, omit_defaults=True):
    offset: int = 0
    epoch: str = ""


class SubscribeRequest(Struct):
    channel: str = ""
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: int = 0
    data: Raw = field(default_factory=Raw)
    positioned: bool = False
    recoverable: bool = False
    join_leave: bool = False
    delta: str = ""
    flag: int = 0


class ConnectRequest(Struct):
    token: str = ""
    data: Raw = field(default_factory=Raw)
    subs: dict[str, SubscribeRequest] = {}
    name: str = ""
    version: str = ""
    headers: dict[str, str] = {}
    flag: int = 0


class UnsubscribeRequest(Struct):
    channel: str = ""


class PublishRequest(Struct):
    channel: str = ""
    data: Raw = field(default_factory=Raw)


class ChannelRequest(Struct):
    """Asks for the presence in a channel, or its statistics."""

    channel: str = ""


class HistoryRequest(Struct):
    channel: str = ""
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class PingRequest(Struct):
    pass


class SendRequest(Struct):
    data: Raw = field(default_factory=Raw)


class RpcRequest(Struct):
    data: Raw = field(default_factory=Raw)
    method: str = ""


class RefreshRequest(Struct):
    token: str = ""


class SubRefreshRequest(Struct):
    channel: str = ""
    token: str = ""


class Command(Struct):
    """What a client says: an id and one request. Without an id it is a `send`, or a pong."""

    id: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: UnsubscribeRequest | None = None
    publish: PublishRequest | None = None
    presence: ChannelRequest | None = None
    presence_stats: ChannelRequest | None = None
    history: HistoryRequest | None = None
    ping: PingRequest | None = None
    send: SendRequest | None = None
    rpc: RpcRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: SubRefreshRequest | None = None


class Error(Struct, omit_defaults=True):
    code: int
    message: str
    temporary: bool = False


class Publication(Struct, omit_defaults=True):
    """An event as a subscriber sees it. `channel` is set for subscriptions to a pattern."""

    data: Raw
    info: Publisher | None = None
    offset: int = 0
    tags: Mapping[str, str] | None = None
    time: int = 0
    channel: str = ""


class ConnectResult(Struct, omit_defaults=True):
    client: str
    version: str
    ping: int = 0
    pong: bool = False
    time: int = 0


class SubscribeResult(Struct, omit_defaults=True):
    recoverable: bool = False
    epoch: str = ""
    publications: list[Publication] = []
    recovered: bool = False
    offset: int = 0
    positioned: bool = False
    was_recovering: bool = False


class HistoryResult(Struct):
    publications: list[Publication]
    epoch: str
    offset: int


class Member(Struct, frozen=True, gc=False):
    """A client that is subscribed to a channel. The infos are what the application says of the
    connection, and of its subscription."""

    user: str
    client: str
    conn_info: Raw | UnsetType = UNSET
    chan_info: Raw | UnsetType = UNSET


class PresenceResult(Struct):
    """The members of a channel, by client."""

    presence: dict[str, Member]


class PresenceStats(Struct):
    """How many clients are in a channel, and of how many users."""

    num_clients: int
    num_users: int


class RpcResult(Struct):
    data: Raw


class Empty(Struct):
    """The result of an unsubscribe, a publish or a ping."""


class UnsubscribePush(Struct, omit_defaults=True):
    code: int = 0
    reason: str = ""


class SubscribePush(Struct, omit_defaults=True):
    """A subscription that the server has made."""


class JoinLeave(Struct):
    """Who has joined a channel, or left it."""

    info: Member


class Push(Struct, omit_defaults=True):
    """What a client is told unasked. Events are written by the wires themselves."""

    channel: str = ""
    pub: Publication | None = None
    join: JoinLeave | None = None
    leave: JoinLeave | None = None
    subscribe: SubscribePush | None = None
    unsubscribe: UnsubscribePush | None = None


class Reply(Struct, omit_defaults=True):
    """An answer to the command of the same id, a push, or with nothing at all a ping."""

    id: int = 0
    error: Error | None = None
    push: Push | None = None
    connect: ConnectResult | None = None
    subscribe: SubscribeResult | None = None
    unsubscribe: Empty | None = None
    publish: Empty | None = None
    presence: PresenceResult | None = None
    presence_stats: PresenceStats | None = None
    history: HistoryResult | None = None
    ping: Empty | None = None
    rpc: RpcResult | None = None
