"""A broker's URL taken apart: `redis://user:password@host:6379/0?hub=NAME` and its relatives.

redis:// and valkey://       one server, or any node of a cluster
rediss:// and valkeys://     the same over TLS
redis+sentinel://host:26379,host2:26379/SERVICE/0
                             the primary that these sentinels name; with TLS rediss+sentinel://

User, password and service are percent-encoded. No error shows anything of the password.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from twinwire.errors import BadSettings

SCHEMES: Final = frozenset(
    base + tls + sentinel
    for base in ("redis", "valkey")
    for tls in ("", "s")
    for sentinel in ("", "+sentinel")
)

_HUB: Final = re.compile(r"[\w.-]{1,64}")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]]+)(?::([0-9]{1,5}))?")
_ENCODE: Final = "any / ? # @ : in the user or the password should be percent-encoded"
_PARAMETERS: Final = frozenset(
    {
        "hub", "sentinel_password", "sentinel_username", "ssl_ca_certs", "ssl_cert_reqs",
        "ssl_certfile", "ssl_check_hostname", "ssl_keyfile",
    }
)  # fmt: skip


class Host(NamedTuple):
    """Where a server listens."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True)
class Address:
    """What a URL says."""

    scheme: str
    hosts: tuple[Host, ...]
    """The server, or the sentinels."""
    hub: str = "twinwire"
    database: int = 0
    service: str = ""
    """What the sentinels call the primary; empty without sentinels."""
    user: str = ""
    password: str = field(default="", repr=False)
    sentinel_user: str = ""
    sentinel_password: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """As the URL, without what is secret."""
        service = f"/{self.service}" if self.service else ""
        return f"{self.scheme}://{','.join(map(str, self.hosts))}{service}"


def parse(url: str) -> Address:
    """Take `url` apart. Raises `BadSettings`."""
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        raise BadSettings("broker: such a URL begins with redis:// or one of its relatives")
    rest, _, query = rest.partition("?")
    rest, _, path = rest.partition("/")
    login, _, hosts = rest.rpartition("@")
    user, _, password = login.partition(":")
    given = _parameters(scheme, query)
    *service, database = path.split("/") if path else [""]
    if "+sentinel" in scheme:
        # The last part is the database, if there are two.
        service = service or [database]
        database = path.partition("/")[2]
        if len(service) != 1 or not service[0]:
            raise BadSettings(
                f"broker: {scheme}:// needs the name of the service that the sentinels watch: "
                f"{scheme}://host:26379,host2:26379/mymaster"
            )
        port = 26379
    else:
        port = 6379
        if service or "," in hosts:
            raise BadSettings(f"broker: {scheme}:// is {scheme}://user:password@host:port/database")
    if not re.fullmatch("[0-9]{0,4}", database):
        raise BadSettings(
            f"broker: what follows the host in {scheme}:// should be the number of a database "
            f"({_ENCODE})"
        )
    return Address(
        scheme=scheme,
        hosts=tuple(_host(scheme, text, port) for text in (hosts or "localhost").split(",")),
        hub=given.get("hub", "twinwire"),
        database=int(database or 0),
        service=unquote("".join(service)),
        user=unquote(user),
        password=unquote(password),
        sentinel_user=given.get("sentinel_username", ""),
        sentinel_password=given.get("sentinel_password", ""),
        tls=_tls(given) if scheme.partition("+")[0] in ("rediss", "valkeys") else None,
    )


def _host(scheme: str, text: str, port: int) -> Host:
    found = _HOST.fullmatch(text)
    if found is None or int(found[2] or port) > 65535:
        raise BadSettings(f"broker: {scheme}:// needs host:port ({_ENCODE})")
    return Host(unquote(found[1]).strip("[]"), int(found[2] or port))


def _parameters(scheme: str, query: str) -> dict[str, str]:
    if "@" in query:  # half a password
        raise BadSettings(f"broker: {scheme}://…?name=value has no @ in it ({_ENCODE})")
    given = dict(parse_qsl(query, keep_blank_values=True))
    for name in sorted(given.keys() - _PARAMETERS):
        known = ", ".join(sorted(_PARAMETERS))
        raise BadSettings(f"broker: {scheme}:// knows no parameter {name[:40]!r}, only {known}")
    if not _HUB.fullmatch(given.get("hub", "twinwire")):
        raise BadSettings(
            "broker: hub should be up to 64 letters, digits and any of _ - . in "
            f"{scheme}://host?hub=NAME"
        )
    return given


def _tls(given: dict[str, str]) -> ssl.SSLContext:
    for name, known in (("ssl_cert_reqs", "required none"), ("ssl_check_hostname", "true false")):
        if given.get(name, known.split()[0]).lower() not in known.split():
            raise BadSettings(f"broker: {name} should be {' or '.join(known.split())}")
    try:
        context = ssl.create_default_context(cafile=given.get("ssl_ca_certs") or None)
        if certificate := given.get("ssl_certfile"):
            context.load_cert_chain(certificate, given.get("ssl_keyfile") or None)
    except OSError as error:  # an SSLError is one
        why = error.strerror or str(error)
        raise BadSettings(f"broker: its certificates cannot be used: {why.lower()}") from None
    if given.get("ssl_check_hostname", "").lower() == "false":
        context.check_hostname = False
    if given.get("ssl_cert_reqs", "").lower() == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
