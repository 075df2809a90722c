"""`twinwire tail`: what is published, line by line."""

from __future__ import annotations

import asyncio
import base64
import os
import stat
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from twinwire.cli.terminal import URL, Unread, Url, has_colour, printable, say
from twinwire.core.feed import Mode

if TYPE_CHECKING:
    from twinwire.client import Event, Gap, Subscription
    from twinwire.client.ledger import Ledger


def tail(
    patterns: Annotated[
        list[str], Argument(help="Channels, or patterns such as 'prices.*' and 'logs.>'.")
    ],
    url: Url = URL,
    wire: Annotated[
        str, Option(help="Server-Sent Events, or WebSocket.", metavar="sse|ws")
    ] = "sse",
    since: Annotated[
        str | None,
        Option(
            help="Begin after this position, or with the earliest.", metavar="POSITION|earliest"
        ),
    ] = None,
    mode: Annotated[
        str,
        Option(
            help="Every event, or when behind only the latest of each key.", metavar="every|latest"
        ),
    ] = "every",
    as_json: Annotated[
        bool, Option("--json", help="Print a JSON object for each, with its position.")
    ] = False,
    count: Annotated[int | None, Option(min=1, help="End after so many events.")] = None,
    retry: Annotated[
        bool, Option("--retry", help="Keep trying even if the first connection fails.")
    ] = False,
    verified: Annotated[
        bool,
        Option(
            "--verify", help="At the end, check against the server's history that nothing is lost."
        ),
    ] = False,
    api_key: Annotated[
        str | None, Option(help="The server's API key, for --verify.", envvar="TWINWIRE_API_KEY")
    ] = None,
) -> int:
    """Print events as they are published. A lost connection is made again, and goes on."""
    from twinwire.client import subscribe
    from twinwire.client.ledger import Ledger

    subscription = subscribe(url, patterns, wire=wire, since=since, mode=mode)
    ledger = Ledger(patterns, Mode(mode), subscription.position, one_order=wire == "sse")
    show = json_line if as_json else human_line(has_colour(sys.stdout))
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        asyncio.run(_until_unread(_follow(subscription, show, url, count, retry, ledger)))
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        raise Unread from None
    return _judge(ledger, url, api_key) if verified else 0


def _judge(ledger: Ledger, url: str, api_key: str | None) -> int:
    from twinwire.cli.verify import verify

    verdict = asyncio.run(verify(ledger, url, api_key))
    for line in str(verdict).splitlines():
        say(line)
    return 0 if verdict.adds_up else 1


async def _follow(
    subscription: Subscription,
    show: Callable[[Event | Gap], str],
    url: str,
    count: int | None,
    retry: bool,
    ledger: Ledger,
) -> None:
    from twinwire.client import Connected, Disconnected, Event, Unreachable

    left = count
    connections = 0
    async with subscription:
        async for item in subscription:
            match item:
                case Connected(position):
                    connections += 1
                    if connections > 1:
                        say(f"connected again, going on after {position}")
                case Disconnected(why, delay):
                    if not connections and not retry:
                        raise Unreachable(url, why)
                    say(f"{why}; trying again in {delay:.1f} s")
                case _:
                    ledger.add(item)
                    sys.stdout.write(show(item) + "\n")
                    if left is not None and isinstance(item, Event):
                        left -= 1
                        if not left:
                            return


async def _until_unread(work: Any) -> None:
    """Do the work, and end it quietly when nobody reads our output any more (`| head`).

    Without this it would be noticed only when the next event is printed.
    """
    task = asyncio.ensure_future(work)
    try:
        output = sys.stdout.fileno()
        is_pipe = stat.S_ISFIFO(os.fstat(output).st_mode)
    except (OSError, ValueError):
        is_pipe = False
    if is_pipe:
        # The writing end of a pipe becomes readable when the reading end is closed.
        asyncio.get_running_loop().add_reader(output, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        raise BrokenPipeError from None
    finally:
        if is_pipe:
            asyncio.get_running_loop().remove_reader(output)


def human_line(colour: bool) -> Callable[[Event | Gap], str]:
    """Writes an item as a line for people: time, channel, key if there is one, data."""
    codes = {"dim": "2", "red": "31", "cyan": "36", "yellow": "33"} if colour else {}

    def paint(text: str, code: str) -> str:
        return f"\x1b[{codes[code]}m{text}\x1b[0m" if code in codes else text

    def line(item: Event | Gap) -> str:
        if isinstance(item, tuple):
            return paint(f"--- gap {item.begin} .. {item.end} ({item.why.value})", "red")
        when = datetime.fromtimestamp(item.time / 1000, UTC).astimezone()
        parts = [
            paint(when.isoformat(" ", "milliseconds")[11:23], "dim"),
            paint(printable(item.channel), "cyan"),
        ]
        if item.key is not None:
            parts.append(paint(printable(item.key), "yellow"))
        parts.append(printable(_data_text(item)))
        return "  ".join(parts)

    return line


def _data_text(event: Event) -> str:
    from twinwire.core.event import Kind

    if event.kind is Kind.BYTES:
        return base64.b64encode(event.data).decode()
    return event.data.decode(errors="replace")


def json_line(item: Event | Gap) -> str:
    """Writes an item as a JSON object on a line."""
    import msgspec

    from twinwire.core.event import Kind

    if isinstance(item, tuple):
        gap = {"from": str(item.begin), "to": str(item.end), "reason": item.why.value}
        return msgspec.json.encode({"gap": gap}).decode()
    fields: dict[str, Any] = {"position": str(item.position), "channel": item.channel}
    for name in ("key", "type", "tags"):
        if (value := getattr(item, name)) is not None:
            fields[name] = value
    fields["time"] = item.time
    if item.kind is Kind.BYTES:
        fields["b64data"] = item.data
    elif item.kind is Kind.TEXT:
        fields["data"] = item.data.decode()
    else:
        fields["data"] = msgspec.Raw(msgspec.json.format(item.data, indent=-1))
    return msgspec.json.encode(fields).decode()
