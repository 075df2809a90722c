"""twinwire: publish once, and every screen has it, over Server-Sent Events or WebSocket."""

from twinwire.commands import Caller
from twinwire.core.event import Event, Position
from twinwire.core.feed import Mode
from twinwire.embed import Hub
from twinwire.errors import CommandError, Lost, TwinwireError
from twinwire.settings import Settings
from twinwire.version import __version__

__all__ = [
    "Caller",
    "CommandError",
    "Event",
    "Hub",
    "Lost",
    "Mode",
    "Position",
    "Settings",
    "TwinwireError",
    "__version__",
]
