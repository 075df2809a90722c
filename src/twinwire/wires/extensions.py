"""The negotiation of permessage-deflate (RFC 7692, section 7.1; RFC 6455, section 9.1), the only
extension there is here."""

from __future__ import annotations

import re
from typing import Final

DEFLATE: Final = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
"""What we agree to: each message is compressed by itself, in both directions. A lane's members
share messages, and a client's compressor would cost us a window for each."""

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_PARAM: Final = re.compile(rf"\s*;\s*({_TOKEN})(?:\s*=\s*({_TOKEN}|{_QUOTED}))?")
_OFFER: Final = re.compile(rf"\s*({_TOKEN})((?:{_PARAM.pattern})*)\s*")
_BITS: Final = frozenset(map(str, range(8, 16)))
_ESCAPED: Final = re.compile(r"\\(.)")


def deflate_agreed(offers: str) -> str | None:
    """The `Sec-WebSocket-Extensions` to answer these offers with, or None for no compression.

    `offers` is the request's header of that name; several are joined by commas. The first offer
    that can be taken is. One that cannot be read, that holds what we do not know, or that demands
    a smaller window of us than 32 KiB, is declined: the blocks of a lane are compressed with that.
    """
    place = 0
    while match := _OFFER.match(offers, place):
        place = match.end()
        if offers[place : place + 1] not in ("", ","):
            return None
        place += 1
        if match[1] == "permessage-deflate":
            params = [(m[1], _unquoted(m[2])) for m in _PARAM.finditer(match[2])]
            if (bits := _window(params)) is not None:
                return DEFLATE + (f"; server_max_window_bits={bits}" if bits else "")
    return None


def _window(params: list[tuple[str, str | None]]) -> str | None:
    """The window that we are asked to name, "" for none; None if the offer is to be declined."""
    asked = ""
    if len(dict(params)) < len(params):
        return None  # one of them twice
    for name, value in params:
        match name, value:
            case (("server_no_context_takeover" | "client_no_context_takeover"), None):
                pass
            case "client_max_window_bits", None:
                pass
            case "client_max_window_bits", bits if bits in _BITS:
                pass
            case "server_max_window_bits", "15":
                asked = "15"
            case _:
                return None
    return asked


def _unquoted(value: str | None) -> str | None:
    if value is None or not value.startswith('"'):
        return value
    return _ESCAPED.sub(r"\1", value[1:-1])
