"""The log: the retained events in the order of their positions, read from any of them.

1. Events are appended in the order of their `seq`. A hole between two is nobody's event.
2. What is evicted leaves from the old end: of the whole log by `retention`, of one channel by the
   first rule whose pattern matches it. Each channel knows the newest event it has lost; a reader
   at an older position has a gap there.
3. Every channel keeps the newest event of each key apart from retention, so that `read_latest` can
   bring any position up to date.
4. Reading visits at most a fixed multiple of what it returns: it scans the ring of all events
   while enough of them are the reader's own, and goes on by the channels' own lists, merged. A
   reader of a quiet channel does not pay for the firehose beside it.
5. A channel that is forgotten (there is a bound on how many are known) raises `floor`: whoever asks
   for an unknown channel from below the floor has a gap, since nothing is known of that time.

The log has no clock: events carry their time, and `expire` is told what time it is.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

from twinwire.core.event import Event, Pattern, Position, Selection, is_pattern, pattern

_SEQ: Final = attrgetter("seq")

_GONE: Final = Event("", b"", 0, 0, 0)
"""Stands where an evicted event was, in the part of a list that is about to be cut off."""

OVERHEAD: Final = 64
"""Bytes that a read counts for each event besides its data: about what a wire writes around it."""

_SCAN: Final = 8
"""Others' events that a scan of the ring may visit for each event or channel of the reader's."""

_PATTERNS_KEPT: Final = 1024
"""Patterns whose channels are kept listed, at most; a further one is listed anew when asked for."""


class Retention(NamedTuple):
    """How much is kept: events, bytes of their data, age in ms; 0 is no limit."""

    events: int = 0
    bytes: int = 0
    age: int = 0


class Stretch(NamedTuple):
    """Events read, in order, and the `seq` that the reader has reached with them."""

    events: list[Event]
    reached: int


class _Channel:
    """One channel: its events (`first` and on in the list), what it has lost, its newest by key."""

    __slots__ = ("bytes", "events", "evicted", "first", "keys_lost", "latest", "name", "retention")

    def __init__(self, name: str, evicted: int, retention: Retention | None) -> None:
        self.name = name
        self.events: list[Event] = []
        self.first = 0
        self.bytes = 0
        self.evicted = evicted
        self.keys_lost = evicted
        self.latest: dict[str | None, Event] = {}
        self.retention = retention

    @property
    def count(self) -> int:
        # Not `__len__`: a known channel that retains nothing must not pass for an unknown one.
        return len(self.events) - self.first

    def after(self, seq: int) -> int:
        """The index of the first event after `seq`."""
        return bisect_right(self.events, seq, lo=self.first, key=_SEQ)

    def pop(self) -> Event:
        """Evict the oldest event and return it."""
        event = self.events[self.first]
        self.events[self.first] = _GONE
        self.first += 1
        self.bytes -= len(event.data)
        self.evicted = event.seq
        if self.first * 2 > len(self.events) + 16:
            del self.events[: self.first]
            self.first = 0
        return event


class Log:
    """The retained events of one hub. Sizes are in bytes of event data."""

    def __init__(
        self,
        epoch: int,
        *,
        after: int = 0,
        retention: Retention = Retention(),  # noqa: B008 (an immutable tuple)
        rules: Sequence[tuple[Pattern, Retention]] = (),
        channels_max: int = 100_000,
        keys_max: int = 10_000,
    ) -> None:
        """An empty log that begins after the position `(epoch, after)`.

        `channels_max` bounds the channels known: over it those longest without an event are
        forgotten. `keys_max` bounds the keys of one channel: over it the one longest without an
        event is forgotten, which is a gap for readers of `latest` from before that event.
        """
        self.retention = retention
        self.rules = rules
        self.channels_max = channels_max
        self.keys_max = keys_max
        self.restart(epoch, after)

    def restart(self, epoch: int, after: int) -> None:
        """Forget everything: an empty log that begins after `(epoch, after)`."""
        self.epoch = epoch
        self.head = after
        self.floor = after
        self.bytes = 0
        # Those longest without an event come first.
        self._channels: OrderedDict[str, _Channel] = OrderedDict()
        self._ring: list[Event] = []
        self._first = 0
        # Evicted by a channel's own rule, but still in the ring: rule 2 takes them out of the
        # channel at once and out of the ring now and then, which costs O(1) an event.
        self._dead = 0
        self._dead_bytes = 0
        self._aging: dict[str, _Channel] = {}
        self._matching: dict[str, dict[str, _Channel]] = {}

    def __len__(self) -> int:
        """How many events are retained."""
        return len(self._ring) - self._first - self._dead

    @property
    def position(self) -> Position:
        """The position of the newest event, or of the log's beginning."""
        return Position(self.epoch, self.head)

    def append(self, event: Event) -> None:
        """Add the next event; its `seq` is after the head's."""
        assert event.seq > self.head
        channel = self._channels.get(event.channel)
        if channel is None:
            channel = self._open(event.channel)
        else:
            self._channels.move_to_end(event.channel)
        channel.events.append(event)
        latest = channel.latest
        # Taken out first so that the dict stays in the order of the events.
        latest.pop(event.key, None)
        latest[event.key] = event
        if len(latest) > self.keys_max:
            channel.keys_lost = latest.pop(next(iter(latest))).seq
        size = len(event.data)
        channel.bytes += size
        self.bytes += size
        self._ring.append(event)
        self.head = event.seq
        if channel.retention is not None:
            self._trim_channel(channel, event.time)
        self._trim(event.time)

    def remember(self, event: Event) -> None:
        """Take the newest event of a key, from before the log's beginning.

        In order, and before anything is appended.
        """
        assert event.seq <= self.floor
        channel = self._channels.get(event.channel) or self._open(event.channel)
        self._channels.move_to_end(event.channel)
        channel.latest[event.key] = event
        if len(channel.latest) > self.keys_max:
            channel.keys_lost = channel.latest.pop(next(iter(channel.latest))).seq

    def expire(self, now: int) -> None:
        """Evict what is too old at `now` (ms since 1970), in quiet channels too."""
        for channel in self._aging.values():
            self._trim_channel(channel, now)
        self._trim(now)

    def read(self, selection: Selection, after: int, upto: int, limit: int) -> Stretch:
        """The selection's retained events after `after` up to and with `upto`, in order.

        Stops once `limit` bytes are read (with at least one event, and each counted with its
        `OVERHEAD`), and then `reached` is the last event's `seq`, otherwise `upto`. What was lost
        in between `evicted` tells.
        """
        if after >= upto:
            return Stretch([], after)
        return take(self._after(after, self._select(selection)), upto, limit)

    def read_latest(self, selection: Selection, after: int, upto: int, limit: int) -> Stretch:
        """The newest event of every key that has changed after `after`, in order of position.

        Limits and `reached` are as for `read`. An event newer than `upto` is left out, and so are
        the older ones of its key, which it supersedes.
        """
        if after >= upto:
            return Stretch([], after)
        changed: list[Event] = []
        for channel in self._select(selection).values():
            for event in reversed(channel.latest.values()):
                if event.seq <= after:
                    break
                changed.append(event)
        changed.sort(key=_SEQ)
        return take(iter(changed), upto, limit)

    def evicted(self, selector: str) -> int:
        """The newest `seq` that a reader of this channel or pattern can have lost; 0 for none."""
        channel = self._channels.get(selector)
        if channel is not None:
            return channel.evicted
        if is_pattern(selector):
            return max(self.floor, *(c.evicted for c in self._listed(selector).values()), 0)
        return self.floor

    def keys_lost(self, selector: str) -> int:
        """As `evicted`, for readers of `latest`: newest forgotten key, or the floor."""
        channel = self._channels.get(selector)
        if channel is not None:
            return channel.keys_lost
        if is_pattern(selector):
            return max(self.floor, *(c.keys_lost for c in self._listed(selector).values()), 0)
        return self.floor

    def history(
        self, channel: str, *, after: int = 0, limit: int = 0, reverse: bool = False
    ) -> list[Event]:
        """One channel's retained events after `after`: the first `limit` ones (0: all) in order,
        or with `reverse` the newest ones before `after` (0: before the end), newest first."""
        known = self._channels.get(channel)
        if known is None:
            return []
        if not reverse:
            start = known.after(after)
            return known.events[start : start + limit if limit else None]
        end = known.after(after - 1) if after else len(known.events)
        begin = max(known.first, end - limit) if limit else known.first
        return known.events[begin:end][::-1]

    def latest(self, channel: str, key: str | None = None) -> Event | None:
        """The newest event of a key, or with None of those without a key."""
        known = self._channels.get(channel)
        return None if known is None else known.latest.get(key)

    @property
    def channel_count(self) -> int:
        """How many channels are known."""
        return len(self._channels)

    def channels(self, selector: str = ">") -> list[str]:
        """The names of the known channels that match, sorted."""
        return sorted(self._listed(selector))

    def _open(self, name: str) -> _Channel:
        if len(self._channels) >= self.channels_max:
            self._forget()
        retention = next((keep for rule, keep in self.rules if rule.matches(name)), None)
        channel = self._channels[name] = _Channel(name, self.floor, retention)
        if retention is not None and retention.age:
            self._aging[name] = channel
        for text, listed in self._matching.items():
            if pattern(text).matches(name):
                listed[name] = channel
        return channel

    def _forget(self) -> None:
        """Forget the channel that has been without an event for longest (rule 5)."""
        name, channel = self._channels.popitem(last=False)
        while channel.count:
            self._drop(channel)
        self.floor = max(self.floor, channel.evicted, channel.keys_lost)
        self._aging.pop(name, None)
        for listed in self._matching.values():
            listed.pop(name, None)
        self._sweep_now_and_then()

    def _select(self, selection: Selection) -> Mapping[str, _Channel]:
        if len(selection) == len(selection.patterns) == 1:
            return self._listed(*selection.patterns)
        chosen = {n: c for n in selection.exact if (c := self._channels.get(n)) is not None}
        for selector in selection.patterns:
            chosen.update(self._listed(selector))
        return chosen

    def _listed(self, selector: str) -> Mapping[str, _Channel]:
        listed = self._matching.get(selector)
        if listed is None:
            matches = pattern(selector).matches
            listed = {name: channel for name, channel in self._channels.items() if matches(name)}
            if len(self._matching) >= _PATTERNS_KEPT:
                del self._matching[next(iter(self._matching))]
            self._matching[selector] = listed
        return listed

    def _after(self, seq: int, channels: Mapping[str, _Channel]) -> Iterator[Event]:
        """The retained events of `channels` after `seq`, in order (rule 4)."""
        patience = _SCAN * len(channels)
        for event in _from(self._ring, bisect_right(self._ring, seq, lo=self._first, key=_SEQ)):
            channel = channels.get(event.channel)
            if channel is not None and channel.evicted < event.seq:
                yield event
                patience += _SCAN
            elif patience:
                patience -= 1
            else:
                break
            seq = event.seq
        else:
            return
        runs = [_from(channel.events, channel.after(seq)) for channel in channels.values()]
        yield from heapq.merge(*runs, key=_SEQ)

    def _trim_channel(self, channel: _Channel, now: int) -> None:
        keep = channel.retention
        assert keep is not None
        while channel.count and (
            (keep.events and channel.count > keep.events)
            or (keep.bytes and channel.bytes > keep.bytes)
            or (keep.age and channel.events[channel.first].time < now - keep.age)
        ):
            self._drop(channel)
        self._sweep_now_and_then()

    def _drop(self, channel: _Channel) -> None:
        size = len(channel.pop().data)
        self.bytes -= size
        self._dead += 1
        self._dead_bytes += size

    def _sweep_now_and_then(self) -> None:
        """Take the dead out of the ring once they are more than the living."""
        if self._dead <= len(self) + 1024 and self._dead_bytes <= self.bytes + (1 << 20):
            return
        channels = self._channels
        self._ring = [
            event
            for event in _from(self._ring, self._first)
            if (channel := channels.get(event.channel)) is not None and channel.evicted < event.seq
        ]
        self._first = self._dead = self._dead_bytes = 0

    def _trim(self, now: int) -> None:
        keep = self.retention
        ring = self._ring
        while self._first < len(ring):
            event = ring[self._first]
            channel = self._channels.get(event.channel)
            size = len(event.data)
            if channel is None or channel.evicted >= event.seq:
                self._dead -= 1
                self._dead_bytes -= size
            elif (
                (keep.events and len(ring) - self._first - self._dead > keep.events)
                or (keep.bytes and self.bytes > keep.bytes)
                or (keep.age and event.time < now - keep.age)
            ):
                channel.pop()
                self.bytes -= size
            else:
                break
            ring[self._first] = _GONE
            self._first += 1
        if self._first * 2 > len(ring) + 1024:
            del ring[: self._first]
            self._first = 0


def _from(events: list[Event], start: int) -> Iterator[Event]:
    for index in range(start, len(events)):
        yield events[index]


def take(events: Iterable[Event], upto: int, limit: int) -> Stretch:
    """The first of `events`, up to and with `upto` or about `limit` bytes; see `Log.read`."""
    taken: list[Event] = []
    size = 0
    for event in events:
        if event.seq > upto:
            break
        if taken and size >= limit:
            return Stretch(taken, taken[-1].seq)
        taken.append(event)
        size += len(event.data) + OVERHEAD
    return Stretch(taken, upto)
