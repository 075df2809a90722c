"""`twinwire bench compare`: SSE against WebSocket, here or on a deployment."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Final

from typer import Option, Typer

from twinwire.cli.terminal import Failed, has_colour, is_terminal, say
from twinwire.errors import BadInput, TwinwireError

if TYPE_CHECKING:
    from twinwire.compare.figures import Figures

bench: Final = Typer(no_args_is_help=False, help="Measure.")

PAGE: Final = Path("twinwire-compare.html")


@bench.callback()
def _group() -> None:
    """Measure a server, here or where it is deployed."""


@bench.command()
def compare(
    url: Annotated[
        str | None,
        Option(
            help="Measure this deployment, and load it; else a server of its own.", metavar="URL"
        ),
    ] = None,
    api_key: Annotated[
        str | None, Option(help="The deployment's API key.", envvar="TWINWIRE_API_KEY")
    ] = None,
    channel: Annotated[
        str, Option(help="The channel to publish to, which nobody else should use.")
    ] = "bench.compare",
    clients: Annotated[int, Option(min=1, max=20_000, help="Clients of the fan-out.")] = 200,
    rate: Annotated[float, Option(min=1, max=1_000, help="Events a second.")] = 25.0,
    seconds: Annotated[float, Option(min=0.2, max=60, help="Seconds of a fan-out.")] = 2.0,
    rounds: Annotated[int, Option(min=1, max=50, help="Rounds of each wire, in turns.")] = 5,
    quick: Annotated[
        bool, Option("--quick", help="50 clients, 3 rounds of half a second: a first impression.")
    ] = False,
    html: Annotated[Path, Option(help="Where the page goes.", metavar="FILE")] = PAGE,
    json: Annotated[
        Path | None, Option(help="Also all figures, for machines.", metavar="FILE")
    ] = None,
) -> int:
    """Compare Server-Sent Events and WebSocket by measurement: a table, a page, and in words which
    wire for which job. It takes about a minute."""
    from twinwire.compare.figures import Options, to_json
    from twinwire.compare.page import page, warned
    from twinwire.compare.verdict import judge, words
    from twinwire.core.event import check_channel

    check_channel(channel)
    for file in (html, json):
        if file is not None:
            _check(file)
    options = Options(clients, rate, seconds, rounds, channel)
    if quick:
        options = Options(min(clients, 50), rate, min(seconds, 0.5), min(rounds, 3), channel)
    try:
        figures = _measured(options, url, api_key)
    except KeyboardInterrupt:
        say("stopped: nothing was written")
        return 130
    _show(figures)
    for line in words(judge(figures)):
        print(line)
    for warning in warned(figures):
        say(warning)
    _write(html, page(figures).encode())
    if json is not None:
        _write(json, to_json(figures))
    return 0


def _measured(options: Any, url: str | None, api_key: str | None) -> Figures:
    from twinwire.compare.run import measure

    done = 0.0
    _raise_file_limit()
    with _progress() as progress:

        def note(what: str, part: float) -> None:
            nonlocal done
            done = part
            progress(what, part)

        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                return runner.run(_until_ended(measure(options, url, api_key, note)))
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise KeyboardInterrupt from None
        except TwinwireError as error:
            if done:
                raise Failed(f"{error}; nothing was written") from None
            raise


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed: a lighter load client."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


async def _until_ended(work: Coroutine[Any, Any, Figures]) -> Figures:
    """Do the work; whoever ends us by a signal ends our server too."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for name in ("SIGTERM", "SIGHUP"):
        with contextlib.suppress(AttributeError, NotImplementedError):
            loop.add_signal_handler(getattr(signal, name), task.cancel)
    return await task


def _raise_file_limit() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """Says what is being done: a bar on a terminal, nothing elsewhere.

    It is drawn only when something is told, which is between two measurements.
    """
    if not is_terminal(sys.stderr):
        yield lambda what, part: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
    with Progress(
        *columns,
        TextColumn("{task.description}"),
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,
    ) as bar:
        task = bar.add_task("", total=1.0)

        def progress(what: str, part: float) -> None:
            bar.update(task, completed=part, description=what, refresh=True)

        yield progress


def _show(figures: Figures) -> None:
    """The table, on standard output."""
    from rich.console import Console
    from rich.table import Table

    from twinwire.compare.figures import NAMES, ROWS, WIRES, show, spread
    from twinwire.compare.page import difference

    table = Table(box=None, pad_edge=False, header_style="bold" if has_colour(sys.stdout) else "")
    table.add_column("", no_wrap=True)
    for wire in WIRES:
        table.add_column(NAMES[wire], justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for key, row in ROWS.items():
        cells = []
        for wire in WIRES:
            values = figures.of(key, wire)
            around = spread(values, row.unit) if values else ""
            cells.append(
                show(median(values), row.unit) + (f" ({around})" if around else "")
                if values
                else "–"
            )
        table.add_row(row.title, *cells, difference(figures, key))
    wide = Console(highlight=False, width=None if is_terminal(sys.stdout) else 120)
    wide.print(table)
    for why in dict.fromkeys(figures.absent.values()):
        nouns = [
            ROWS[key.partition("/")[0]].noun for key, said in figures.absent.items() if said == why
        ]
        wide.print(f"{', '.join(dict.fromkeys(nouns))}: {why}")
    print()


def _check(file: Path) -> None:
    """Raises `BadInput` now if `file` cannot be written a minute later."""
    if file.is_dir():
        raise BadInput(f"{file}: is a directory")
    folder = file.absolute().parent
    if not folder.is_dir():
        raise BadInput(f"{file}: there is no folder {folder}")
    if not os.access(file if file.exists() else folder, os.W_OK):
        raise BadInput(f"{file}: cannot be written")


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise BadInput(f"{file}: {(error.strerror or str(error)).lower()}") from None
    print(f"\n{file}" if file.suffix == ".html" else file)
