"""One connection to a server, for as long as it lasts.

nats-py would connect again by itself, and send once more what it has in its buffer: whether that
was sent before it does not know, so events would come twice or in another order. Here a connection
that breaks is over (`Link.over`), and what follows is decided by who knows what was done.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any, Final

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from twinwire.brokers.nats.address import Address
from twinwire.errors import BrokerError

_PING: Final = 5
_CLOSING: Final = 1.0
"""Seconds that a connection has to close in order."""

_OLDEST: Final = (2, 12, 1)
"""The first server that stores several messages, some with ids, together or not at all."""


class Gone(BrokerError):
    """The connection is over, or nobody has answered: worth another try on another one."""


class ApiError(BrokerError):
    """What JetStream answers instead of a result; `code` is its own."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = text
        super().__init__(f"nats: {text} ({code})")


class _Client(Client):
    """nats-py's client, without what it does when its connection breaks."""

    def __init__(self, tls: bool, broken: Callable[[str], None]) -> None:
        super().__init__()
        self._tls = tls
        self._broken = broken

    def _connect_command(self) -> bytes:
        # Asked for what to log in with: the last moment to find out that everybody could read it.
        if self._tls and not self._server_info.get("tls_required"):
            raise nats.errors.Error("it offers no TLS, and the URL asks for it")
        return super()._connect_command()

    async def _process_op_err(self, e: Exception) -> None:
        # It would write what waits to the broken connection, and stumble over that.
        self._broken(str(e).removeprefix("nats: ") or type(e).__name__)

    def abort(self) -> None:
        """Let go of the socket at once. nats-py knows no way for a server that does not read."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    @property
    def info(self) -> dict[str, Any]:
        """What the server says of itself."""
        return self._server_info


class Link:
    """See above. `over` is done when it is, and says why."""

    def __init__(self, server: str, tls: bool, patience: float) -> None:
        self.server = server
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._patience = patience
        self._client = _Client(tls, self.end)
        self._closing: asyncio.Task[None] | None = None
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._tokens = count()
        self._inbox = ""
        self._denied = ""
        self._trouble: Exception | None = None

    # Beginning and end

    @classmethod
    async def open(cls, address: Address, server: str, patience: float) -> Link:
        """Connect and log in. `patience` is how many seconds a server has to answer.

        Raises `Gone`, or `BrokerError` where trying again would not help.
        """
        context = None
        if address.tls or address.ca is not None:
            try:
                context = ssl.create_default_context(cafile=address.ca)
            except (OSError, ssl.SSLError) as error:
                raise BrokerError(f"nats: {address.ca} cannot be read: {error}") from None
        if address.credentials is not None:
            _check_credentials(address.credentials)
        link = cls(server, address.tls, patience)
        try:
            async with asyncio.timeout(patience):
                await link._client.connect(
                    [f"nats://{server}"],
                    name=f"twinwire {address.hub}",
                    error_cb=link._failed,
                    closed_cb=link._closed,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=max(1, int(patience)),
                    ping_interval=_PING,
                    tls=context,
                    user=address.user or None,
                    password=address.password if address.user else None,
                    token=address.token or None,
                    user_credentials=(
                        None if address.credentials is None else str(address.credentials)
                    ),
                )
                link._inbox = link._client.new_inbox()
                await link._client.subscribe(f"{link._inbox}.*", cb=link._answered)
            link._check()
        except BrokerError:
            link.end("refused")
            raise
        except Exception as error:  # noqa: BLE001 (nats-py lets through what is raised below it)
            link.end("could not connect")
            raise link._refusal(error) from None
        except BaseException:
            link.end("given up")
            raise
        return link

    def _check(self) -> None:
        version = str(self._client.info.get("version", "0"))
        numbers = tuple(int(n) for n in version.split("-")[0].split(".")[:3] if n.isdigit())
        if numbers < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            raise BrokerError(
                f"nats: {self.server} is nats-server {version}, and {oldest} or newer is needed"
            )

    def _refusal(self, error: Exception) -> BrokerError:
        if isinstance(error, TimeoutError | nats.errors.TimeoutError):
            return Gone(f"nats: {self.server} does not answer")
        if isinstance(error, nats.errors.NoServersError) and self._trouble is not None:
            error = self._trouble
        text = (str(error) or type(error).__name__).removeprefix("nats: ").strip("'")
        lower = text.lower()
        if isinstance(error, ssl.SSLError) or "no tls" in lower:
            return BrokerError(f"nats: no secure connection to {self.server}: {text}")
        if isinstance(error, ImportError):
            return BrokerError(
                "nats: credentials need the package nkeys: pip install 'twinwire[nats]'"
            )
        if type(error).__module__.startswith(("nkeys", "binascii")):
            return BrokerError("nats: the credentials file has no valid key in it")
        if "authorization" in lower or "authentication" in lower or "credential" in lower:
            return BrokerError(
                f"nats: {self.server} refuses the login: check user, password, token or "
                "credentials in the URL"
            )
        return Gone(f"nats: {self.server} cannot be reached: {text}")

    def end(self, why: str) -> None:
        """The connection is over. Twice is once."""
        if self.over.done():
            return
        self.over.set_result(why)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self._gone())
        self._closing = asyncio.create_task(self._close())

    async def closed(self) -> None:
        """Wait until a link that is over has let go of its socket."""
        if self._closing is not None:
            await asyncio.wait((self._closing,))

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(_CLOSING):
                await self._client.close()
        except Exception:  # noqa: BLE001 (it is over, in whatever state it was)
            pass
        finally:
            self._client.abort()

    def _gone(self) -> Gone:
        return Gone(f"nats: the connection to {self.server} is over: {self.over.result()}")

    async def _failed(self, error: Exception) -> None:
        text = str(error)
        if "permissions violation" in text:
            self._denied = text.removeprefix("nats: ")
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(self._may_not())
        elif isinstance(error, nats.errors.SlowConsumerError):
            self.end("more has come than could be taken")
        else:
            self._trouble = error

    async def _closed(self) -> None:
        self.end("closed by the server")

    def _may_not(self) -> BrokerError:
        return BrokerError(
            f"nats: {self._denied}; docs/operations.md lists the permissions that are needed"
        )

    # What servers are, and may

    @property
    def max_payload(self) -> int:
        """How many bytes a message may have, headers included."""
        return self._client.max_payload

    @property
    def others(self) -> list[str]:
        """The servers that this one has told of, as `host:port`."""
        return [uri.netloc.rpartition("@")[2] for uri in self._client.discovered_servers]

    # Messages

    async def publish(
        self, subject: str, data: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        """Send, and wait for nothing. Raises `Gone`."""
        await self._send(subject, data, "", headers)

    async def publish_for(self, subject: str, data: bytes, reply: str) -> None:
        """Send, and have the answers sent to `reply`. Raises `Gone`."""
        await self._send(subject, data, reply, None)

    async def _send(
        self, subject: str, data: bytes, reply: str, headers: dict[str, str] | None
    ) -> None:
        if self.over.done():
            raise self._gone()
        try:
            await self._client.publish(subject, data, reply, headers)
        except nats.errors.MaxPayloadError:
            raise BrokerError(
                f"nats: {len(data)} bytes are more than the server takes ({self.max_payload}, "
                "max_payload)"
            ) from None
        except (OSError, nats.errors.Error) as error:
            raise Gone(f"nats: {error}") from None

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        headers: dict[str, str] | None = None,
        before: Awaitable[None] | None = None,
    ) -> Msg:
        """Send and wait for the answer; `before` is awaited first, within the same patience.

        Raises `Gone`, also if nobody listens, and `BrokerError` without permission.
        """
        loop = asyncio.get_running_loop()
        token = str(next(self._tokens))
        future: asyncio.Future[Msg] = loop.create_future()
        self._waiting[token] = future
        # nats-py swallows being cancelled while it waits for room to write, so there is a second
        # way for the time to be over.
        timer = loop.call_later(self._patience, self._expire, future)
        try:
            async with asyncio.timeout(self._patience):
                if before is not None:
                    await before
                await self._send(subject, data, f"{self._inbox}.{token}", headers)
                answer = await future
        except TimeoutError:
            raise Gone(f"nats: {self.server} does not answer") from None
        finally:
            timer.cancel()
            del self._waiting[token]
            if not future.cancel() and not future.cancelled():
                future.exception()  # seen, also where something else was faster
        if answer.headers and answer.headers.get("Status") == "503":
            raise Gone(f"nats: nobody listens on {subject}")
        return answer

    @staticmethod
    def _expire(future: asyncio.Future[Msg]) -> None:
        if not future.done():
            future.set_exception(TimeoutError())

    async def _answered(self, msg: Msg) -> None:
        future = self._waiting.get(msg.subject[len(self._inbox) + 1 :])
        if future is not None and not future.done():
            future.set_result(msg)

    async def api(self, call: str, body: object = None) -> dict[str, Any]:
        """Ask JetStream. Raises `ApiError`, `Gone` and `BrokerError`."""
        data = b"" if body is None else msgspec.json.encode(body)
        try:
            msg = await self.request(f"$JS.API.{call}", data)
        except Gone as error:
            if "nobody listens" in str(error):
                raise Gone(
                    f"nats: no JetStream at {self.server}: is it enabled (nats-server -js)?"
                ) from None
            raise
        answer: dict[str, Any] = msgspec.json.decode(msg.data)
        if "error" in answer:
            raise refused(answer)
        return answer

    async def subscribe(
        self, subject: str, heard: Callable[[Msg], Awaitable[None]]
    ) -> Callable[[], Awaitable[None]]:
        """Have `heard` called with what comes; nothing is thrown away, however much that is.

        Returns what ends it. Raises `Gone`.
        """
        if self.over.done():
            raise self._gone()
        try:
            # 0 is no limit: what is not taken yet is bounded by flow control, and what was dropped
            # here nobody would know of.
            sub = await self._client.subscribe(
                subject, cb=heard, pending_msgs_limit=0, pending_bytes_limit=0
            )
        except nats.errors.Error as error:
            raise Gone(f"nats: {error}") from None

        async def unsubscribe() -> None:
            with contextlib.suppress(nats.errors.Error, OSError):
                await sub.unsubscribe()

        return unsubscribe

    def new_inbox(self) -> str:
        """A subject that nobody else has."""
        return self._client.new_inbox()


def _check_credentials(path: Path) -> None:
    """Raises `BrokerError` for a file that nats-py would read for ever."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BrokerError(f"nats: {path} cannot be read: {error}") from None
    if b"BEGIN NATS USER JWT" not in text or b"BEGIN USER NKEY SEED" not in text:
        raise BrokerError(f"nats: {path} is no credentials file: it has no user JWT and NKey seed")


_PASSING: Final = {10004, 10005, 10008, 10009}
"""JetStream's codes for a cluster that is not ready, or has no room, at the moment."""

_DISABLED: Final = {10039, 10076}


def refused(answer: dict[str, Any]) -> BrokerError:
    """The error in an answer of JetStream's: `ApiError`, or `Gone` if it may pass."""
    error = answer["error"]
    code = int(error.get("err_code", error.get("code", 0)))
    text = str(error.get("description", "refused"))
    if code in _PASSING:
        return Gone(f"nats: {text}")
    if code in _DISABLED:
        return BrokerError(f"nats: {text}: enable it on the server (-js) and for this account")
    return ApiError(code, text)
