"""The demo: a server with a market in it and a page that shows it. `twinwire demo` runs it."""

from __future__ import annotations

import webbrowser
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

from twinwire.demo.app import build
from twinwire.demo.market import Tick, recorded, simulated
from twinwire.embed import Hub
from twinwire.errors import BadInput
from twinwire.server import run as serve
from twinwire.settings import Settings

__all__ = ["run"]


def run(*, host: str, port: int, tape: Path | None, speed: float, open_browser: bool) -> int:
    """Serve the demo until a signal; returns the exit code.

    Without a `tape` the market is simulated. Raises `BadSettings` for an address that cannot be
    served, and `BadInput` for a tape that cannot be played.
    """
    settings = Settings.load(given={"host": host, "port": port, "workers": 1})
    hub = Hub(settings=settings)
    ticks = _recorded(tape, speed) if tape else simulated(speed=speed)

    def started() -> None:
        if open_browser and port:  # only the server knows which free port it took
            # In a thread, since a browser in a terminal keeps who starts it waiting.
            shown = f"[{host}]" if ":" in host else host
            Thread(target=webbrowser.open, args=(f"http://{shown}:{port}",), daemon=True).start()

    return serve(settings, hub, build(hub, ticks, started))


def _recorded(file: Path, speed: float) -> Iterator[Tick]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            return recorded(lines, file.name, speed)
    except OSError as error:
        raise BadInput(f"{file}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{file}: this is no text in UTF-8") from None
