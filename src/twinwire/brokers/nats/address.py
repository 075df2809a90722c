"""What a URL says of the servers, of who one is there, and of the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from twinwire.errors import BadSettings

SCHEMES = ("nats", "tls", "nats+tls")
"""`nats` uses TLS if the server asks for it; the other two refuse a server that does not."""

_PORT = 4222
_HUB = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]@]+)(?::([0-9]{1,5}))?", re.ASCII)
_FORM = "nats://USER:PASSWORD@HOST:4222,HOST:4222?hub=NAME&replicas=3&credentials=FILE&ca=FILE"


class Address(NamedTuple):
    """Where the log is, and how to get there."""

    servers: tuple[str, ...]
    """`host:port` of each."""

    hub: str = "twinwire"
    """The stream's name, and what the names of everything else begin with."""

    replicas: int = 0
    """How many servers have a copy of the log; 0 leaves it as it is, or makes it one."""

    user: str = ""
    password: str = ""
    token: str = ""
    credentials: Path | None = None
    tls: bool = False
    """Whether a connection without TLS is refused."""

    ca: Path | None = None
    """Certificates to trust beside the system's."""


def parse(url: str) -> Address:
    """Read a URL. Raises `BadSettings`, without what is secret in it."""
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.partition("?")
    login, at, hosts = rest.rpartition("@")
    hosts = hosts.removesuffix("/")
    user, colon, password = login.partition(":")
    if scheme not in SCHEMES or "#" in rest:
        raise _bad("it is not of this form")
    servers = tuple(map(_server, hosts.split(",")))
    address = Address(servers, tls=scheme != "nats")
    if colon:
        address = address._replace(user=unquote(user), password=unquote(password))
    elif at:
        address = address._replace(token=unquote(user))
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "hub" and _HUB.fullmatch(value):
            address = address._replace(hub=value)
        elif name == "replicas" and value in ("1", "3", "5"):
            address = address._replace(replicas=int(value))
        elif name == "credentials" and value:
            address = address._replace(credentials=Path(value))
        elif name == "ca" and value:
            address = address._replace(ca=Path(value))
        elif name == "hub":
            raise _bad("hub is letters, digits, '-' and '_', at most 64")
        elif name == "replicas":
            raise _bad("replicas is 1, 3 or 5")
        else:
            raise _bad(f"{name}={value} says nothing that is known")
    return address


def _server(text: str) -> str:
    match = _HOST.fullmatch(text)
    if match is None or int(match[2] or _PORT) not in range(1, 65536):
        raise _bad("a server is HOST or HOST:PORT, and several have commas in between")
    return f"{match[1]}:{match[2] or _PORT}"


def _bad(why: str) -> BadSettings:
    return BadSettings(f"broker: {why}: {_FORM}")
