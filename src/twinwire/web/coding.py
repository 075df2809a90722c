"""Content codings: what a request's `Accept-Encoding` allows (RFC 9110, section 12.5.3)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_ITEM: Final = re.compile(
    r"""[ \t]* ([!#$%&'*+.^_`|~0-9A-Za-z-]+)
    (?: [ \t]*;[ \t]* q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?) )? [ \t]*""",
    re.VERBOSE | re.IGNORECASE,
)
_ALIASES: Final = {"x-gzip": "gzip"}


class NotAcceptable(Exception):
    """The client takes neither gzip nor the body as it is."""


def gzips(accept: Iterable[str], *, enabled: bool = True) -> bool:
    """Whether a body is best sent with gzip, to who has sent these `Accept-Encoding` fields.

    With `enabled` off it never is. Raises `NotAcceptable`.
    """
    weights = _weights(",".join(accept))
    other = weights.get("*", 0.0)
    gzip = weights.get("gzip", other) if enabled else 0.0
    # A body as it is needs no permission. It is the last choice of who does not speak of it.
    identity = weights.get("identity", 0.0 if weights.get("*") == 0 else 0.001)
    if not (gzip or identity):
        raise NotAcceptable
    return gzip >= identity


def _weights(text: str) -> dict[str, float]:
    """The codings and their weights. What cannot be read is as good as not there."""
    found: dict[str, float] = {}
    for item in text.split(","):
        if match := _ITEM.fullmatch(item):
            name = match[1].lower()
            found[_ALIASES.get(name, name)] = float(match[2] or 1)
    return found
