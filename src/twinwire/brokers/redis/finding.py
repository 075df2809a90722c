"""From an address to a connection that can be used: sentinels, redirections, login, and errors in
words for whoever runs it."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Final

from twinwire.brokers.redis.address import Address, Host
from twinwire.brokers.redis.link import Cut, Foreign, Link, Refused, reach
from twinwire.brokers.redis.scripts import APPEND, LOOK, Keys, info_of
from twinwire.errors import BrokerError

PATIENCE: Final = 5.0
"""Seconds after which a server that does not answer is given up for another connection."""

_BACKOFF_MOST: Final = 2.0
"""Seconds between attempts to connect, at most, give or take half."""

_DENIED_IN_SCRIPT: Final = re.compile("ERR (ACL failure in|The user executing the) script")
_HOPS: Final = 5
_VERSION: Final = 7


def delays() -> Iterator[float]:
    """How long to wait before each next attempt to connect, in seconds."""
    delay = 0.02
    while True:
        yield delay * (0.5 + random.random())
        delay = min(2 * delay, _BACKOFF_MOST)


class Explained(BrokerError):
    """In words for whoever runs it."""


class Unusable(Explained):
    """And waiting would not help."""


class Finder:
    """Makes connections to where an address leads."""

    def __init__(self, address: Address, keys: Keys) -> None:
        self.address = address
        self._keys = keys
        self._sentinels = list(address.hosts)

    async def primary(self) -> Host:
        """Where the log is now. Raises `BrokerError`."""
        address = self.address
        if not address.service:
            return address.hosts[0]
        why = ""
        for sentinel in list(self._sentinels):
            try:
                host = await self._asked(sentinel)
            except BrokerError as error:
                why = why or f"{sentinel}: {error}"
                continue
            if host is None:
                raise Unusable(
                    f"{address}: the sentinel {sentinel} knows no service {address.service!r}"
                )
            # The next time it is asked first.
            self._sentinels.remove(sentinel)
            self._sentinels.insert(0, sentinel)
            return host
        raise Explained(f"{address}: no sentinel can be asked ({why})")

    async def _asked(self, sentinel: Host) -> Host | None:
        address = self.address
        link = await reach(sentinel, address.tls, PATIENCE)
        try:
            await _login(link, address.sentinel_user, address.sentinel_password)
            found = await link.within(
                PATIENCE, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service
            )
        finally:
            link.close()
        return found and Host(found[0].decode(), int(found[1]))

    async def connect(self, to: Host | None = None) -> Link:
        """A connection to the primary, or `to` it, logged in, with the scripts it needs.

        Raises `BrokerError`, in words for the user, and `Unusable` if trying again is of no use.
        """
        host = to or await self.primary()
        for _ in range(_HOPS):
            link: Link | None = None
            try:
                link = await reach(host, self.address.tls, PATIENCE)
                moved = await self._prepare(link)
            except BrokerError as error:
                if link is not None:
                    link.close()
                raise self.explained(error, host) from None
            except BaseException:
                if link is not None:
                    link.close()
                raise
            if moved is None:
                return link
            link.close()
            host = moved
        raise Explained(f"{self.address}: the nodes of the cluster send each to the other")

    async def _prepare(self, link: Link) -> Host | None:
        address = self.address
        await _login(link, address.user, address.password)
        if address.database:
            await link.within(PATIENCE, "SELECT", address.database)
        info = info_of(await link.within(PATIENCE, "INFO", "server"))
        version = info.get("redis_version", "")
        if not version:
            raise Foreign("it says no version")
        if int(version.partition(".")[0]) < _VERSION:
            raise Unusable(
                f"{_at(address, link.host)} is version {version}: Redis 7, Valkey 7.2 or newer "
                "is needed"
            )
        try:
            await link.within(PATIENCE, "SCRIPT", "LOAD", APPEND)
            await link.within(PATIENCE, "EVAL", LOOK, 2, self._keys.meta, self._keys.log)
        except Refused as error:
            if error.code == "MOVED":
                name, _, port = str(error).split()[2].rpartition(":")
                return Host(name.strip("[]") or link.host.name, int(port))
            raise
        return None

    def explained(self, error: BrokerError, host: Host | None = None) -> Explained:
        """The same in words for whoever runs it; `Unusable` if it will not change by itself."""
        if isinstance(error, Explained):
            return error
        at = _at(self.address, host or self.address.hosts[0])
        if isinstance(error, Foreign):
            return Unusable(f"{at} is no Redis or Valkey, or wants TLS ({error})")
        if isinstance(error, Cut):
            return Explained(f"{at} cannot be used: {error}")
        if not isinstance(error, Refused):
            return Explained(str(error))
        text = str(error)
        if error.code == "NOPERM" or _DENIED_IN_SCRIPT.match(text):
            what = re.search(r"'([\w|]+)' command", text)
            detail = f"the command {what[1]}" if what else "what is needed"
            return Unusable(
                f"{at} does not permit {detail}: what the user needs is in docs/operations.md"
            )
        if error.code == "WRONGPASS" or "AUTH" in text:
            return Unusable(
                f"{at} refuses the login: check the user and the password in the broker's URL"
            )
        if "DB index" in text or "SELECT is not allowed" in text:
            return Unusable(
                f"{at} has no database {self.address.database} (a cluster has only the first): "
                "change the number in the broker's URL"
            )
        if error.code == "WRONGTYPE":
            return Unusable(
                f"{at} has something else under {self._keys.prefix}…: choose another ?hub=NAME"
            )
        if error.code == "READONLY":
            return Explained(f"{at} cannot be used: it is a replica")
        if error.code == "OOM":
            return Explained(f"{at} is out of memory: raise its maxmemory, or keep fewer events")
        if error.code == "NOREPLICAS":
            return Explained(f"{at} has too few replicas for its min-replicas-to-write")
        return Explained(f"{at} refuses: {text}")


async def _login(link: Link, user: str, password: str) -> None:
    if password or user:
        await link.within(PATIENCE, "AUTH", *([user] if user else []), password)


def _at(address: Address, host: Host) -> str:
    if address.service:
        return f"{address} at {host}"
    return f"{address.scheme}://{host}"
