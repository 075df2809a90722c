"""What `twinwire bench compare` serves when it is given no deployment."""

from __future__ import annotations

from typing import Final

from twinwire.hub import Hub

COMMAND: Final = "bench.echo"

hub: Final = Hub("memory://", allow_publish=["bench.>"])


@hub.command(COMMAND)
async def echo(text: str) -> str:
    """Returns what it is sent."""
    return text
