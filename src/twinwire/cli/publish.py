"""`twinwire publish`: one event, the lines of standard input, or a recorded market."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

from typer import Argument, Option

from twinwire.cli.terminal import URL, Failed, Url, is_terminal, say
from twinwire.errors import BadInput, TwinwireError

if TYPE_CHECKING:
    from twinwire.cli.tape import Tape
    from twinwire.client import Publisher

_LAST_WORDS: Final = 1.0
"""Seconds that are left after a Ctrl-C for what is under way."""


class _Labels(NamedTuple):
    """What is said about every event."""

    key: str | None
    type: str | None
    tags: dict[str, str] | None


def publish(
    channel: Annotated[
        str | None,
        Argument(
            help="Where to. With --tape it may hold {symbol}, or any other column of the tape.",
            show_default="with --tape: prices.{symbol}",
        ),
    ] = None,
    data: Annotated[
        str | None,
        Argument(help="JSON; or any text, as a JSON string; - publishes each line of stdin."),
    ] = None,
    url: Url = URL,
    api_key: Annotated[
        str | None, Option(help="The server's API key.", envvar="TWINWIRE_API_KEY")
    ] = None,
    key: Annotated[str | None, Option(help="What newer events of the same key replace.")] = None,
    type: Annotated[str | None, Option(help="The type that subscribers can listen for.")] = None,
    tag: Annotated[
        list[str] | None, Option(help="A tag, any number of times.", metavar="NAME=VALUE")
    ] = None,
    text: Annotated[bool, Option("--text", help="Take DATA for text, even if it is JSON.")] = False,
    tape: Annotated[
        Path | None, Option(help="Replay this recorded market, a CSV file.", metavar="FILE")
    ] = None,
    speed: Annotated[
        float, Option(help="With --tape: times faster than it was; 0 for as fast as can be.")
    ] = 1.0,
) -> int:
    """Publish an event, each line of standard input as it comes, or a recorded market.

    An event alone is answered with its position. A line of input that is not UTF-8 has U+FFFD for
    what is not.
    """
    from twinwire.client import Publisher

    labels = _Labels(key, type, dict(map(_pair, tag)) if tag else None)
    publisher = Publisher(url, api_key)
    if tape is not None:
        if data is not None:
            raise BadInput("--tape and DATA: there can be only one of them")
        if not 0 <= speed < float("inf"):
            raise BadInput(f"--speed {speed}: a tape cannot be played so fast")
        return _run(publisher, _play(publisher, channel, labels, tape, speed))
    if channel is None or data is None:
        raise BadInput("say where to publish and what: CHANNEL DATA, CHANNEL -, or --tape FILE")
    if data == "-":
        return _run(publisher, _lines(publisher, channel, labels, text))
    return _run(publisher, _one(publisher, channel, labels, _data(data, text)), quiet=True)


def _pair(tag: str) -> tuple[str, str]:
    name, equals, value = tag.partition("=")
    if not equals:
        raise BadInput(f"--tag takes NAME=VALUE, not {tag[:60]!a}")
    return name, value


def _data(text: str, is_text: bool) -> Any:
    """What to publish: `text` as the JSON that it is, or as a string."""
    import msgspec

    if not is_text:
        try:
            return msgspec.json.decode(text, type=msgspec.Raw)
        except (msgspec.DecodeError, UnicodeError):
            pass
    return text


def _run(publisher: Publisher, work: Coroutine[Any, Any, None], *, quiet: bool = False) -> int:
    """Do the work, and say how much was done and why it ended."""
    begun = time.monotonic()

    def done() -> str:
        events = "1 event" if publisher.published == 1 else f"{publisher.published} events"
        return f"published {events} in {time.monotonic() - begun:.1f} s"

    try:
        asyncio.run(work)
    except KeyboardInterrupt:
        say(f"stopped: {done()}")
        return 130
    except TwinwireError as error:
        from twinwire.client import InDoubt

        if publisher.published or isinstance(error, InDoubt):
            raise Failed(f"{error}; {done()}") from None
        raise
    if not quiet:
        print(done())
    return 0


async def _one(publisher: Publisher, channel: str, labels: _Labels, data: Any) -> None:
    async with publisher:
        print(await publisher.publish(channel, data, **labels._asdict()))


@contextlib.asynccontextmanager
async def _sending(publisher: Publisher) -> AsyncGenerator[None, None]:
    """Open the publisher. What was sent before bad input or a Ctrl-C is still published."""
    async with publisher:
        try:
            yield
        except BadInput:
            await publisher.flush()
            raise
        except asyncio.CancelledError:
            with contextlib.suppress(TwinwireError, TimeoutError):
                async with asyncio.timeout(_LAST_WORDS):
                    await publisher.flush()
            raise


async def _lines(publisher: Publisher, channel: str, labels: _Labels, is_text: bool) -> None:
    from twinwire.cli.lines import Lines, arriving

    lines = Lines()
    said = labels._asdict()
    async with _sending(publisher), contextlib.aclosing(arriving(sys.stdin.fileno())) as pieces:
        async for piece in pieces:
            for line in lines.feed(piece):
                await publisher.send(channel, _data(line, is_text), **said)
        for line in lines.end():
            await publisher.send(channel, _data(line, is_text), **said)


async def _play(
    publisher: Publisher, channel: str | None, labels: _Labels, file: Path, speed: float
) -> None:
    from twinwire.cli.tape import CHANNEL, filled

    template = CHANNEL if channel is None else channel
    clock = asyncio.get_running_loop().time
    with _opened(file) as tape, _progress(file) as progress:
        tape.check(template)
        async with _sending(publisher):
            begun, first = clock(), None
            for row in tape:
                first = row.time if first is None else first
                late = clock() - begun
                if speed and (wait := (row.time - first) / 1000 / speed - late) > 0:
                    await asyncio.sleep(wait)
                try:
                    await publisher.send(
                        filled(template, row),
                        row.data,
                        key=labels.key or row.cells.get("symbol") or None,
                        type=labels.type,
                        tags=labels.tags,
                    )
                except BadInput as error:
                    raise BadInput(f"{file}, line {row.line}: {error}") from None
                progress(row.data["n"])


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Tape]:
    from twinwire.cli.tape import Tape

    try:
        lines = file.open(newline="", encoding="utf-8-sig")
    except OSError as error:
        raise BadInput(f"{file}: {(error.strerror or str(error)).lower()}") from None
    with lines:
        yield Tape(lines, str(file))


@contextlib.contextmanager
def _progress(file: Path) -> Iterator[Callable[[int], None]]:
    """A function to tell how many rows are done; on a terminal it moves a bar."""
    if not is_terminal(sys.stderr):
        yield lambda rows: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    shown = -1.0
    with Progress(
        *columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task(file.name, total=_rows(file))

        def progress(rows: int) -> None:
            nonlocal shown
            if (now := time.monotonic()) > shown + 0.1:
                shown = now
                bar.update(task, completed=rows)

        yield progress


def _rows(file: Path) -> int | None:
    """About how many rows a tape has; None if reading it twice is not possible."""
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        return sum(piece.count(b"\n") for piece in iter(lambda: stream.read(1 << 20), b"")) - 1
