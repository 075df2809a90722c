"""twinwire: publish once, and every screen has it, over Server-Sent Events or WebSocket.

The names below are found when they are first asked for: a command line that only publishes need not
wait for the server's part to be loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from twinwire.version import __version__

if TYPE_CHECKING:
    from twinwire.commands import Caller
    from twinwire.core.event import Event, Position
    from twinwire.core.feed import Mode
    from twinwire.core.grants import Grants
    from twinwire.embed import Hub
    from twinwire.errors import CommandError, Lost, TwinwireError
    from twinwire.settings import Settings

__all__ = [
    "Caller",
    "CommandError",
    "Event",
    "Grants",
    "Hub",
    "Lost",
    "Mode",
    "Position",
    "Settings",
    "TwinwireError",
    "__version__",
]

_HOMES = {
    "Caller": "commands",
    "CommandError": "errors",
    "Event": "core.event",
    "Grants": "core.grants",
    "Hub": "embed",
    "Lost": "errors",
    "Mode": "core.feed",
    "Position": "core.event",
    "Settings": "settings",
    "TwinwireError": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'twinwire' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"twinwire.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
