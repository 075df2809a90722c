"""The contract between the hub and the place where its log lives.

What every broker guarantees:

1. One order: all events of a hub, on every node, get positions in one sequence. `seq` counts up;
   where it leaves a number out, that is nobody's event.
2. Atomic: the new events of one `append` get rising positions in the order given with no other
   event between them, or none gets one.
3. Durable when `append` returns, as far as the broker's own page says.
4. Every event appended after `open` returned, by whomever, is delivered once, in order, or a new
   `begin` says that it will not be. A lost connection to the broker is taken up again where it
   broke, by the broker itself: a node misses nothing, and nobody has to notice.
5. No position ever stands for two events. Where the broker has lost events that it had
   acknowledged (a failover, a flush, a deleted file), what comes after them has a later epoch, on
   every node.
6. An append that cannot be done waits up to `Config.wait` and then raises. It may have been done
   all the same, when what was lost is the answer: whoever repeats it with the draft's
   `idempotency_key` gets one event.
7. The newest event of every key outlives retention (`Config.keep`), within `keys_max`.

The hub and its brokers share one event loop. What a `Tail` is told it takes at once: its methods
neither wait nor raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from twinwire.core.event import Draft, Event, Position, Selection
from twinwire.core.feed import Earlier
from twinwire.core.log import Retention


class Config(NamedTuple):
    """What a hub asks of its broker. Times are in seconds."""

    warm: Retention = Retention(100_000, 256 << 20)
    """How much of the newest events `open` delivers."""

    keep: Retention = Retention(1_000_000, 1 << 30)
    """How much the broker keeps; about: it may keep more, if not without bound."""

    keys_max: int = 1_000_000
    """Keys of all channels together whose newest events are kept apart; over it the ones longest
    without an event are forgotten."""

    wait: float = 10.0
    """How long `open` and `append` wait for a broker that cannot be reached."""

    idempotency_window: float = 300.0
    """How long an idempotency key is remembered, at least."""

    idempotency_keys: int = 100_000
    """How many are remembered at most, for brokers that have them in memory."""

    synchronous: str = "normal"
    """SQLite's `PRAGMA synchronous`: off, normal, full or extra."""


class Tail(Protocol):
    """What a broker tells its hub."""

    def begin(self, position: Position, latest: Sequence[Event]) -> None:
        """The log begins after `position`; of what lies before there is nothing but `latest`: the
        newest event of each key whose newest lies there, in order. (There may be some that events
        after `position` supersede.)

        The first thing that `open` tells. Told again when the log has a new epoch (rule 5), or when
        events were trimmed that this node had not got: whoever is not at `position` has a gap.
        """

    def deliver(self, events: Sequence[Event]) -> None:
        """The next events of the log."""

    def hear(self, notice: bytes) -> None:
        """What a node has told all of them; see `Broker.tell`."""


class Broker(Protocol):
    """A log's home. Made for one hub and opened once."""

    shared: bool
    """Whether several nodes may have it open at once."""

    async def open(self, tail: Tail) -> None:
        """Connect, tell `tail` where the log begins and what of it is to be warm (`Config.warm`),
        up to the head. From then on it is told what happens.

        Raises `BrokerError`, in words for the user: what cannot be reached or used, and what to do.
        """

    async def append(self, drafts: Sequence[Draft]) -> list[Position]:
        """Append the events and return their positions. Raises `BrokerError`.

        A draft whose `idempotency_key` was appended to its channel within the window is not
        appended again: its position is the one it has. Appends that wait at the same time may be
        stored together. The order of concurrent calls is that in which they are made.
        """

    async def read(self, selection: Selection, after: int, upto: int, limit: int) -> Earlier:
        """The selection's events after `after` up to and with `upto`, of the current epoch.

        At most about `limit` events are read to find them, the newest: what is older counts as
        gone. Raises `BrokerError`.
        """

    async def tell(self, notice: bytes) -> None:
        """Let every node hear `notice`, this one too. At most once, and not stored: who is cut off
        does not hear it. Raises `BrokerError`."""

    async def close(self) -> None:
        """Stop the tail and let go of the broker. What waits is done or fails. Twice is once.

        Also called after an `open` that has failed or was cancelled, of what there is by then.
        """
