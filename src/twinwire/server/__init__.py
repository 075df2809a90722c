"""Our own server: uvicorn, with sinks that write straight to the socket."""

from twinwire.server.run import run

__all__ = ["run"]
