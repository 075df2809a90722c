"""What the commands share: how they speak, and the options that several of them have."""

from __future__ import annotations

import os
import sys
from typing import Annotated, TextIO, TypeAlias

from typer import Option

URL = "http://127.0.0.1:8000"

Url: TypeAlias = Annotated[str, Option(help="The server.", metavar="URL")]


class Failed(Exception):
    """A command has failed on its way; the text says how, and how far it has come."""


class Unread(Exception):
    """Nobody reads our output any more."""


def say(message: str) -> None:
    """One line on stderr, for people."""
    print("twinwire:", " ".join(message.split()), file=sys.stderr, flush=True)


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at `stream`, on something that can do more than a typewriter."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def has_colour(stream: TextIO) -> bool:
    """Whether colours are wanted (see no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def printable(text: str) -> str:
    """`text` without control characters: published data must not steer anybody's terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
