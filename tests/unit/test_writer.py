"""The writer thread: durable groups, isolated jobs, clear errors."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from isolate.errors import FormatTooNew, IndexCorrupt, NoSpace, Unavailable
from isolate.monitor import TallyMonitor
from server.stores import writer
from server.stores.sqlite_file import connect, translated
from server.stores.writer import Database, DatabasePolicy
from tests.clock import ManualClock

SCHEMA = "CREATE TABLE thing (name TEXT PRIMARY KEY, payload BLOB);\n"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path / "things.sqlite", [SCHEMA], monitor=TallyMonitor(), clock=ManualClock())
    yield database
    await database.close()


def insert(name: str, size_bytes: int = 0) -> Insert:
    return Insert(name, size_bytes)


class Insert:
    def __init__(self, name: str, size_bytes: int) -> None:
        self._row = (name, bytes(size_bytes))

    def __call__(self, connection: sqlite3.Connection) -> str:
        connection.execute("INSERT INTO thing VALUES (?, ?)", self._row)
        return self._row[0]


def names(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM thing ORDER BY name")]


async def test_a_write_returns_its_result_and_is_seen_by_the_next_read(database: Database) -> None:
    assert await database.write(insert("a")) == "a"
    assert await database.read(names) == ["a"]


async def test_jobs_that_wait_together_share_a_commit(database: Database) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        entered.set()
        leave.wait()
        insert("slow")(connection)

    monitor = database._monitor
    assert isinstance(monitor, TallyMonitor)
    async with asyncio.TaskGroup() as group:
        group.create_task(database.write(slow))
        await asyncio.to_thread(entered.wait)
        for number in range(100):
            group.create_task(database.write(insert(f"{number:03d}")))
        await asyncio.sleep(0)
        leave.set()
    assert len(await database.read(names)) == 101
    assert monitor.counters["committed_transactions"] == 1


async def test_a_failing_job_leaves_no_trace_and_its_neighbours_stay(database: Database) -> None:
    def half(connection: sqlite3.Connection) -> None:
        insert("half")(connection)
        raise LookupError("in the middle")

    results = await asyncio.gather(
        database.write(insert("a")), database.write(half), database.write(insert("b")), return_exceptions=True
    )
    assert results[0] == "a"
    assert isinstance(results[1], LookupError)
    assert results[2] == "b"
    assert await database.read(names) == ["a", "b"]


async def test_a_group_in_which_one_raises_is_undone_and_run_again(database: Database) -> None:
    entered, leave = threading.Event(), threading.Event()
    runs: list[str] = []

    def noted(name: str) -> Callable[[sqlite3.Connection], str]:
        def job(connection: sqlite3.Connection) -> str:
            runs.append(name)
            if name == "first" and not leave.is_set():
                entered.set()
                leave.wait()
            if name == "bad":
                raise LookupError(name)
            return insert(name)(connection)

        return job

    first = asyncio.ensure_future(database.write(noted("first")))
    await asyncio.to_thread(entered.wait)
    others = [asyncio.ensure_future(database.write(noted(name))) for name in ("bad", "last")]
    await asyncio.sleep(0)
    leave.set()
    assert await first == "first"
    with pytest.raises(LookupError):
        await others[0]
    assert await others[1] == "last"
    assert await database.read(names) == ["first", "last"]
    assert runs[:4] == ["first", "bad", "first", "bad"]  # without savepoints, then with them


async def test_a_broken_constraint_reaches_its_caller_as_it_is(database: Database) -> None:
    await database.write(insert("a"))
    with pytest.raises(sqlite3.IntegrityError):
        await database.write(insert("a"))
    assert await database.write(insert("b")) == "b"


async def test_a_full_disk_fails_the_group_and_service_recovers(database: Database) -> None:
    await database.write(insert("kept"))

    def limit(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA max_page_count = 8")

    await database.write(limit)
    with pytest.raises(NoSpace, match=r"things\.sqlite"):
        await database.write(insert("big", 10**6))
    assert await database.read(names) == ["kept"]

    def more(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA max_page_count = 100000")

    await database.write(more)
    await database.write(insert("big", 10**6))
    assert await database.read(names) == ["big", "kept"]


async def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await database.read(insert("a"))


async def test_what_was_acknowledged_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "things.sqlite"
    first = Database(path, [SCHEMA])
    await first.write(insert("a"))
    await first.close()
    second = Database(path, [SCHEMA, "ALTER TABLE thing ADD COLUMN note TEXT;\nCREATE INDEX by_note ON thing (note);"])
    assert await second.read(names) == ["a"]
    await second.close()
    with pytest.raises(FormatTooNew, match=r"things\.sqlite has schema 2, this version knows 1"):
        Database(path, [SCHEMA])


async def test_a_migration_that_fails_leaves_the_version_before(tmp_path: Path) -> None:
    path = tmp_path / "things.sqlite"
    with pytest.raises(sqlite3.OperationalError):
        Database(path, [SCHEMA, "CREATE TABLE other (a);\nCREATE TABLE nonsense;"])
    database = Database(path, [SCHEMA, "CREATE TABLE other (b);"])
    await database.write(insert("a"))
    await database.close()


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "things.sqlite"
    path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(IndexCorrupt, match=r"things\.sqlite is damaged"):
        Database(path, [SCHEMA])


async def test_a_closed_database_says_so(tmp_path: Path) -> None:
    database = Database(tmp_path / "things.sqlite", [SCHEMA])
    pending = asyncio.ensure_future(database.write(insert("a")))
    await asyncio.sleep(0)
    await database.close()
    assert await pending == "a"
    with pytest.raises(Unavailable, match="closing"):
        await database.write(insert("b"))
    with pytest.raises(Unavailable, match="closing"):
        await database.read(names)


async def test_a_queue_without_end_is_refused(tmp_path: Path) -> None:
    database = Database(tmp_path / "things.sqlite", [SCHEMA], policy=DatabasePolicy(max_waiting_jobs=2))
    entered, leave = threading.Event(), threading.Event()

    def slow(_: sqlite3.Connection) -> None:
        entered.set()
        leave.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(database.write(slow))
        await asyncio.to_thread(entered.wait)
        for name in "ab":
            group.create_task(database.write(insert(name)))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="2 jobs waiting") as raised:
            await database.write(insert("c"))
        leave.set()
    assert raised.value.retry_after_s == 1.0
    await database.close()


async def test_a_cancelled_caller_does_not_disturb_the_others(database: Database) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(_: sqlite3.Connection) -> None:
        entered.set()
        leave.wait()

    running = asyncio.ensure_future(database.write(slow))
    await asyncio.to_thread(entered.wait)
    waiting = asyncio.ensure_future(database.write(insert("a")))
    await asyncio.sleep(0)
    waiting.cancel()
    leave.set()
    await running
    assert await database.write(insert("b")) == "b"
    assert await database.read(names) == ["b"]


async def test_the_log_is_moved_into_the_file_beside_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "things.sqlite"
    database = Database(path, [SCHEMA], policy=DatabasePolicy(checkpoint_rows=10))
    empty_bytes = path.stat().st_size
    assert database._checkpoint is None
    for number in range(10):
        await database.write(insert(f"{number}", 10_000))
    assert database._checkpoint is not None
    await asyncio.wrap_future(database._checkpoint)
    assert path.stat().st_size > empty_bytes + 50_000
    assert len(await database.read(names)) == 10
    await database.close()


async def test_without_room_for_shared_memory_one_connection_does_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "things.sqlite"

    def full(path: Path, cache_bytes: int, checkpoint_pages: int, *, alone: bool = False) -> sqlite3.Connection:
        if not alone:
            raise NoSpace("No space left for things.sqlite")
        return connect(path, cache_bytes, checkpoint_pages, alone=True)

    first = Database(path, [SCHEMA])
    await first.write(insert("a"))
    await first.close()
    monkeypatch.setattr(writer, "connect", full)
    alone = Database(path, [SCHEMA])
    assert await alone.read(names) == ["a"]
    assert not path.with_name("things.sqlite-shm").exists()
    assert path.with_name("things.sqlite-wal").stat().st_size == 0
    assert await alone.write(insert("b")) == "b"
    assert await alone.read(names) == ["a", "b"]
    await alone.close()
    monkeypatch.undo()
    again = Database(path, [SCHEMA])
    assert await again.read(names) == ["a", "b"]
    await again.close()


def test_no_room_for_shared_memory_is_no_room() -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = 4874
    assert isinstance(translated(error, Path("things.sqlite")), NoSpace)
    error.sqlite_errorcode = 10
    assert isinstance(translated(error, Path("things.sqlite")), Unavailable)


async def test_a_log_that_is_to_be_short_is_moved_after_each_commit(tmp_path: Path) -> None:
    path = tmp_path / "things.sqlite"
    database = Database(path, [SCHEMA])
    database.has_short_log = True
    for number in range(20):
        await database.write(insert(f"{number}", 100_000))
        assert database._checkpoint is not None
        await asyncio.wrap_future(database._checkpoint)
    assert path.with_name("things.sqlite-wal").stat().st_size < 300_000
    await database.close()
