"""One connection to a server: commands out, replies in, in the order of the commands.

hiredis reads and writes the protocol. What is around it in the usual clients, pools and retries
above all, would have to be switched off here: what a broker repeats, and when, is its own affair.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

from hiredis import HiredisError, Reader, pack_command

from twinwire.brokers.redis.address import Host
from twinwire.errors import BrokerError

Argument = str | bytes | int

SILENT: Final = "it does not answer"


class Cut(BrokerError):
    """The connection is gone, or could not be made."""


class Foreign(Cut):
    """What is at the other end speaks another protocol."""


class Refused(BrokerError):
    """The server's answer is an error; `code` is its first word."""

    @property
    def code(self) -> str:
        return str(self).partition(" ")[0]

    @classmethod
    def of(cls, text: str) -> Refused:
        # Errors of scripts name the script, and the line in it.
        return cls(re.sub(r",? script: [0-9a-f]{40}.*", "", text, flags=re.DOTALL))


class Link(asyncio.Protocol):
    """A connection. Made by `reach`."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.why = ""
        """Why it is closed; empty while it is open."""
        self.closed = asyncio.get_running_loop().create_future()
        """Done when it is closed."""
        self.listen: Callable[[Any], None] | None = None
        """Gets what comes without having been asked for."""
        self.history = ""
        """Of the server, once it has been looked at; see `identity`."""
        self.worked = False
        """Whether it has served its purpose."""
        self.heard = 0.0
        """When something came last, or was asked for while nothing was awaited; the loop's time."""
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(protocolError=Foreign, replyError=Refused.of)
        self._asked: deque[Callable[[Any], None]] = deque()
        self._transport: asyncio.Transport

    def ask(self, command: tuple[Argument, ...], answered: Callable[[Any], None]) -> None:
        """Send a command; `answered` gets the reply, or the `Refused` or `Cut` in its place.

        It is called from the event loop, may send the next command, and must not raise.
        """
        if self.why:
            self._loop.call_soon(answered, Cut(self.why))
            return
        if not self._asked:
            self.heard = self._loop.time()
        self._asked.append(answered)
        self._transport.write(cast(bytes, pack_command(command)))  # type: ignore[arg-type]

    def send(self, *command: Argument) -> None:
        """Send a command whose reply goes to `listen`."""
        if not self.why:
            self._transport.write(cast(bytes, pack_command(command)))  # type: ignore[arg-type]

    async def call(self, *command: Argument) -> Any:
        """Send a command and wait for its reply. Raises `Refused` and `Cut`."""
        return await self.begin(*command)

    def begin(self, *command: Argument) -> asyncio.Future[Any]:
        """Send a command; the reply is to be waited for."""
        reply: asyncio.Future[Any] = self._loop.create_future()

        def answered(answer: Any) -> None:
            if reply.done():
                return  # nobody waits for it any more
            if isinstance(answer, BrokerError):
                reply.set_exception(answer)
                reply.exception()  # who has gone on without it need not hear of it
            else:
                reply.set_result(answer)

        self.ask(command, answered)
        return reply

    async def within(self, seconds: float, *command: Argument) -> Any:
        """`call`, but with `Cut`, and the connection closed, if the reply takes longer."""
        try:
            async with asyncio.timeout(seconds):
                return await self.begin(*command)
        except TimeoutError:
            self.close(SILENT)
            raise Cut(SILENT) from None

    def silent(self, now: float) -> float:
        """For how many seconds an answer has been awaited in vain."""
        return now - self.heard if self._asked else 0.0

    def close(self, why: str = "it was closed", kind: type[Cut] = Cut) -> None:
        """Close at once. What has been asked is answered by a `Cut`, of this `kind`."""
        if self.why:
            return
        self.why = why
        self._transport.abort()
        asked, self._asked = self._asked, deque()
        for answered in asked:
            answered(kind(why))
        self.closed.set_result(None)

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.why:
            return
        self.heard = self._loop.time()
        reader, asked = self._reader, self._asked
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                if self.listen is not None:
                    self.listen(reply)
                elif asked:
                    asked.popleft()(reply)
                else:
                    raise Foreign("it answers what was not asked")
                if self.closed.done():
                    return
        except (Foreign, HiredisError) as error:
            self.close(str(error), Foreign)

    def connection_lost(self, exc: Exception | None) -> None:
        self.close("it closed the connection" if exc is None else said(exc))


async def reach(host: Host, tls: ssl.SSLContext | None, patience: float) -> Link:
    """Connect, in `patience` seconds. Raises `Cut`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(patience):
            _, link = await loop.create_connection(
                lambda: Link(host),
                host.name,
                host.port,
                ssl=tls,
                server_hostname=host.name if tls else None,
            )
    except TimeoutError:
        raise Cut(SILENT) from None
    except OSError as error:
        raise Cut(said(error)) from None
    return link


def said(error: Exception) -> str:
    """What the system says, in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {(error.reason or str(error)).lower().replace('_', ' ')}"
    # asyncio joins what each of a host's addresses says.
    number = re.search(r"\[Errno ([0-9]+)\]", str(error)) if isinstance(error, OSError) else None
    if number is not None:
        return os.strerror(int(number[1])).lower()
    return str(getattr(error, "strerror", None) or error).lower()
