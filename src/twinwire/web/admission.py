"""Who may open a stream now, and what it may do: not while the hub begins or ends, not one who is
refused, and not too many from one address or of one user."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from types import TracebackType
from typing import ClassVar, Final, Self

from msgspec import Raw
from starlette.requests import HTTPConnection

from twinwire.core.event import json_of
from twinwire.core.grants import Grants
from twinwire.errors import CloseReason, TwinwireError
from twinwire.hub import Hub

EARLY: Final = 0.01
"""Seconds that a timer may come too early: the loop counts in milliseconds."""


class Later(TwinwireError):
    """The hub takes no new streams now. `reason` is what a stream is told that ends for it."""

    reason: ClassVar[CloseReason]


class Warming(Later):
    """It is being started."""

    reason = CloseReason.FORCE_RECONNECT

    def __str__(self) -> str:
        return "not available: this server is warming up, come back in a moment"


class Ending(Later):
    """It is about to end, or has ended."""

    reason = CloseReason.SHUTDOWN

    def __str__(self) -> str:
        return "not available: this server is ending, come back in a moment"


def why_later(hub: Hub) -> Later | None:
    """Why there is no new stream now, if there is none."""
    if hub.accepting:
        return None
    return Warming() if hub.warming else Ending()


class Crowded(TwinwireError):
    """There are too many streams already; `limit` is the setting's name, `allowed` its value."""

    def __init__(self, whose: str, allowed: int, limit: str) -> None:
        self.whose = whose
        self.allowed = allowed
        self.limit = limit
        super().__init__(whose, allowed, limit)

    def __str__(self) -> str:
        return f"too many streams {self.whose}, {self.allowed} are allowed ({self.limit})"


class Refused(TwinwireError):
    """The application does not let this connection in."""

    def __str__(self) -> str:
        return "unauthorized"


class Place:
    """The place that an open stream has. `leave` gives it back, and so does the end of a block
    with it, unless it is to be kept for longer."""

    __slots__ = ("_admission", "_kept", "_names", "_over", "expires", "grants")

    def __init__(self, admission: Admission, grants: Grants, lifetime: float) -> None:
        """`lifetime` is in seconds, 0 for no limit."""
        self.grants = grants
        self.expires = math.inf
        """When its time is over as the application says, by the monotonic clock."""
        self._over = math.inf
        if lifetime:
            self._over = time.monotonic() + lifetime * (0.9 + 0.2 * random.random())
        self._admission = admission
        self._kept = False
        self._names: tuple[str, ...] = ()

    @property
    def ends(self) -> float:
        """When the stream is told to come back, by the monotonic clock."""
        return min(self._over, self.expires)

    @property
    def why(self) -> CloseReason:
        """The reason that it is told then."""
        expired = self.expires <= self._over
        return CloseReason.EXPIRED if expired else CloseReason.FORCE_RECONNECT

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._kept:
            self.leave()

    def keep(self) -> None:
        """The stream goes on by itself, and whoever has it will call `leave`."""
        self._kept = True

    def count(self, name: str, allowed: int, whose: str, limit: str) -> None:
        """Count this stream under `name`, if `allowed` is not 0. Raises `Crowded`."""
        if not allowed:
            return
        streams = self._admission.streams
        if streams[name] >= allowed:
            raise Crowded(whose, allowed, limit)
        streams[name] += 1
        self._names += (name,)

    def leave(self) -> None:
        """The stream has ended. Done twice it does nothing."""
        names, self._names = self._names, ()
        streams = self._admission.streams
        for name in names:
            streams[name] -= 1
            if not streams[name]:
                del streams[name]


class Admission:
    """The places of one hub's streams, on both wires."""

    def __init__(self, hub: Hub) -> None:
        settings = hub.settings
        self.streams: Counter[str] = Counter()
        self._hub = hub
        self._anonymous = Grants(settings.allow_subscribe, settings.allow_publish)
        self._per_address = settings.connections_per_address
        self._per_user = settings.connections_per_user

    async def admit(self, connection: HTTPConnection) -> Place:
        """A place for the stream of this connection, with what it may do.

        Raises `Later`, `Crowded`, `Refused`, and whatever the application's `authorize` raises.
        """
        if (later := why_later(self._hub)) is not None:
            raise later
        place = Place(self, self._anonymous, self._hub.settings.lifetime)
        client = connection.client
        address = client.host if client else ""
        place.count(
            f"address {address}", self._per_address, "from your address", "connections_per_address"
        )
        try:
            if self._hub.authorize is not None:
                grants = await self._hub.authorize(connection)
                if grants is None:
                    raise Refused
                if grants.info is not None:
                    grants = grants._replace(info=Raw(json_of(grants.info)))
                place.grants = grants
            if user := place.grants.user:
                place.count(f"user {user}", self._per_user, "of this user", "connections_per_user")
        except BaseException:
            place.leave()
            raise
        return place
