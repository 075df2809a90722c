"""The log in an SQLite file: it outlives the process, and positions stay good across restarts.

Durable, when `append` returns, against the end of the process, however it comes. Against the end of
the machine as `Config.synchronous` says: with `full` and `extra` each commit is synced to the disk;
with `normal` and `off` events of the last moments may be gone, and then the epoch is a later one.

1. One thread writes. Appends that come while it commits go into the next transaction, together.
2. What is committed goes to the event loop in one call, which delivers the events and then answers
   the appends: whoever has a position knows that the event is in the hub's log.
3. An append that fails in a transaction with others is tried again alone, and so are the others.
4. Another thread reads, by a connection of its own. Neither holds the loop.
5. What waits to be written is bounded by who waits for it: for `Config.wait` each.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple, ParamSpec, TypeVar

from twinwire.brokers.base import Config, Tail
from twinwire.brokers.sqlite_file import explained, explanation, is_locked
from twinwire.brokers.sqlite_log import Appended, SqliteLog
from twinwire.core.event import Draft, Position, Selection
from twinwire.core.feed import Earlier
from twinwire.errors import BadSettings, BrokerError

_log = logging.getLogger("twinwire")

_TOGETHER: Final = 1024
"""Events in one transaction, about: they are delivered in one step, which the loop waits for."""

_TIDY_SECONDS: Final = 1.0
"""How long nothing has to be written before retention is seen to."""

P = ParamSpec("P")
T = TypeVar("T")


class _Append(NamedTuple):
    drafts: Sequence[Draft]
    answer: asyncio.Future[list[Position]]


def path_of(url: str) -> Path:
    """The file that `url` names: ``sqlite:///file`` in the directory of the process,
    ``sqlite:////directory/file`` anywhere. Raises `BadSettings`."""
    name = url.removeprefix("sqlite:///")
    if name == url or not name or name == ":memory:" or set(name) & {"?", "#", "\0"}:
        raise BadSettings(
            f"broker {url!r} names no file: sqlite:///log.db is one in this directory, "
            "sqlite:////var/lib/twinwire/log.db one anywhere"
        )
    return Path(name).resolve()


class SqliteBroker:
    """`sqlite:///log.db`"""

    shared = False

    def __init__(self, path: Path, config: Config = Config()) -> None:  # noqa: B008 (immutable)
        self._path = path
        self._config = config
        self._tail: Tail | None = None
        self._writer: threading.Thread | None = None

    async def open(self, tail: Tail) -> None:
        """See `Broker.open`. It can be done again after `close`."""
        self._loop = asyncio.get_running_loop()
        self._reading = ThreadPoolExecutor(1, "twinwire-sqlite-reads")
        self._waiting: SimpleQueue[_Append | None] = SimpleQueue()
        self._closing = threading.Event()
        self._writer = None
        self._sqlite: SqliteLog | None = None
        try:
            log = await self._read(self._connect)
            head = log.head
            after = await self._read(log.reader.within, self._config.warm, head.seq, _now())
            tail.begin(Position(log.epoch, after), await self._read(log.reader.latest, after))
            while after < head.seq:
                events = await self._read(log.reader.after, after, head.seq)
                tail.deliver(events)
                after = events[-1].seq
            await self._read(log.start)
        except BaseException:
            await self._release()
            raise
        self._tail = tail
        self._writer = threading.Thread(
            target=self._write, args=(log,), name="twinwire-sqlite-writes", daemon=True
        )
        self._writer.start()

    async def append(self, drafts: Sequence[Draft]) -> list[Position]:
        """See `Broker.append`."""
        if self._tail is None or self._closing.is_set():
            raise self._not_open()
        if not drafts:
            return []
        answer: asyncio.Future[list[Position]] = self._loop.create_future()
        self._waiting.put(_Append(drafts, answer))
        try:
            async with asyncio.timeout(self._config.wait):
                return await answer
        except TimeoutError:
            raise BrokerError(
                f"{self._path} has not taken this for {self._config.wait:g} s: another program "
                "has locked it, or its disk is slow or stuck"
            ) from None

    async def read(self, selection: Selection, after: int, upto: int, limit: int) -> Earlier:
        """See `Broker.read`."""
        if self._tail is None or self._sqlite is None or self._closing.is_set():
            raise self._not_open()
        return await self._read(self._sqlite.reader.read, selection, after, upto, limit)

    async def tell(self, notice: bytes) -> None:
        """See `Broker.tell`."""
        if self._tail is None:
            raise self._not_open()
        self._tail.hear(notice)

    async def close(self) -> None:
        """See `Broker.close`."""
        if self._writer is not None and not self._closing.is_set():
            self._closing.set()
            self._waiting.put(None)
            await self._release()
            self._tail = None

    def _not_open(self) -> BrokerError:
        return BrokerError(f"{self._path} is not open")

    # In the thread that reads

    async def _read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def run() -> T:
            with explained(self._path):
                return function(*args, **kwargs)

        return await self._loop.run_in_executor(self._reading, run)

    def _connect(self) -> SqliteLog:
        self._sqlite = SqliteLog(self._path, self._config, _now())
        return self._sqlite

    async def _release(self) -> None:
        """Wait for the writer's end and let go of the file."""
        try:
            await self._read(self._disconnect)
        finally:
            self._reading.shutdown(wait=False)

    def _disconnect(self) -> None:
        if self._writer is not None:
            self._writer.join()
        if self._sqlite is not None:
            self._sqlite.close()

    # In the thread that writes

    def _write(self, log: SqliteLog) -> None:
        pause, more = _TIDY_SECONDS, True
        while more:
            try:
                first = self._waiting.get(timeout=pause)
            except Empty:
                pause = 0.0 if self._tidy(log) else _TIDY_SECONDS
                continue
            together, more = self._together(first)
            self._store(log, together)
        try:
            log.finish()
        except sqlite3.Error as error:
            _log.warning("%s could not be closed in order: %s", self._path, error)

    def _together(self, append: _Append | None) -> tuple[list[_Append], bool]:
        """What waits, with `append` first, up to a good measure; and whether more may come."""
        together: list[_Append] = []
        count = 0
        while append is not None:
            together.append(append)
            count += len(append.drafts)
            if count >= _TOGETHER:
                return together, True
            try:
                append = self._waiting.get_nowait()
            except Empty:
                return together, True
        return together, False

    def _store(self, log: SqliteLog, together: Sequence[_Append]) -> None:
        # Who has stopped waiting is not served any more.
        while together := [append for append in together if not append.answer.done()]:
            try:
                appended = log.append([append.drafts for append in together], _now())
            except Exception as error:  # noqa: BLE001 (whatever it is, the others go on)
                if is_locked(error) and not self._closing.is_set():
                    continue
                if len(together) == 1:
                    self._fail(together[0], BrokerError(explanation(self._path, error)))
                    return
                for append in together:
                    self._store(log, [append])
            else:
                self._tell(self._stored, together, appended)
            return

    def _tidy(self, log: SqliteLog) -> bool:
        try:
            return log.tidy(_now())
        except sqlite3.Error as error:
            # Appends will say so, if it goes on.
            _log.debug("tidying %s failed: %s", self._path, error)
            return False

    def _fail(self, append: _Append, error: BrokerError) -> None:
        self._tell(self._failed, append.answer, error)

    def _tell(self, function: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            pass  # the loop was closed without the broker

    # In the event loop

    def _stored(self, together: Sequence[_Append], appended: Appended) -> None:
        if appended.events and self._tail is not None:
            self._tail.deliver(appended.events)
        for append, positions in zip(together, appended.positions, strict=True):
            if not append.answer.done():
                append.answer.set_result(positions)

    @staticmethod
    def _failed(answer: asyncio.Future[list[Position]], error: BrokerError) -> None:
        if not answer.done():
            answer.set_exception(error)


def _now() -> int:
    return time.time_ns() // 1_000_000
