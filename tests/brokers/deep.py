"""A broker in memory that forgets nothing, and whose log can be begun anew."""

from collections.abc import Sequence

from twinwire.brokers.base import Tail
from twinwire.brokers.memory import MemoryBroker
from twinwire.core.event import Event, Position, Selection
from twinwire.core.feed import Earlier


class DeepBroker(MemoryBroker):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.reads: list[tuple[int, int, int]] = []
        self._hub: Tail | None = None

    async def open(self, tail: Tail) -> None:
        self._hub = tail
        await super().open(self)

    def begin(self, position: Position, latest: Sequence[Event]) -> None:
        assert self._hub is not None
        self._hub.begin(position, latest)

    def deliver(self, events: Sequence[Event]) -> None:
        assert self._hub is not None
        self.events += events
        self._hub.deliver(events)

    def hear(self, notice: bytes) -> None:
        assert self._hub is not None
        self._hub.hear(notice)

    async def read(self, selection: Selection, after: int, upto: int, limit: int) -> Earlier:
        self.reads.append((after, upto, limit))
        found = [
            event
            for event in self.events
            if after < event.seq <= upto and any(selection.matching(event.channel))
        ]
        begin = found[-limit - 1].seq if len(found) > limit else after
        return Earlier(begin, found[-limit:], upto)

    def restart(self, latest: Sequence[Event] = (), *, skip: int = 0) -> Position:
        """Events were lost: a new epoch; or with `skip` so many that this node did not get."""
        epoch, seq = self._position
        self._position = Position(epoch, seq + skip) if skip else Position(epoch + 1, 0)
        self.begin(self._position, latest)
        return self._position
