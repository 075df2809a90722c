"""Others' servers, to compare with: how each is started, asked for channels and published to.

A peer is measured in the same run as twinwire and the C servers, on the same core, by the same load
client. What cannot be installed here says so in its row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from bench import lib


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


PEERS: dict[str, Peer] = {}
"""By the name that --servers takes."""
