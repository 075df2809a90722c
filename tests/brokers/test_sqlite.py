"""The SQLite broker: the contract, its file, what it outlives, and what it says when it cannot."""

# ruff: noqa: ASYNC240 (the files are what is looked at, and nothing else runs in these loops)

import asyncio
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, closing, contextmanager
from pathlib import Path

import pytest

from tests.brokers.opened import opened_as_node
from tests.waiting import until
from twinwire.brokers import Broker, Config, connect, sqlite_file, sqlite_log
from twinwire.brokers.sqlite import SqliteBroker
from twinwire.core.event import Draft, Kind, Position, Selection
from twinwire.core.log import Retention
from twinwire.errors import BadSettings, BrokerError
from twinwire.testing.contract import Node, PersistentContract, Strict, drafts, said
from twinwire.testing.heard import Heard

CONFIG = Config()


class TestContract(PersistentContract):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "log.db"

    async def make(self, config: Config) -> Broker:
        return SqliteBroker(self.path, config)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def opened(path: Path, config: Config = CONFIG) -> AbstractAsyncContextManager[Node]:
    return opened_as_node(SqliteBroker(path, config))


def sizes(path: Path) -> dict[str, bytes]:
    """Everything that is in the directory of `path`."""
    return {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}


def a_run_that_is_killed(path: Path, how: str = "", synchronous: str = "normal") -> Position:
    """Open the log in another process, append ten events and kill it. Returns the last position."""
    program = f"""
import asyncio, os, signal, sys
from pathlib import Path
from twinwire.brokers import Config
from twinwire.brokers.sqlite import SqliteBroker
from twinwire.core.event import Draft
from twinwire.testing.heard import Heard

async def main():
    broker = SqliteBroker(Path({str(path)!r}), Config(synchronous={synchronous!r}))
    await broker.open(Heard())
    for n in range(10):
        (position,) = await broker.append([Draft("a", b"%d" % n)])
    print(position, flush=True)
    {how or "pass"}
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == -9, ran.stderr
    return Position.parse(ran.stdout.strip())


# Its URL


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:///log.db", "log.db"),
        ("sqlite:///some/log.db", "some/log.db"),
        ("sqlite:///../log.db", "../log.db"),
        ("sqlite:////var/lib/log 1%20.db", "/var/lib/log 1%20.db"),
    ],
)
def test_a_url_names_a_file(url: str, file: str) -> None:
    broker = connect(url)
    assert isinstance(broker, SqliteBroker)
    assert broker._path == (Path.cwd() / file).resolve()


@pytest.mark.parametrize(
    "url",
    ["sqlite:", "sqlite:log.db", "sqlite://", "sqlite://log.db", "sqlite:///", "sqlite:///:memory:",
     "sqlite:///log.db?mode=ro", "sqlite:///a\0b"],
)  # fmt: skip
def test_a_url_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(BadSettings, match="names no file: sqlite:///"):
        connect(url)


# What it outlives


async def test_after_a_kill_everything_acknowledged_is_there_and_positions_go_on(
    path: Path,
) -> None:
    last = a_run_that_is_killed(path)
    for _ in range(3):
        async with opened(path) as node:
            assert node.heard.position == last
            assert [event.data for event in node.heard.events][:10] == [
                b"%d" % n for n in range(10)
            ]
            assert await node.append(Draft("a", b"x")) == [Position(last.epoch, last.seq + 1)]
        last = a_run_that_is_killed(path)
    assert last.seq == 43


@pytest.mark.parametrize("synchronous", ["off", "normal", "full", "extra"])
async def test_the_epoch_is_renewed_when_the_machine_has_ended_with_unsynced_commits(
    path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: str
) -> None:
    last = a_run_that_is_killed(path, synchronous=synchronous)
    monkeypatch.setattr(sqlite_log, "boot_id", lambda: "another run of the machine")
    async with opened(path) as node:
        synced = synchronous in ("full", "extra")
        assert (node.heard.position == last) == synced
        assert (node.heard.position.epoch > last.epoch) == (not synced)
        # What is there belongs to the log.
        assert len(node.heard.events) == 10
        epoch = node.heard.position.epoch
        await node.append(Draft("a", b"x"))
    async with opened(path) as node:
        assert node.heard.position == Position(epoch, 11)


async def test_the_epoch_is_renewed_when_nobody_knows_whether_the_machine_has_ended(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_log, "boot_id", lambda: "")
    async with opened(path) as node:
        first = await node.append(*drafts("a", 10))
    async with opened(path) as node:
        assert node.heard.position == first[-1]  # closed in order
    forget = f"""import sqlite3
    with sqlite3.connect({str(path)!r}) as connection:
        connection.execute("UPDATE log SET boot = ''")"""
    last = a_run_that_is_killed(path, forget)
    async with opened(path) as node:
        assert node.heard.position.epoch > last.epoch


async def test_after_the_machines_end_a_log_that_was_closed_in_order_is_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(path) as node:
        positions = await node.append(*drafts("a", 10))
    monkeypatch.setattr(sqlite_log, "boot_id", lambda: "another run of the machine")
    async with opened(path) as node:
        assert node.heard.position == positions[-1]


async def test_the_epoch_is_later_also_where_the_clock_was_set_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = a_run_that_is_killed(path)
    monkeypatch.setattr(sqlite_log, "boot_id", lambda: "another run of the machine")
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    async with opened(path) as node:
        assert node.heard.position.epoch == last.epoch + 1


BACKUPS: dict[str, Callable[[sqlite3.Connection, Path], object]] = {
    "VACUUM INTO": lambda source, copy: source.execute("VACUUM INTO ?", (str(copy),)),
    "backup": lambda source, copy: back_up(source, copy),
}


def back_up(source: sqlite3.Connection, copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as target:
        source.backup(target)


@pytest.mark.parametrize("way", BACKUPS)
async def test_a_backup_that_is_put_back_has_its_events_and_a_later_epoch(
    path: Path, tmp_path: Path, way: str
) -> None:
    copy = tmp_path / "backup.db"
    async with opened(path) as node:
        await node.append(*drafts("a", 10, key="k"))
        with closing(sqlite3.connect(path)) as connection:
            BACKUPS[way](connection, copy)
        after = await node.append(*drafts("b", 10))
    path.unlink()
    shutil.copy(copy, path)
    async with opened(path) as node:
        assert node.heard.position.epoch > after[-1].epoch
        assert node.heard.position.seq == 10
        assert said(node.heard.events) == [("a", b"%d" % n) for n in range(10)]
        await node.append(Draft("a", b"x"))


async def test_an_older_copy_in_the_place_of_the_log_has_a_later_epoch(
    path: Path, tmp_path: Path
) -> None:
    async with opened(path) as node:
        await node.append(*drafts("a", 10))
    shutil.copy(path, tmp_path / "copy.db")
    async with opened(path) as node:
        after = await node.append(*drafts("b", 10))
    shutil.copy(tmp_path / "copy.db", path)
    async with opened(path) as node:
        assert node.heard.position.epoch > after[-1].epoch
        assert len(node.heard.events) == 10


async def test_a_log_that_was_moved_is_the_same_log(path: Path, tmp_path: Path) -> None:
    async with opened(path) as node:
        positions = await node.append(*drafts("a", 10))
    path.rename(tmp_path / "moved.db")
    async with opened(tmp_path / "moved.db") as node:
        assert node.heard.position == positions[-1]


async def test_a_log_without_its_wal_has_a_later_epoch(path: Path) -> None:
    last = a_run_that_is_killed(path)
    async with opened(path):
        pass  # so that something is in the file itself
    last = a_run_that_is_killed(path)
    Path(f"{path}-wal").unlink()
    async with opened(path) as node:
        assert node.heard.position.epoch > last.epoch
        assert len(node.heard.events) == 10


async def test_a_broker_can_be_opened_again(path: Path) -> None:
    broker = SqliteBroker(path, CONFIG)
    for number in range(3):
        heard = Strict()
        await broker.open(heard)
        assert len(heard.events) == number
        await broker.append([Draft("a", b"1")])
        await broker.close()
        await broker.close()


async def test_a_deleted_file_is_a_new_log(path: Path) -> None:
    async with opened(path) as node:
        positions = await node.append(*drafts("a", 10))
    path.unlink()
    async with opened(path) as node:
        assert node.heard.begins[0][0] == Position(node.heard.position.epoch, 0)
        assert node.heard.position.epoch > positions[0].epoch


# What it says when it cannot


def _other(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (a)")


def _other_with_a_wal(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA journal_mode = WAL; CREATE TABLE log (epoch)")
        # Its last connection would write the WAL into the file.
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{path}{suffix}.kept")
    for suffix in ("", "-wal"):
        os.replace(f"{path}{suffix}.kept", f"{path}{suffix}")


def _newer(path: Path) -> None:
    _ours(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")


def _ours(path: Path) -> None:
    """A log of some pages."""

    async def make() -> None:
        async with opened(path) as node:
            for _ in range(20):
                await node.append(*(Draft("a", bytes(1000), Kind.BYTES) for _ in range(10)))

    asyncio.run(make())


def _truncated(path: Path) -> None:
    _ours(path)
    os.truncate(path, path.stat().st_size // 2)


def _overwritten(path: Path) -> None:
    _ours(path)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 8192))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("name: twinwire\n" * 100), "not an SQLite database"),
    "short": (lambda path: path.write_bytes(b"SQLite format 3\0"), "not an SQLite database"),
    "zeros": (lambda path: path.write_bytes(bytes(8192)), "not an SQLite database"),
    "another's": (_other, "another application's SQLite database"),
    "another's, with a WAL": (_other_with_a_wal, "another application's SQLite database"),
    "newer": (_newer, r"newer twinwire \(format 2, this one knows 1\)"),
    "truncated": (_truncated, "is damaged .*put a backup in its place, or move it away"),
    "overwritten": (_overwritten, "is damaged .*put a backup in its place, or move it away"),
    "a directory": (lambda path: path.mkdir(), "is a directory: name a file"),
    "a pipe": (lambda path: os.mkfifo(path), "is not a file: name a file"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_no_log_is_refused_in_one_line_and_left_as_it_is(
    path: Path, kind: str
) -> None:
    make, message = BROKEN[kind]
    make(path)
    before = sizes(path)
    for _ in range(2):
        with pytest.raises(BrokerError, match=message) as caught:
            asyncio.run(SqliteBroker(path, CONFIG).open(Heard()))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    after = sizes(path)
    assert {name: after[name] for name in before} == before
    # What SQLite makes beside a file to read it is empty.
    assert after.keys() - before.keys() <= {"log.db-lock", "log.db-shm", "log.db-wal"}
    assert after.get("log.db-wal", b"") == before.get("log.db-wal", b"")


@pytest.mark.parametrize(
    "place", ["/nowhere/log.db", "/proc/log.db", "/dev/null/log.db", "/log.db/" + "x" * 300]
)
async def test_a_place_where_no_file_can_be_is_told_in_one_line(place: str) -> None:
    with pytest.raises(BrokerError, match="name a file in a directory that is there") as caught:
        await SqliteBroker(Path(place), CONFIG).open(Heard())
    assert "\n" not in str(caught.value)


async def test_an_empty_file_is_a_place_for_a_log(path: Path) -> None:
    path.touch()
    async with opened(path) as node:
        await node.append(Draft("a", b"1"))


async def test_a_log_that_was_never_finished_is_made_anew(path: Path) -> None:
    Path(f"{path}-new").write_bytes(b"half a")
    async with opened(path) as node:
        await node.append(Draft("a", b"1"))
    assert not Path(f"{path}-new").exists()


async def test_two_hubs_do_not_have_one_file(path: Path) -> None:
    async with opened(path) as node:
        message = rf"in use by another hub \(process {os.getpid()}\)"
        with pytest.raises(BrokerError, match=message):
            await SqliteBroker(path, CONFIG).open(Heard())
        link = path.with_name("link.db")
        link.symlink_to(path)
        with pytest.raises(BrokerError, match="in use"):
            await connect(f"sqlite:///{link}").open(Heard())
        await node.append(Draft("a", b"1"))
    async with opened(path) as node:
        assert len(node.heard.events) == 1


async def test_two_processes_do_not_have_one_file(path: Path) -> None:
    async with opened(path):
        with pytest.raises(AssertionError, match="in use by another hub"):
            await asyncio.to_thread(a_run_that_is_killed, path)


# Errors while it runs


@contextmanager
def full_disk(bytes: int) -> Iterator[None]:
    """No file can grow beyond this: writes fail as they do on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_what_has_no_room_fails_and_the_others_and_what_follows_do_not(path: Path) -> None:
    async with opened(path) as node:
        (first,) = await node.append(Draft("a", b"1"))
        size = Path(f"{path}-wal").stat().st_size
        large = [Draft("large", os.urandom(60_000), Kind.BYTES) for _ in range(20)]
        with full_disk(size + 100_000):
            # They wait together, and so would be in one transaction.
            answers = await asyncio.gather(
                node.broker.append([Draft("a", b"2")]),
                node.broker.append(large),
                node.broker.append([Draft("a", b"3")]),
                return_exceptions=True,
            )
            assert answers[0] == [Position(first.epoch, first.seq + 1)]
            assert isinstance(answers[1], BrokerError)
            assert str(path) in str(answers[1])
            assert answers[2] == [Position(first.epoch, first.seq + 2)]
        assert len(await node.append(*large)) == 20
        everything = node.heard.events
        assert [event.channel for event in everything] == ["a"] * 3 + ["large"] * 20
    async with opened(path) as node:
        assert node.heard.events == everything


async def test_a_full_database_is_told_as_no_room(path: Path) -> None:
    async with opened(path) as node:
        await node.append(Draft("a", b"1"))
        connection = node.broker._sqlite._writing  # type: ignore[attr-defined]
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(BrokerError, match=r"no room for .*log\.db"):
            await node.append(Draft("a", os.urandom(60_000), Kind.BYTES))
        connection.execute("PRAGMA max_page_count = 1000000")
        await node.append(Draft("a", b"2"))
        assert said(node.heard.events) == [("a", b"1"), ("a", b"2")]


async def test_an_append_waits_for_another_program_that_writes(path: Path) -> None:
    async with opened(path) as node:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = [asyncio.ensure_future(node.broker.append([d])) for d in drafts("a", 3)]
            await asyncio.sleep(0.3)
            assert not any(append.done() for append in waiting)
            other.execute("COMMIT")
            await asyncio.gather(*waiting)
        assert said(node.heard.events) == [("a", b"0"), ("a", b"1"), ("a", b"2")]


async def test_an_append_that_has_waited_long_enough_is_given_up(path: Path) -> None:
    async with opened(path, CONFIG._replace(wait=0.3)) as node:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(BrokerError, match=r"has not taken this for 0\.3 s"):
                await node.append(Draft("a", b"given up"))
        await node.append(Draft("a", b"1"))
        # It may have been stored all the same, if that had begun.
        assert said(node.heard.events)[-1] == ("a", b"1")


async def test_closing_does_not_wait_for_another_program(path: Path) -> None:
    async with opened(path, CONFIG._replace(wait=60)) as node:
        (position,) = await node.append(Draft("a", b"1"))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = asyncio.ensure_future(node.broker.append([Draft("a", b"2")]))
            await asyncio.sleep(0.05)
            begun = time.monotonic()
            await node.broker.close()
            assert time.monotonic() - begun < 5
            with pytest.raises(BrokerError, match=r"locked by another program|is not open"):
                await waiting
    async with opened(path) as node:
        assert node.heard.position.seq == position.seq


# How it goes


async def test_what_waits_together_is_committed_together(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    append = sqlite_log.SqliteLog.append

    def counted(self: sqlite_log.SqliteLog, appends: list[list[Draft]], now: int) -> object:
        counts.append(len(appends))
        return append(self, appends, now)

    monkeypatch.setattr(sqlite_log.SqliteLog, "append", counted)
    async with opened(path) as node:
        await asyncio.gather(*(node.broker.append([d]) for d in drafts("a", 500)))
    assert sum(counts) == 500
    assert len(counts) < 50


async def test_what_is_acknowledged_has_been_delivered(path: Path) -> None:
    async with opened(path) as node:
        for draft in drafts("a", 20):
            (position,) = await node.broker.append([draft])
            assert node.heard.position == position


async def test_who_stops_waiting_disturbs_nobody(path: Path) -> None:
    async with opened(path) as node:
        appends = [asyncio.ensure_future(node.broker.append([d])) for d in drafts("a", 100)]
        await appends[0]
        for append in appends[1::2]:
            append.cancel()
        positions = [(await append)[0] for append in appends[::2]]
        assert positions == sorted(set(positions))
        delivered = {event.position: event.data for event in node.heard.events}
        assert [delivered[position] for position in positions] == [
            b"%d" % n for n in range(0, 100, 2)
        ]


async def test_reading_back_does_not_hold_the_loop(path: Path) -> None:
    async with opened(path) as node:
        for _ in range(10):
            await node.append(*drafts("a", 1000))
        head = node.heard.position.seq
        turns = 0
        reading = asyncio.ensure_future(node.broker.read(Selection([">"]), 0, head, 10_000))
        while not reading.done():
            turns += 1
            await asyncio.sleep(0)
        assert len((await reading).events) == 10_000
        assert turns > 10


async def test_a_quiet_channel_is_found_without_reading_the_others(path: Path) -> None:
    async with opened(path) as node:
        await node.append(Draft("quiet", b"1"))
        for _ in range(20):
            await node.append(*drafts("busy", 1000))
        (end,) = await node.append(Draft("quiet", b"2"))
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        connection = node.broker._sqlite.reader._connection  # type: ignore[attr-defined]
        connection.set_progress_handler(count, 100)
        earlier = await node.broker.read(Selection(["quiet"]), 0, end.seq, 10)
        assert said(earlier.events) == [("quiet", b"1"), ("quiet", b"2")]
        assert earlier.begin == 0
        assert steps < 50  # in hundreds of SQLite's instructions


async def test_a_file_of_which_much_is_deleted_stays_as_large_as_it_needs(path: Path) -> None:
    config = CONFIG._replace(keep=Retention(1000), keys_max=500)
    async with opened(path, config) as node:

        async def publish(count: int) -> int:
            for start in range(0, count, 500):
                keyed = (Draft("a", bytes(200), Kind.BYTES, f"k{start + n}") for n in range(500))
                await node.broker.append(list(keyed))
            return path.stat().st_size

        await publish(10_000)
        before = await publish(5000)
        assert await publish(20_000) <= before * 1.1
        assert before < 4_000_000


async def test_a_file_gives_back_what_it_does_not_need_any_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinwire.brokers.sqlite._TIDY_SECONDS", 0.05)
    async with opened(path) as node:
        for _ in range(50):
            await node.append(*(Draft("a", bytes(1000), Kind.BYTES) for _ in range(100)))
    large = path.stat().st_size
    async with opened(path, CONFIG._replace(keep=Retention(100))) as node:
        await until(lambda: path.stat().st_size < large / 2)
    async with opened(path) as node:
        assert len(node.heard.events) == 100


async def test_events_that_are_too_old_go_without_new_ones_coming(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinwire.brokers.sqlite._TIDY_SECONDS", 0.05)
    async with opened(path, CONFIG._replace(keep=Retention(age=200))) as node:
        await node.append(*drafts("a", 5), *drafts("b", 1))
        log = node.broker._sqlite  # type: ignore[attr-defined]
        await until(lambda: log._state.floor == 6)
        assert log._state.kept == 2
        (position,) = await node.append(Draft("a", b"new"))
        assert position.seq == 7
        await until(lambda: log._state.floor == 7)
    async with opened(path) as node:
        # The newest of each key, and the head, whatever their age.
        assert node.heard.begins[0][0] == position
        assert said(node.heard.begins[0][1]) == [("b", b"0"), ("a", b"new")]


async def test_only_events_that_are_young_enough_are_warm(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: clock)
    async with opened(path) as node:
        for _ in range(10):
            clock += 1_000_000_000
            await node.append(*drafts("a", 10))
    async with opened(path, CONFIG._replace(warm=Retention(age=2500))) as node:
        assert len(node.heard.events) == 30
        assert node.heard.begins[0][0].seq == 70


async def test_data_of_more_than_is_kept_is_trimmed(path: Path) -> None:
    config = CONFIG._replace(keep=Retention(0, 100_000))
    async with opened(path, config) as node:
        for _ in range(20):
            await node.append(*(Draft("a", bytes(100), Kind.BYTES) for _ in range(256)))
    async with opened(path, config) as node:
        assert 1000 <= len(node.heard.events) <= 1000 + 256


async def test_of_too_many_idempotency_keys_the_oldest_are_forgotten(path: Path) -> None:
    async with opened(path, CONFIG._replace(idempotency_keys=100)) as node:
        keyed = [Draft("a", b"1", idempotency_key=f"k{n}") for n in range(1000)]
        positions = await node.append(*keyed)
        again = await node.append(*keyed[-100:])
        assert again == positions[-100:]
        assert (await node.append(keyed[0]))[0] > positions[-1]


async def test_a_record_that_is_no_event_is_told(path: Path) -> None:
    async with opened(path) as node:
        await node.append(*drafts("a", 3))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE events SET record = x'00' WHERE seq = 2")
    with pytest.raises(BrokerError, match=r"-2 there is no event of twinwire's"):
        await SqliteBroker(path, CONFIG).open(Heard())


async def test_an_open_that_fails_or_is_cancelled_leaves_nothing_open(path: Path) -> None:
    threads = threading.active_count()
    opening = asyncio.ensure_future(SqliteBroker(path, CONFIG).open(Heard()))
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    assert opening.cancelled()
    async with opened(path) as node:
        await node.append(Draft("a", b"1"))
    await until(lambda: threading.active_count() == threads)


def test_a_loop_that_ends_without_closing_ends_all_the_same(path: Path) -> None:
    async def main() -> None:
        broker = SqliteBroker(path, CONFIG)
        await broker.open(Heard())
        await broker.append(drafts("a", 3))

    asyncio.run(main())
    assert sqlite_file.exists(path)
