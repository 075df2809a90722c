"""Whether the stream on the server is still the log that this node knows; nothing but deciding.

1. The log's epoch is the last token of the stream's subject. The stream takes no other, so whoever
   writes under an older one is not heard.
2. A stream that lacks what a node knows has lost it, and the node renews it: a later epoch. So does
   one that finds an older epoch than it has known: an older state came back.
3. Whether a message is the known one is told by its time and its id, not by its number alone:
   others may have filled the numbers again by the time this node looks.
4. An epoch is later than any that the node has known, than what it found, and than the stream
   itself. The last is how a stream is found out that was made again with its old configuration.
5. A renewed log begins after the newest message that is known to have survived (`begins`). All
   nodes find this beside the epoch, and begin there.
6. What was noted under an earlier epoch is good as far as every later one has taken it over.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

_KEPT: Final = 16
"""Renewals that are remembered."""


class Renewal(NamedTuple):
    """An epoch, and the number of the last message that it has taken over."""

    epoch: int
    begins: int


class Found(NamedTuple):
    """The stream as it is on the server. Numbers are of messages."""

    epoch: int
    born: int
    """When the stream was made, in ms since 1970 by the server's clock."""

    first: int
    """The oldest message that is kept, or what will be the first."""

    last: int
    """The newest that there ever was."""

    renewals: tuple[Renewal, ...] = ()
    """The epochs that it has had, the oldest first."""

    @property
    def begins(self) -> int:
        """After which message the epoch began."""
        return self.renewals[-1].begins if self.renewals else 0


class Known(NamedTuple):
    """What this node knows: the newest message that it was told of or has stored."""

    epoch: int
    message: int
    time: int = 0
    """When that message was stored, in ns by the server's clock; 0 if only its id is known."""

    id: str = ""
    """The id under which this node has stored it; "" if it was told of it."""


class Stored(NamedTuple):
    """What tells a message that is in the stream from others."""

    time: int
    id: str


class Verdict(Enum):
    """What a node makes of the stream."""

    SAME = "same"
    """Go on after what is known."""

    TRIMMED = "trimmed"
    """The same log, but it begins later now: what is between was not seen here."""

    NEWER = "newer"
    """Another node has renewed it."""

    LOST = "lost"
    """It lacks what is known here, or is not what it says: renew it."""


def judge(found: Found, known: Known | None, there: Stored | None) -> Verdict:
    """What to make of the stream; `there` is the message at the number that is known, if any."""
    if found.epoch < found.born:
        return Verdict.LOST
    if known is None or found.epoch > known.epoch:
        return Verdict.NEWER
    if found.epoch < known.epoch or found.last < known.message:
        return Verdict.LOST
    if found.first <= known.message:
        return Verdict.SAME if there is not None and _is(known, there) else Verdict.LOST
    return Verdict.SAME if found.first == known.message + 1 else Verdict.TRIMMED


def _is(known: Known, there: Stored) -> bool:
    return there.id == known.id if known.id else there.time == known.time or not known.time


def renew(found: Found, known: Known | None, survived: int, now: int) -> tuple[Renewal, ...]:
    """The epochs of the stream with a new one at the end. `survived` is the newest message that is
    known not to be in place of another one; `now` is in ms since 1970."""
    before = (found.epoch, found.born, known.epoch if known else 0)
    renewal = Renewal(max(now, *(epoch + 1 for epoch in before)), min(survived, found.last))
    return (*found.renewals, renewal)[-_KEPT:]


def holds(renewals: tuple[Renewal, ...], epoch: int, message: int) -> bool:
    """Whether what was said of this message under that epoch is true of the log as it is now."""
    return all(message <= begins for later, begins in renewals if later > epoch)


def write(renewals: tuple[Renewal, ...]) -> str:
    """As the stream's metadata have it."""
    return " ".join(f"{epoch}:{begins}" for epoch, begins in renewals)


def read(text: str) -> tuple[Renewal, ...]:
    """What `write` has written; nothing if it is something else."""
    try:
        pairs = [pair.split(":") for pair in text.split()]
        return tuple(Renewal(int(epoch), int(begins)) for epoch, begins in pairs)
    except ValueError:
        return ()
