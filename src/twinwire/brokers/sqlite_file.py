"""The file that a log is in: whether it is one, who has it, how it is made, what is wrong with it.

What is not a log of ours is looked at without SQLite, which would leave traces even in reading.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from twinwire.errors import BrokerError

_MAGIC: Final = b"SQLite format 3\0"
_APPLICATION: Final = int.from_bytes(b"twin")
_FORMAT: Final = 1

_WAL_BYTES: Final = 64 << 20
"""To what the WAL is cut when a long reader, such as a backup, has let it grow."""

_CACHE_KIB: Final = 16 * 1024

_LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_SHUT: Final = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM})


class Lock:
    """The right to have the log at `path` open, until `release` or the end of the process.

    It is on a file beside the log, `path` with `-lock`, which stays there and says which run of the
    log was the last here: a log that says otherwise is not the one that was here.
    """

    def __init__(self, path: Path) -> None:
        """Raises `BrokerError` if another hub has it."""
        self._file = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT, 0o644)
        said = os.pread(self._file, 100, 0).decode(errors="replace").split()
        self.last_run, process = said if len(said) == 2 else ("", "unknown")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise BrokerError(
                f"{path} is in use by another hub (process {process}): give each a file of its "
                "own, or let them share a log in redis:// or nats://"
            ) from None

    def note(self, run: str) -> None:
        """Say which run of the log this is."""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{run} {os.getpid()}\n".encode(), 0)
        os.fsync(self._file)

    def release(self) -> None:
        """Let others have it."""
        os.close(self._file)


def exists(path: Path) -> bool:
    """Whether there is a log of ours; an empty file is none. Raises `BrokerError` for a file that
    is something else."""
    if not path.exists():
        return False
    if not path.is_file():
        what = "a directory" if path.is_dir() else "not a file"
        raise BrokerError(f"{path} is {what}: name a file")
    with path.open("rb") as file:
        header = file.read(100)
    if not header:
        return False
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise BrokerError(
            f"{path} is not an SQLite database: name another file, or move it away and a new log "
            "begins there"
        )
    # https://www.sqlite.org/fileformat.html, section 1.3
    if int.from_bytes(header[68:72]) != _APPLICATION:
        raise BrokerError(f"{path} is another application's SQLite database: name another file")
    version = int.from_bytes(header[60:64])
    if version > _FORMAT:
        raise BrokerError(
            f"{path} was written by a newer twinwire (format {version}, this one knows {_FORMAT}): "
            "use that one, or name another file"
        )
    return True


def create(path: Path, tables: str) -> None:
    """Make a log of ours with these tables: all of it, or no file."""
    new = Path(f"{path}-new")
    new.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(new, isolation_level=None)) as connection:
            # What is interrupted is made anew, and needs no journal.
            connection.executescript(
                f"PRAGMA journal_mode = OFF; PRAGMA auto_vacuum = INCREMENTAL; BEGIN; "
                f"PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {_FORMAT}; "
                f"{tables} COMMIT;"
            )
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def reading(path: Path) -> sqlite3.Connection:
    """A connection that leaves the file as it is, also in closing."""
    return _connected(path, "ro", 1.0)


def writing(path: Path, synchronous: str, wait: float) -> sqlite3.Connection:
    """The connection to write with; `wait` is in seconds, where another program writes."""
    connection = _connected(path, "rw", wait)
    try:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise BrokerError(f"{path} is on a file system on which SQLite has no WAL: use another")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
    except BaseException:
        connection.close()
        raise
    return connection


def has_wal(path: Path) -> bool:
    """Whether there is a WAL with anything in it: as long as the log is open, and after a crash."""
    try:
        return Path(f"{path}-wal").stat().st_size > 0
    except FileNotFoundError:
        return False


def boot_id() -> str:
    """What tells this run of the machine from others; "" where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def is_locked(error: Exception) -> bool:
    """Whether another program has locked the file for a while."""
    return _code(error) in _LOCKED


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What SQLite or the system complains about becomes a `BrokerError` that says what to do."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise BrokerError(explanation(path, error)) from error


_PLACE: Final = "name a file in a directory that is there and can be written to"


def explanation(path: Path, error: Exception) -> str:
    """What has gone wrong with the file, for the user."""
    if isinstance(error, OSError):
        what = (error.strerror or str(error)).lower()
        return f"{path} cannot be used: {what}: {_PLACE}"
    code = _code(error)
    what = getattr(error, "sqlite_errorname", type(error).__name__)
    if code in _LOCKED:
        return f"{path} is locked by another program: let it end, or come to an end of its writing"
    if code in _DAMAGED:
        return (
            f"{path} is damaged ({error}): put a backup in its place, or move it away and a new "
            "log begins there"
        )
    if code in _SHUT:
        return f"{path} cannot be used: {error} ({what}): {_PLACE}"
    if code == sqlite3.SQLITE_FULL:
        return f"no room for {path}: make some on its disk, or keep less (stored_bytes)"
    if code == sqlite3.SQLITE_IOERR:
        return f"the disk does not do what {path} needs: {error} ({what})"
    return f"{path}: {error} ({what})"


def _code(error: Exception) -> int:
    """The primary result code, of which there are kinds; 0 if it is not SQLite's."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _connected(path: Path, mode: str, wait: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        timeout=wait,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    return connection
