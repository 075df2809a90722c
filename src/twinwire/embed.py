"""The hub as applications see it: the engine with its web face, and what it does about clients."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from starlette.types import ASGIApp

from twinwire import hub
from twinwire.core.protocol import Member, PresenceStats
from twinwire.errors import CloseReason, NotRunning
from twinwire.nodes import Nodes
from twinwire.web.app import build


class Hub(hub.Hub):
    """Publish once, and every screen has it.

    >>> hub = Hub("memory://")
    >>> app = FastAPI(lifespan=hub.lifespan)  # doctest: +SKIP
    >>> app.mount("/live", hub.app)  # doctest: +SKIP
    """

    @cached_property
    def app(self) -> ASGIApp:
        """The ASGI application: `/sse`, `/ws`, `/api/…`, `/health`, `/ready`."""
        return build(self)

    def presence(self, channel: str) -> dict[str, Member]:
        """The clients that are subscribed to `channel` by its name, on all nodes, by client id.

        Raises `BadChannel`, `NotRunning`, and `CommandError`: 108 without a rule that says
        `presence = true` for this channel, 106 if they are more than `presence_members`.
        """
        return self._nodes.presence(channel)

    def presence_stats(self, channel: str) -> PresenceStats:
        """How many clients they are (`num_clients`), and of how many users (`num_users`).

        Raises `BadChannel`, `NotRunning` and `CommandError` 108.
        """
        return self._nodes.presence_stats(channel)

    async def disconnect(
        self,
        *,
        user: str = "",
        client: str = "",
        code: int = CloseReason.FORCE_NO_RECONNECT.code,
        reason: str = "",
        spared: Iterable[str] = (),
    ) -> None:
        """End the connections of `user`, or of the client with the id `client`, or of both together
        where both are given; on all nodes. Those of the clients in `spared` stay.

        `code` and `reason` are what the clients are told: a row of the table of close reasons, or
        a code from 4000 with a text of up to 123 bytes; from 4500 on they do not come back. Those
        on this node have been told when this returns. Raises `BadInput`, `NotRunning`, and
        `BrokerError` if the other nodes cannot be told.
        """
        await self._nodes.disconnect(
            user=user, client=client, code=code, reason=reason, spared=spared
        )

    async def unsubscribe(self, channel: str, *, user: str = "", client: str = "") -> None:
        """End their subscriptions to `channel`, a name or a pattern, as it was subscribed to.

        They may subscribe again if they are still granted to. Raises as `disconnect` does.
        """
        await self._nodes.unsubscribe(channel, user=user, client=client)

    async def refresh(
        self, *, user: str = "", client: str = "", expire_at: float = 0, expired: bool = False
    ) -> None:
        """Let their connections end (3005) at `expire_at`, in seconds since 1970, or now if they
        are `expired`. With neither they do not expire. Raises as `disconnect` does.
        """
        await self._nodes.refresh(expire_at, user=user, client=client, expired=expired)

    @property
    def _nodes(self) -> Nodes:
        if not self.running:
            raise NotRunning
        return self.nodes
