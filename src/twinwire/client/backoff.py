"""How long to wait before the next connection.

1. The delay doubles with each failure from `base` to `most`, times a random factor between a half
   and one and a half, so that the clients of a lost server do not come back together.
2. A connection counts as a success once it has brought something, or has lasted for `steady`
   seconds. One that is accepted and closed again at once is a failure: a server that is overloaded
   does just that.
3. When the server says how long to wait, it is that, or the delay of rule 1 if that is longer and
   this is not the first failure.
"""

from __future__ import annotations

from typing import Final

_ASKED_MOST: Final = 300.0
"""Seconds that a server can make a client wait, at most."""


class Backoff:
    """The delays of one client, in seconds. `now` is any clock that does not go back."""

    def __init__(self, base: float = 0.5, most: float = 20.0, steady: float = 5.0) -> None:
        self.base = base
        self.most = most
        self.steady = steady
        self.failures = 0
        self._since: float | None = None

    def connected(self, now: float) -> None:
        """A connection has been accepted."""
        self._since = now

    def worked(self) -> None:
        """The connection has brought something."""
        self.failures = 0

    def lost(self, now: float, dice: float, asked: float | None = None) -> float:
        """The delay after a connection was lost or could not be made.

        `dice` is a random number from 0 up to 1, `asked` what the server asks for.
        """
        if self._since is not None and now - self._since >= self.steady:
            self.failures = 0
        self._since = None
        # The exponent is bounded too: 2.0**1100 is an OverflowError.
        delay = min(self.most, self.base * 2.0 ** min(self.failures, 30)) * (0.5 + dice)
        self.failures += 1
        if asked is None:
            return delay
        asked = min(max(asked, 0.0), _ASKED_MOST)
        return asked if self.failures == 1 else max(asked, delay)
