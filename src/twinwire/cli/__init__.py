"""The command line: `twinwire serve | demo | publish | tail | bench`.

Exit codes: 0 done; 1 failed on the way; 2 cannot be done as asked; 130 Ctrl-C, where something was
left undone. What is wrong is said in one line on stderr.

What a command needs beyond its arguments is imported when it runs: it should answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

from typer import Context, Exit, Option, Typer

from twinwire.cli.bench import bench
from twinwire.cli.demo import demo
from twinwire.cli.publish import publish
from twinwire.cli.serve import serve
from twinwire.cli.tail import tail
from twinwire.cli.terminal import Failed, Unread, say
from twinwire.errors import Closed, TwinwireError

app = Typer(name="twinwire", add_completion=False, pretty_exceptions_enable=False)
app.command()(serve)
app.command()(demo)
app.command()(publish)
app.command()(tail)
app.add_typer(bench, name="bench")


def _version(wanted: bool) -> None:
    if wanted:
        from twinwire.version import __version__

        print(f"twinwire {__version__}")
        raise Exit


@app.callback(invoke_without_command=True)
def twinwire(
    context: Context,
    version: Annotated[
        bool, Option("--version", callback=_version, is_eager=True, help="Say which it is.")
    ] = False,
) -> None:
    """Push live data to every screen, over Server-Sent Events and WebSocket."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise Exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` say (by default the process's); returns the exit code."""
    try:
        return app(arguments, prog_name="twinwire", standalone_mode=False) or 0
    except KeyboardInterrupt:
        return 130
    except Unread:
        # Who read our output has had enough. Python would complain of it at its own end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Failed as failed:
        say(str(failed))
        return 1
    except TwinwireError as error:
        say(str(error))
        return 1 if isinstance(error, Closed) else 2
    except Exception as error:
        # typer's own are click's, and its newer versions bring a click of their own.
        if not hasattr(error, "format_message"):
            raise
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "twinwire"
        message = error.format_message().replace("Value error, ", "").rstrip(".")
        say(f"{message[:1].lower()}{message[1:]} (see '{command} --help')")
        return 2
