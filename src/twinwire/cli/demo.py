"""`twinwire demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option


def demo(
    host: Annotated[str, Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    tape: Annotated[
        Path | None, Option(help="A recorded market to play instead of a simulated one.")
    ] = None,
    speed: Annotated[float, Option(help="How many times faster than real the market runs.")] = 1.0,
    open_browser: Annotated[bool, Option("--open", help="Open the page in a browser.")] = False,
) -> int:
    """Run a server with a market in it, and a page that shows it."""
    from twinwire.demo import run

    return run(host=host, port=port, tape=tape, speed=speed, open_browser=open_browser)
