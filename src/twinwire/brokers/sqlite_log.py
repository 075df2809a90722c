"""A log in an SQLite file: its tables, its transactions, what is kept and how it is read.

1. `events` has the events by `seq`, which counts without holes up to the head. The newest one is
   never deleted, so the file knows its head.
2. `newest` points to the newest event of every key. After `floor` all events are there; up to it
   only those that `newest` points to, and not more than `keys_max` of them.
3. An append is one transaction. With it goes, now and then, as much of retention as keeps the
   file's size.
4. Each statement takes a whole batch, or gives one, as JSON and one blob. At every statement and
   every row Python's `sqlite3` gives the interpreter's lock away and waits to have it back, for up
   to 5 ms while the event loop is busy: a thousand rows one by one would take seconds.
5. The epoch is renewed when acknowledged events may be gone: the machine has ended (not only the
   process) and commits had not been synced; the WAL is gone, or was never there, as in a backup; or
   the file is not the one that was here last. What there is then belongs to the new epoch.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from twinwire.brokers.base import Config
from twinwire.brokers.record import pack
from twinwire.brokers.sqlite_file import (
    Lock,
    boot_id,
    create,
    exists,
    explained,
    has_wal,
    reading,
    writing,
)
from twinwire.brokers.sqlite_reader import Reader
from twinwire.core.event import Draft, Event, Position

_PORTION: Final = 1000
"""Events that are deleted at once, about."""

_TRIM_EVERY: Final = 256
"""Events after which it is seen to how much is kept; pages that are given back at once."""

_BUSY_MS: Final = 100
"""How long a transaction waits for another program's, before it raises."""

_TABLES: Final = """
CREATE TABLE log (
    epoch INTEGER NOT NULL,
    floor INTEGER NOT NULL,
    open INTEGER NOT NULL,
    run TEXT NOT NULL,
    boot TEXT NOT NULL,
    synced INTEGER NOT NULL
);
INSERT INTO log VALUES (0, 0, 0, '', '', 0);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,
    total INTEGER NOT NULL, -- bytes of data of all events up to this one
    channel TEXT NOT NULL,
    key TEXT NOT NULL, -- '' for none
    record BLOB NOT NULL
);
CREATE INDEX events_by_channel ON events (channel);
CREATE TABLE newest (
    channel TEXT, key TEXT, seq INTEGER NOT NULL, PRIMARY KEY (channel, key)
) WITHOUT ROWID;
CREATE TABLE published (
    seq INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,
    channel TEXT NOT NULL,
    key TEXT NOT NULL, -- the idempotency key
    UNIQUE (channel, key)
);
"""

# ?1 is a JSON array of arrays.
_INSERT: Final = """
INSERT INTO events
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
    json_extract(value, '$[3]'), json_extract(value, '$[4]'),
    substr(?2, json_extract(value, '$[5]'), json_extract(value, '$[6]'))
FROM json_each(?1)
"""
_KNOWN: Final = """
json_each(?1) AS said CROSS JOIN {} AS known
    ON known.channel = json_extract(said.value, '$[0]')
    AND known.key = json_extract(said.value, '$[1]')
"""
_SUPERSEDED: Final = f"""
DELETE FROM events WHERE seq IN (
    SELECT known.seq FROM {_KNOWN.format("newest")} WHERE known.seq <= ?2
)
"""
_NEWEST: Final = """
INSERT INTO newest
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]')
FROM json_each(?1) WHERE true
ON CONFLICT (channel, key) DO UPDATE SET seq = excluded.seq
"""
_PUBLISHED: Final = f"""
SELECT json_group_array(json_array(known.channel, known.key, known.seq, known.time))
FROM {_KNOWN.format("published")}
"""
_PUBLISH: Final = """
INSERT OR REPLACE INTO published (channel, key, seq, time)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), ?2
FROM json_each(?1)
"""

# Retention
_OVER: Final = """
SELECT max(seq) FROM (
    SELECT seq, time, total FROM events WHERE seq > ? ORDER BY seq LIMIT ?
) WHERE seq <= ? OR time < ? OR total < ?
"""
_TRIM: Final = """
DELETE FROM events WHERE seq > ? AND seq <= ? AND NOT EXISTS (
    SELECT 1 FROM newest
    WHERE newest.channel = events.channel AND newest.key = events.key AND newest.seq = events.seq
)
"""
_FORGET_KEYS: Final = """
DELETE FROM newest WHERE (channel, key) IN (SELECT channel, key FROM events ORDER BY seq LIMIT ?)
"""
_FORGET_THEIRS: Final = """
DELETE FROM events WHERE seq IN (SELECT seq FROM events ORDER BY seq LIMIT ?)
"""
_FORGET_PUBLISHED: Final = """
DELETE FROM published WHERE seq IN (
    SELECT seq FROM (SELECT seq, time FROM published ORDER BY seq LIMIT ?1) WHERE time < ?2
    UNION SELECT seq FROM (SELECT seq FROM published ORDER BY seq LIMIT ?3)
)
"""

_json = msgspec.json.Encoder().encode
_keys = msgspec.json.Decoder(list[tuple[str, str, int, int]]).decode


class _State(NamedTuple):
    """What the file says, at hand."""

    floor: int
    head: int
    total: int
    """Bytes of data of all events up to the head."""
    kept: int
    """Events up to the floor."""
    published: int
    """Idempotency keys."""


class Appended(NamedTuple):
    """What has become of some appends: their positions, and the new events of all."""

    positions: list[list[Position]]
    events: list[Event]


class SqliteLog:
    """The log at `path`. Methods block and raise `sqlite3.Error`.

    `reader` reads it, from a thread of its own. It is written to after `start`, from another one.
    """

    def __init__(self, path: Path, config: Config, now: int) -> None:
        """Open the log, or begin one there; `now` is in ms. Raises `BrokerError`."""
        self._path = path
        self._config = config
        self._untrimmed = 0
        with ExitStack() as opened, explained(path):
            exists(path)
            self._lock = Lock(path)
            opened.callback(self._lock.release)
            if not exists(path):
                create(path, _TABLES)
            # Before SQLite sees the file and makes one.
            wal = has_wal(path)
            self._reading = reading(path)
            opened.callback(self._reading.close)
            read = self._reading.execute
            self.epoch, floor, was_open, run, boot, synced = read("SELECT * FROM log").fetchone()
            newest = read("SELECT seq, total FROM events ORDER BY seq DESC LIMIT 1").fetchone()
            head, total = newest or (floor, 0)
            (kept,) = read("SELECT count(*) FROM events WHERE seq <= ?", (floor,)).fetchone()
            (published,) = read("SELECT count(*) FROM published").fetchone()
            self._state = _State(floor, head, total, kept, published)
            unsynced = not synced and (not boot or boot != boot_id())
            replaced = self._lock.last_run not in ("", run)
            if (was_open and (not wal or unsynced)) or replaced or not self.epoch:
                self.epoch = max(now, self.epoch + 1)
            self.reader = Reader(self._reading, self.epoch)
            self._opened = opened.pop_all()

    def start(self) -> None:
        """Let it be written to. Raises `BrokerError`."""
        synchronous = self._config.synchronous
        with explained(self._path):
            self._writing = writing(self._path, synchronous, self._config.wait)
            self._opened.callback(self._writing.close)
            run = secrets.token_hex(8)
            with self._synced():
                self._writing.execute(
                    "UPDATE log SET epoch = ?, open = 1, run = ?, boot = ?, synced = ?",
                    (self.epoch, run, boot_id(), synchronous in ("full", "extra")),
                )
            self._lock.note(run)
            # From here on it is the caller who waits.
            self._writing.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")

    def finish(self) -> None:
        """Note that it has been closed in order; then only `close` may follow."""
        with self._synced():
            self._writing.execute("UPDATE log SET open = 0")

    def close(self) -> None:
        """Let go of the file."""
        # The last connection takes the WAL into the file, and this one cannot.
        self._reading.close()
        self._opened.close()

    @contextmanager
    def _synced(self) -> Iterator[None]:
        """What marks a run's beginning and end is on the disk whatever the setting: else a machine
        could end with the marks of the run before."""
        self._writing.execute("PRAGMA synchronous = FULL")
        yield
        self._writing.execute(f"PRAGMA synchronous = {self._config.synchronous}")

    @property
    def head(self) -> Position:
        """The position of the newest event."""
        return Position(self.epoch, self._state.head)

    def append(self, appends: Sequence[Sequence[Draft]], now: int) -> Appended:
        """Append all of these, or none; `now`, in ms, is the events' time."""
        with self._transaction() as state:
            done, stale = self._known(appends, now)
            head, total, offset = state.head, state.total, 1
            rows: list[tuple[int, int, int, str, str, int, int]] = []
            records: list[bytes] = []
            newest: dict[tuple[str, str], int] = {}
            keys: list[tuple[str, str, int]] = []
            events: list[Event] = []
            positions: list[list[Position]] = []
            for drafts in appends:
                given: list[Position] = []
                for draft in drafts:
                    channel, again = draft.channel, draft.idempotency_key
                    position = done.get((channel, again)) if again else None
                    if position is None:
                        head += 1
                        total += len(draft.data)
                        position = Position(self.epoch, head)
                        record, key = pack(draft), draft.key or ""
                        rows.append((head, now, total, channel, key, offset, len(record)))
                        records.append(record)
                        offset += len(record)
                        newest[channel, key] = head
                        events.append(Event.of(draft, position, now))
                        if again:
                            done[channel, again] = position
                            keys.append((channel, again, head))
                    given.append(position)
                positions.append(given)
            if rows:
                do, kept = self._writing.execute, state.kept
                do(_INSERT, (_text(rows), b"".join(records)))
                listed = _text([(*key, seq) for key, seq in newest.items()])
                if kept:
                    kept -= do(_SUPERSEDED, (listed, state.floor)).rowcount
                do(_NEWEST, (listed,))
                if keys:
                    do(_PUBLISH, (_text(keys), now))
                published = state.published + len(keys) - stale
                self._next = _State(state.floor, head, total, kept, published)
                self._untrimmed += len(rows)
                if self._untrimmed >= _TRIM_EVERY:
                    self._trim(now, 2 * self._untrimmed)
        return Appended(positions, events)

    def tidy(self, now: int) -> bool:
        """Let go of some of what is over the limits; returns whether there may be more."""
        with self._transaction() as before:
            self._trim(now, _PORTION)
        (pages,) = self._writing.execute("PRAGMA page_count").fetchone()
        (unused,) = self._writing.execute("PRAGMA freelist_count").fetchone()
        if unused > max(_TRIM_EVERY, pages // 4):
            self._writing.execute(f"PRAGMA incremental_vacuum({_TRIM_EVERY})").fetchall()
            return True
        return self._state != before

    @contextmanager
    def _transaction(self) -> Iterator[_State]:
        """What is done within is done wholly or not at all; `_next` becomes the state."""
        do, untrimmed = self._writing.execute, self._untrimmed
        do("BEGIN IMMEDIATE")
        try:
            self._next = self._state
            yield self._state
            do("COMMIT")
        except BaseException:
            self._untrimmed = untrimmed
            # SQLite has done it by itself where the disk is to blame.
            if self._writing.in_transaction:
                do("ROLLBACK")
            raise
        self._state = self._next

    def _known(
        self, appends: Sequence[Sequence[Draft]], now: int
    ) -> tuple[dict[tuple[str, str], Position], int]:
        """The positions of idempotency keys that are within the window, and how many are not."""
        asked = {
            (draft.channel, draft.idempotency_key)
            for drafts in appends
            for draft in drafts
            if draft.idempotency_key
        }
        if not asked:
            return {}, 0
        (found,) = self._writing.execute(_PUBLISHED, (_text(list(asked)),)).fetchone()
        known = _keys(found)
        oldest = self._oldest_key(now)
        fresh = {(c, key): Position(self.epoch, seq) for c, key, seq, at in known if at >= oldest}
        return fresh, len(known) - len(fresh)

    def _oldest_key(self, now: int) -> int:
        return now - int(self._config.idempotency_window * 1000)

    def _trim(self, now: int, most: int) -> None:
        """Delete about `most` of what is over the limits, within a transaction."""
        self._untrimmed = 0
        do, config = self._writing.execute, self._config
        keep = config.keep
        floor, head, total, kept, published = self._next
        limits = (
            head - keep.events if keep.events else 0,
            now - keep.age if keep.age else 0,
            total - keep.bytes if keep.bytes else 0,
        )
        (over,) = do(_OVER, (floor, most, *limits)).fetchone()
        if over is not None:
            kept += over - floor - do(_TRIM, (floor, over)).rowcount
            floor = over
            do("UPDATE log SET floor = ?", (floor,))
        excess = min(kept - max(config.keys_max, 1), most)
        if excess > 0:
            do(_FORGET_KEYS, (excess,))
            kept -= do(_FORGET_THEIRS, (excess,)).rowcount
        if published:
            excess = min(max(published - config.idempotency_keys, 0), most)
            published -= do(_FORGET_PUBLISHED, (most, self._oldest_key(now), excess)).rowcount
        self._next = _State(floor, head, total, kept, published)


def _text(rows: Any) -> str:
    return _json(rows).decode()
