"""Reading a log in an SQLite file; `twinwire.brokers.sqlite_log` has the tables and the rules."""

from __future__ import annotations

import heapq
import sqlite3
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Final

import msgspec

from twinwire.brokers.record import unpack
from twinwire.core.event import Event, Position, Selection, pattern
from twinwire.core.feed import Earlier
from twinwire.core.log import Retention

_PORTION: Final = 1000
"""Events that are read at once."""

# `group_concat` takes blobs as the bytes that they are.
_FETCH: Final = """
SELECT json_group_array(json_array(seq, time, length(record))),
    CAST(group_concat(record, '') AS BLOB)
FROM (SELECT events.seq, time, record FROM json_each(?) JOIN events ON events.seq = value)
"""
_OF_CHANNEL: Final = """
SELECT json_group_array(seq) FROM (
    SELECT seq FROM events WHERE channel = ? AND seq > ? AND seq <= ? ORDER BY seq DESC LIMIT ?
)
"""
_OF_ALL: Final = """
SELECT json_group_array(json_array(seq, channel)) FROM events WHERE seq > ? AND seq <= ?
"""

_seqs = msgspec.json.Decoder(list[int]).decode
_names = msgspec.json.Decoder(list[tuple[int, str]]).decode
_heads = msgspec.json.Decoder(list[tuple[int, int, int]]).decode
_json = msgspec.json.Encoder().encode


class Reader:
    """Reads by a connection of its own, from one thread at a time. Raises `sqlite3.Error`."""

    def __init__(self, connection: sqlite3.Connection, epoch: int) -> None:
        self._connection = connection
        self._epoch = epoch

    def floor(self) -> int:
        """The `seq` after which all events are there."""
        (floor,) = self._connection.execute("SELECT floor FROM log").fetchone()
        return int(floor)

    def within(self, retention: Retention, head: int, now: int) -> int:
        """The `seq` after which everything up to the head is within `retention`."""
        floor = self.floor()
        retained = range(floor + 1, head + 1)

        def before(column: str, least: int) -> int:
            """The last event with less in a column that only rises."""
            query = f"SELECT {column} FROM events WHERE seq = ?"

            def value(seq: int) -> int:
                (found,) = self._connection.execute(query, (seq,)).fetchone()
                return int(found)

            return floor + bisect_left(retained, least, key=value)

        after = floor
        if retention.events:
            after = max(after, head - retention.events)
        if retention.bytes and retained:
            query = "SELECT total FROM events WHERE seq = ?"
            (total,) = self._connection.execute(query, (head,)).fetchone()
            if total > retention.bytes:
                # The first event with a total of so much still belongs to what is before.
                after = max(after, before("total", total - retention.bytes) + 1)
        if retention.age:
            after = max(after, before("time", now - retention.age))
        return min(after, head)

    def latest(self, upto: int) -> list[Event]:
        """The newest event of each key that has none after `upto`, in order."""
        query = "SELECT json_group_array(seq) FROM newest WHERE seq <= ?"
        with self._snapshot():
            (found,) = self._connection.execute(query, (upto,)).fetchone()
            return self._fetch(sorted(_seqs(found)))

    def after(self, seq: int, upto: int) -> list[Event]:
        """A portion of the events after `seq`, up to and with `upto` at most."""
        wanted = range(seq + 1, min(seq + _PORTION, upto) + 1)
        events = self._fetch(wanted)
        if len(events) < len(wanted):
            raise sqlite3.DatabaseError(f"{len(wanted) - len(events)} events are missing")
        return events

    def read(self, selection: Selection, after: int, upto: int, limit: int) -> Earlier:
        """See `Broker.read`."""
        with self._snapshot():
            begin = min(max(after, self.floor()), upto)
            if selection.patterns:
                begin = max(begin, upto - limit)
                found = self._matching(selection, begin, upto)
            else:
                # One more than may be told: it is where the others begin.
                found = self._of_channels(selection, begin, upto, limit + 1)
                if len(found) > limit:
                    begin = found.pop(0)
            return Earlier(begin, self._fetch(found), upto)

    def _matching(self, selection: Selection, after: int, upto: int) -> list[int]:
        """Of all that are between the two, the selection's, in order."""
        patterns = [pattern(text) for text in selection.patterns]

        @cache
        def selected(channel: str) -> bool:
            return channel in selection.exact or any(p.matches(channel) for p in patterns)

        (found,) = self._connection.execute(_OF_ALL, (after, upto)).fetchone()
        return sorted(seq for seq, channel in _names(found) if selected(channel))

    def _of_channels(self, selection: Selection, after: int, upto: int, most: int) -> list[int]:
        """The newest ones between the two, in order."""
        found: list[int] = []
        for channel in selection.exact:
            (more,) = self._connection.execute(_OF_CHANNEL, (channel, after, upto, most)).fetchone()
            found = heapq.nlargest(most, found + _seqs(more))
            if len(found) == most:
                after = found[-1]
        return found[::-1]

    def _fetch(self, seqs: Sequence[int]) -> list[Event]:
        """The events there, in order."""
        events: list[Event] = []
        for start in range(0, len(seqs), _PORTION):
            portion = _json(list(seqs[start : start + _PORTION])).decode()
            heads, records = self._connection.execute(_FETCH, (portion,)).fetchone()
            offset = 0
            for seq, time, length in _heads(heads):
                record = records[offset : offset + length]
                events.append(unpack(record, Position(self._epoch, seq), time))
                offset += length
        return events

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("ROLLBACK")
