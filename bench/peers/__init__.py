"""Others' servers, to compare with: how each is started, asked for channels and published to.

A peer is measured in the same run as twinwire and the C servers, on the same core, by the same load
client. What cannot be installed here says so in its row.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import urllib.parse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from bench import lib
from bench.peers import centrifugo, mercure, nchan, pushpin, support


@dataclasses.dataclass(frozen=True)
class Peer:
    """A server that can be measured; twinwire and the C servers are described like this, too."""

    name: str
    """With its version, as it stands in tables: "nchan 1.3.6"."""

    wires: tuple[str, ...]
    """Of "sse" and "ws"."""

    serve: Callable[[], AbstractContextManager[lib.Process]]
    """Up on a free port, on the server's core; ended when the block is left."""

    target: Callable[[str, Sequence[str]], str]
    """(wire, channels) -> a line for the load client's --targets."""

    publish: tuple[str, ...] = ()
    """The load client's publishing options: --publish-target …, --publish-format …"""

    missing: Callable[[], str] = lambda: ""
    """Why it cannot run here, in one sentence; "" if it can."""


_AT_HEAD = ("--live-at", "head")
"""Most send nothing before the first event."""


def _target(wire: str, channels: Sequence[str]) -> str:
    return f"/{wire}?{support.query(channels)}"


def _socketio_target(wire: str, channels: Sequence[str]) -> str:
    """40 is Socket.IO's connect."""
    return f"/socket.io/?EIO=4&transport=websocket&{support.query(channels)}\t40"


def _centrifuge_target(wire: str, channels: Sequence[str]) -> str:
    """Over SSE the connect command is in the query, and the server subscribes."""
    if wire == "ws":
        return lib.target(wire, channels)
    command = json.dumps({"id": 1, "connect": {"data": {"channels": list(channels)}}})
    return f"/sse?cf_connect={urllib.parse.quote(command)}&{support.query(channels)}"


def _python(package: str, module: str, wire: str, *publish: str, label: str = "") -> Peer:
    """A server of ours on a Python library."""

    def serve() -> AbstractContextManager[lib.Process]:
        argv = (str(support.python()), "-m", f"bench.peers.{module}", "{port}")
        return lib.serving(lib.Server(package, argv))

    name = f"{label or package} {support.python_version(package)}".strip()
    return Peer(name, (wire,), serve, _target, (*_AT_HEAD, *publish), support.python_missing)


def _configured(name: str) -> Callable[[], AbstractContextManager[lib.Process]]:
    """What __main__.py writes a configuration for."""
    argv = (sys.executable, "-m", "bench.peers", name, "{port}")
    return lambda: lib.serving(lib.Server(name, argv))


def _node(script: str) -> AbstractContextManager[lib.Process]:
    return lib.serving(lib.Server(script, (*support.node(script), "{port}")))


def _go(name: str) -> AbstractContextManager[lib.Process]:
    return lib.serving(lib.Server(name, (str(support.go(name)), "{port}")))


PEERS: dict[str, Peer] = {
    "nchan": Peer(
        name=f"nchan {support.debian_version('libnginx-mod-nchan')}".strip(),
        wires=("sse", "ws"),
        serve=_configured("nchan"),
        target=nchan.target,
        publish=(*_AT_HEAD, *nchan.PUBLISH),
        missing=nchan.missing,
    ),
    "pushpin": Peer(
        name=f"Pushpin {support.debian_version('pushpin')}".strip(),
        wires=("sse", "ws"),
        serve=_configured("pushpin"),
        target=_target,
        publish=(*_AT_HEAD, *pushpin.PUBLISH),
        missing=pushpin.missing,
    ),
    "sse-starlette": _python("sse-starlette", "sse_starlette", "sse"),
    "starlette": _python("starlette", "starlette_ws", "ws", label="Starlette WebSocket"),
    "websockets": _python("websockets", "websockets_broadcast", "ws", *support.BESIDE),
    "picows": _python("picows", "picows_server", "ws", *support.BESIDE),
    "python-socketio": dataclasses.replace(
        _python("python-socketio", "socketio_py", "ws"), target=_socketio_target
    ),
    "uwebsockets": _python(
        "socketify", "uwebsockets", "ws", *support.BESIDE, label="uWebSockets in socketify"
    ),
    "socket.io": Peer(
        name=f"Socket.IO {support.node_version('socket.io')}",
        wires=("ws",),
        serve=lambda: _node("socketio.mjs"),
        target=_socketio_target,
        missing=support.node_missing,
    ),
    "centrifuge": Peer(
        name=f"centrifuge {support.go_version('centrifuge', 'github.com/centrifugal/centrifuge')}",
        wires=("sse", "ws"),
        serve=lambda: _go("centrifuge"),
        target=_centrifuge_target,
        missing=support.go_missing,
    ),
    "centrifugo": Peer(
        name="Centrifugo",
        wires=("sse", "ws"),
        serve=_configured("centrifugo"),
        target=centrifugo.target,
        publish=centrifugo.PUBLISH,
        missing=centrifugo.missing,
    ),
    "mercure": Peer(
        name="Mercure",
        wires=("sse",),
        serve=_configured("mercure"),
        target=mercure.target,
        publish=mercure.PUBLISH,
        missing=mercure.missing,
    ),
}
"""By the name that --servers takes."""
