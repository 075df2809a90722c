"""The hub as applications see it: the engine with its web face."""

from __future__ import annotations

from functools import cached_property

from starlette.types import ASGIApp

from twinwire import hub
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
