"""A server's address, and those of the things on it."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit, urlunsplit

from twinwire.errors import BadInput

_SCHEMES: Final = {"http": ("http", "ws"), "https": ("https", "wss")}
_SCHEMES["ws"], _SCHEMES["wss"] = _SCHEMES["http"], _SCHEMES["https"]


class Address:
    """Where a server is: ``http://host:port``, with a path if it is mounted below one."""

    def __init__(self, url: str) -> None:
        """Raises `BadInput` for anything but an http, https, ws or wss URL with a host."""
        try:
            parts = urlsplit(url)
            # The port is parsed when it is asked for.
            usable = parts.scheme in _SCHEMES and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise BadInput(
                f"bad URL {url[:100]!a}: a server's URL looks like http://127.0.0.1:8000"
            )
        self._http, self._ws = _SCHEMES[parts.scheme]
        self.secure = self._http == "https"
        self.url = urlunsplit((self._http, parts.netloc, parts.path.rstrip("/"), "", ""))

    def http(self, path: str) -> str:
        """The URL of `path` on this server, for HTTP."""
        return self.url + path

    def ws(self, path: str) -> str:
        """The URL of `path` on this server, for WebSocket."""
        return self._ws + self.url.removeprefix(self._http) + path

    def __str__(self) -> str:
        return self.url
