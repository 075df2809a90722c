"""Work that is done a little later, once for all who have asked for it meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

_log = logging.getLogger("twinwire")


class Soon:
    """Does one kind of work in a task of its own, never twice at a time. There is no task when
    there is nothing to do."""

    def __init__(self, work: Callable[[], Awaitable[None]], delay: float) -> None:
        """`work` is done `delay` seconds after it was asked for. What it raises is logged."""
        self._work = work
        self._delay = delay
        self._asked = False
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> asyncio.Task[None]:
        """Ask for the work; returns what can be waited for until it is done."""
        self._asked = True
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return self._task

    async def _run(self) -> None:
        try:
            while self._asked:
                await asyncio.sleep(self._delay)
                self._asked = False
                try:
                    await self._work()
                except Exception:  # noqa: BLE001 (others will ask again)
                    _log.exception("something that had to be done has failed")
        finally:
            self._task = None

    async def stop(self) -> None:
        """End what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
