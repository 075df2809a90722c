"""Whether the log that a server holds is still the one it was: decided here, without any I/O.

The log's epoch is noted beside it, with the *history* of the server that it is appended to: its
`master_replid`, which a server chooses anew whenever it starts, and whenever it is made a primary.
A script that appends looks at both in the same step, so nothing is appended under an epoch that
has not been looked at on this very server since. When the history is another one than noted, a
node decides:

1. Gone on: it is the noted history, and the log reaches everything that this node knows of.
2. Resumed: a server was started again that keeps an append-only file, and the log reaches
   everything that this node knows of. The epoch stays, but what is appended from now on gets
   numbers that no event can have had: those of the time that has passed. For another node may know
   of more. It sees in the log where it was resumed, and rule 3 is for that node to find.
3. Renewed: in every other case. A replica that was made a primary may lack what its primary had
   acknowledged; a snapshot does for certain. What follows has a later epoch.

So no position stands for two events, whoever decides and however little it knows. And where
acknowledged events were lost, every node that had heard of one of them renews the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from twinwire.core.event import Position


class Server(NamedTuple):
    """What a server says of itself."""

    run: str
    """Its process."""
    history: str
    former: str
    """The history that it had as a replica, or read from a snapshot; empty without any."""
    primary: bool
    appends: bool
    """Whether it keeps an append-only file."""

    @classmethod
    def of(cls, info: Mapping[str, str]) -> Server:
        """From the fields of `INFO`."""
        former = info.get("master_replid2", "")
        return cls(
            info.get("run_id", ""),
            info.get("master_replid", ""),
            former if former.strip("0") else "",
            info.get("role") == "master",
            info.get("aof_enabled") == "1",
        )


class Noted(NamedTuple):
    """What is noted beside the log."""

    epoch: int
    history: str


class Found(NamedTuple):
    """A server, and the log as it is there."""

    server: Server
    noted: Noted | None
    head: Position | None
    """The position of the newest entry there ever was; None if there is no log."""


class Outcome(Enum):
    """What has become of the log."""

    GONE_ON = "gone on"
    RESUMED = "resumed"
    RENEWED = "renewed"


class Verdict(NamedTuple):
    """What has become of the log, and why, in words for the operator."""

    outcome: Outcome
    why: str = ""


def judge(found: Found, known: Position | None) -> Verdict:
    """See above. `known` is the newest position that this node knows of; None if it knows none."""
    server, noted, head = found
    renewed = Outcome.RENEWED
    if noted is None or head is None:
        return Verdict(renewed, "there was none" if known is None else "it was deleted")
    if head.epoch != noted.epoch:
        return Verdict(renewed, "somebody else has written to it")
    if known is not None and known > head:
        return Verdict(renewed, f"it has lost the events from {head} to {known}")
    if server.history == noted.history:
        return Verdict(Outcome.GONE_ON)
    if server.former:
        return Verdict(renewed, "a replica was made the primary, and may lack what was published")
    if not server.appends:
        return Verdict(
            renewed, "the server was started again without an append-only file (appendonly yes)"
        )
    return Verdict(Outcome.RESUMED, "the server was started again")


def least_epoch(found: Found, known: Position | None) -> int:
    """The first epoch that is later than all that is known of, in ms; 0 if nothing is."""
    epochs = [found.noted.epoch] if found.noted else []
    epochs += [position.epoch for position in (found.head, known) if position is not None]
    return max(epochs, default=-1) + 1
