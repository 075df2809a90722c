"""Running the server: the socket, uvicorn around the application, and its end by signal.

The hub that it serves is started while it listens already: until that is done the application says
that it is warming. The hubs of somebody's own application are started by that.

Exit codes: 0 after Ctrl-C or SIGTERM, 1 if the hub cannot be started. What the user can mend is
raised as `BadSettings` before anything is served.
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
from typing import Any, Literal, cast

import uvicorn
from starlette.types import ASGIApp

from twinwire.errors import BadSettings
from twinwire.hub import Hub
from twinwire.hubs import all_shared, drain_all
from twinwire.server.accept import Acceptor
from twinwire.server.crowd import Gate
from twinwire.server.http import HttpProtocol
from twinwire.server.sinks import Surroundings
from twinwire.server.supervisor import supervise
from twinwire.server.websocket import WebSocketSink
from twinwire.server.worker import Order, Worker
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


_NOT_SHARED = (
    "workers need a log that all of them have, and with this broker (memory:// or sqlite://) each "
    "would have one of its own: set broker to redis://... or nats://... (--broker), or workers to 1"
)

_WAITING = 65_535
"""Connections that wait to be accepted; the system cuts it down to its own limit."""


def run(settings: Settings, hub: Hub | None = None, app: ASGIApp | None = None) -> int:
    """Serve `hub` (by default one made from `settings`) until a signal; returns the exit code.

    `app` is served instead of the hub's own application, for one that has the hub mounted in it,
    and starts it. Raises `BadSettings` for an address that is in use, cannot be had or must not be
    served openly, and for several workers with a log that they cannot share.
    """
    _refuse_open(settings)
    tls = tls_context(settings)
    if app is None:
        hub = hub or Hub(settings=settings)
        app = build(hub)
    else:
        hub = None
    worker = Worker.inherited()
    several = worker is not None or settings.workers > 1
    if several and not all_shared():
        raise BadSettings(_NOT_SHARED)
    process = "[%(process)d]" if several else ""
    listener = worker.listener if worker is not None else listen(settings.host, settings.port)
    logging.basicConfig(
        level=settings.log_level.upper(),
        format=f"%(asctime)s %(levelname)s %(name)s{process}: %(message)s",
    )
    with listener:
        if worker is None:
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            _log.info("twinwire listens on http%s://%s:%d", "s" if tls else "", shown, port)
            if several:
                return supervise(listener, settings.workers)
        server = _Server(app, settings, hub, tls, worker)
        _raise_file_limit()
        gc.set_threshold(*_GC_THRESHOLDS)
        gc.freeze()
        sys.setswitchinterval(_SWITCH_SECONDS)
        server.run(sockets=[listener])
    return 1 if server.failed else 0


class _Server(uvicorn.Server):
    """uvicorn's server, but the hubs drain first, and a signal ends it with success.

    SIGTERM drains over the time of each hub's settings; Ctrl-C, and any second signal, at once.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        hub: Hub | None,
        tls: ssl.SSLContext | None,
        worker: Worker | None,
    ) -> None:
        """Serves `app`, of which `hub` is to be started here."""
        super().__init__(_config(app, settings, lifespan="on" if hub is None else "off"))
        if settings.access_log:
            # uvicorn gives its own level to it, at which these lines are not logged.
            logging.getLogger("uvicorn.access").setLevel(logging.INFO)
        self.failed = False
        self._settings = settings
        self._hub = hub
        self._tls = tls
        self._worker = worker
        self._loop: asyncio.AbstractEventLoop | None = None
        self._warming: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        # With no sockets uvicorn starts everything but the accepting, which is ours.
        await super().startup(sockets=[])
        # The protocol classes find them in the state that uvicorn hands to them.
        self.lifespan.state["twinwire.settings"] = self._settings
        self.lifespan.state["twinwire.surroundings"] = Surroundings(
            Gate(), cast(set[Any], self.server_state.connections)
        )
        self._listeners = sockets or []
        if self._worker is not None:
            self._worker.obey(self._obey)
        if self._hub is None:
            return self._serves()
        self._warming = self._loop.create_task(self._warm(self._hub))
        if self._worker is None or self._worker.early:
            self._accept()

    async def _warm(self, hub: Hub) -> None:
        try:
            await hub.start()
        except Exception as error:  # noqa: BLE001 (whatever it is, the user reads one line)
            _log.error("cannot start: %s", error)
            self.failed = self.should_exit = True
        else:
            self._serves()

    def _serves(self) -> None:
        if not self.servers:
            self._accept()
        if self._worker is not None:
            self._worker.ready()

    def _accept(self) -> None:
        acceptors = [
            Acceptor(
                listener,
                self._protocol,
                tls=self._tls,
                tls_timeout=self._settings.header_timeout,
                connections=self.server_state.connections,
                shares=self._worker.shares if self._worker is not None else None,
            )
            for listener in self._listeners
        ]
        self.servers = cast(Any, acceptors)

    def _protocol(self) -> asyncio.Protocol:
        return HttpProtocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self._hub is not None and self._warming is not None:
            self._warming.cancel()
            await asyncio.wait((self._warming,))
            if self._hub.running:
                await self._hub.stop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._end, sig == signal.SIGINT or bool(self._ending))

    def _obey(self, order: Order) -> None:
        if order is Order.LEAVE:
            for acceptor in self.servers:
                acceptor.close()
        self._end(order is Order.END)

    def _end(self, at_once: bool) -> None:
        self._ending.add(asyncio.get_running_loop().create_task(self._drain(at_once)))

    async def _drain(self, at_once: bool) -> None:
        await drain_all(at_once=at_once)
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        if self._worker is not None:
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {sig: signal.signal(sig, self.handle_exit) for sig in signals}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


def _config(app: ASGIApp, settings: Settings, *, lifespan: Literal["on", "off"]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=HttpProtocol,
        # Never made by uvicorn: that there is one lets requests to upgrade through.
        ws=WebSocketSink,
        ws_max_size=settings.message_max_bytes,
        # Our own pings are the protocol's; and a shared frame must not be mixed with a stateful
        # compressor on one connection.
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        lifespan=lifespan,
        log_config=None,
        log_level="warning" if settings.log_level == "info" else settings.log_level,
        access_log=settings.access_log,
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
    )


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
