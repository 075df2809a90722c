"""Running the server: the socket, uvicorn around the application, and its end by signal.

Exit codes: 0 after Ctrl-C or SIGTERM. What the user can mend is raised as `BadSettings` before
anything is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import ipaddress
import logging
import resource
import signal
import socket
import ssl
import sys
from types import FrameType
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from twinwire.errors import BadSettings
from twinwire.hub import Hub
from twinwire.hubs import drain_all
from twinwire.server.accept import Acceptor
from twinwire.server.crowd import Gate
from twinwire.server.http import HttpProtocol
from twinwire.server.sinks import Surroundings
from twinwire.server.websocket import WebSocketSink
from twinwire.settings import Settings
from twinwire.web.app import build

_log = logging.getLogger("twinwire")

_GC_THRESHOLDS = (5_000, 5, 1_000)
"""Thousands of connections are thousands of long-lived objects: the default of 700 new ones
between collections would walk them again and again (a third of the time of a reconnect storm).
Not much more of the first either: each collection holds the loop, 20,000 objects for up to 12 ms.
"""

_SWITCH_SECONDS = 0.0005
"""How long a thread that wants the interpreter waits until the loop has to hand it over.

Less than a slice of the fan-out, or it hardly comes to its turn: with the default of 5 ms the
SQLite broker took 750 events/s in batches of 100 beside a loop that is busy all the time, with this
9,200.
"""

_GRACE = 1
"""Seconds that open requests have at the end, after their streams have been told."""


_WAITING = 65_535
"""Connections that wait to be accepted; the system cuts it down to its own limit."""


def run(settings: Settings, hub: Hub | None = None, app: ASGIApp | None = None) -> int:
    """Serve `hub` (by default one made from `settings`) until a signal; returns the exit code.

    `app` is served instead of the hub's own application, for one that has the hub mounted in it.
    Raises `BadSettings` for an address that is in use, cannot be had or must not be served openly.
    """
    _refuse_open(settings)
    tls = tls_context(settings)
    hub = hub or Hub(settings=settings)
    listener = listen(settings.host, settings.port)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    config = uvicorn.Config(
        _Application(settings, hub, app),
        http=HttpProtocol,
        # Never made by uvicorn: that there is one lets requests to upgrade through.
        ws=WebSocketSink,
        ws_max_size=settings.message_max_bytes,
        # Our own pings are the protocol's; and a shared frame must not be mixed with a stateful
        # compressor on one connection.
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        log_level="warning" if settings.log_level == "info" else settings.log_level,
        access_log=settings.access_log,
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
    )
    _raise_file_limit()
    gc.set_threshold(*_GC_THRESHOLDS)
    gc.freeze()
    sys.setswitchinterval(_SWITCH_SECONDS)
    with listener:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        _log.info("twinwire listens on http%s://%s:%d", "s" if tls else "", shown, port)
        server = _Server(config, tls, settings.header_timeout)
        server.run(sockets=[listener])
    return 0 if server.started else 1


class _Server(uvicorn.Server):
    """uvicorn's server, but the hubs drain first, and a signal ends it with success.

    SIGTERM drains over the time of each hub's settings; Ctrl-C, and any second signal, at once.
    """

    def __init__(
        self, config: uvicorn.Config, tls: ssl.SSLContext | None, tls_timeout: float
    ) -> None:
        """`tls_timeout` is the time in seconds for the handshake."""
        super().__init__(config)
        self._tls = tls
        self._tls_timeout = tls_timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        # With no sockets uvicorn starts everything but the accepting, which is ours.
        await super().startup(sockets=[])
        # The protocol classes find it in the state that uvicorn hands to them.
        self.lifespan.state["twinwire.surroundings"] = Surroundings(
            Gate(), cast(set[Any], self.server_state.connections)
        )
        acceptors = [
            Acceptor(listener, self._protocol, tls=self._tls, tls_timeout=self._tls_timeout)
            for listener in sockets or ()
        ]
        self.servers = cast(Any, acceptors)

    def _protocol(self) -> asyncio.Protocol:
        return HttpProtocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._end, sig == signal.SIGINT or bool(self._ending))

    def _end(self, at_once: bool) -> None:
        self._ending.add(asyncio.get_running_loop().create_task(self._drain(at_once)))

    async def _drain(self, at_once: bool) -> None:
        await drain_all(at_once=at_once)
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {sig: signal.signal(sig, self.handle_exit) for sig in signals}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


class _Application:
    """The application with the hub's life around it."""

    def __init__(self, settings: Settings, hub: Hub, app: ASGIApp | None) -> None:
        self._settings = settings
        self._hub = hub
        self._own = app is None
        self._app = app or build(hub)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return await self._app(scope, receive, send)
        # The protocol classes find them in the state that uvicorn hands to them.
        scope["state"]["twinwire.settings"] = self._settings
        if not self._own:
            return await self._app(scope, receive, send)
        await receive()
        try:
            await self._hub.start()
        except Exception as error:  # noqa: BLE001 (whatever it is, the user reads one line)
            _log.error("cannot start: %s", error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._hub.stop()
        await send({"type": "lifespan.shutdown.complete"})


def listen(host: str, port: int) -> socket.socket:
    """A socket listening on the address. Raises `BadSettings` with what is wrong with it."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise BadSettings(f"host {host!r} is not an address of this machine: {error}") from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # As many may wait as the system allows: a crowd is accepted in portions.
        listener.listen(_WAITING)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise BadSettings(
                f"port {port} on {host} is in use: end the program that has it, or choose another "
                "with --port"
            ) from None
        raise BadSettings(f"cannot listen on {host} port {port}: {error.strerror}") from None
    return listener


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """What connections are encrypted with, if they are. Raises `BadSettings`."""
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None:
        if key is not None:
            raise BadSettings("tls_key is set and tls_cert is not: it needs the certificate too")
        return None
    for name, file in (("tls_cert", cert), ("tls_key", key)):
        try:
            if file is not None:
                file.open("rb").close()
        except OSError as error:
            raise BadSettings(f"{name}: {file}: {(error.strerror or str(error)).lower()}") from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # Without a password to ask for, which would wait at a terminal that nobody looks at.
        context.load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        raise BadSettings(
            f"tls_cert and tls_key ({cert}, {key or cert}) are not a certificate and its private "
            f"key without a password, in PEM: {error.reason or error}"
        ) from None
    return context


def _raise_file_limit() -> None:
    """As many files as the system lets this process have: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _refuse_open(settings: Settings) -> None:
    if settings.api_key is not None or settings.insecure or _is_loopback(settings.host):
        return
    raise BadSettings(
        f"host {settings.host} can be reached from other machines, and without an API key anybody "
        "could publish: set api_key (TWINWIRE_API_KEY), or say --insecure"
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
