"""The hub that the `commands` measurement serves: `twinwire serve --app bench.app:hub`."""

from typing import Any

from twinwire import Hub

hub = Hub()


@hub.command("echo")
async def echo(value: Any) -> Any:
    return value
