"""Waiting for a condition, and never for a time."""

import asyncio
import time
from collections.abc import Callable

PATIENCE = 15.0
"""Seconds after which what has not happened will not happen."""


async def until(done: Callable[[], object]) -> None:
    """Let the loop turn until `done`, which nobody tells of."""
    async with asyncio.timeout(PATIENCE):
        while not done():  # noqa: ASYNC110 (what is looked at has no event that could be waited on)
            await asyncio.sleep(0)


def wait_until(done: Callable[[], object]) -> None:
    """The same for what happens in another process."""
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, f"not done after {PATIENCE} s"
        time.sleep(0.01)
