"""A SQLite file with one writer thread, group commit, and a few reader threads.

Knows no table: jobs bring their statements, a list of migrations brings the schema. The invariants: `write` returns
only after the commit that holds its job is durable (WAL, synchronous=FULL); a job that raises leaves no trace and does
not disturb its neighbours; nothing here runs in the event loop.

Why groups: a durable commit costs one fsync whatever it holds. While one is being written the next jobs gather, so the
number of commits per second is the disk's, and the number of jobs per second is not.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from isolate.clock import Clock, SystemClock
from isolate.errors import FormatTooNew, IndexCorrupt, IsolateError, NoSpace, Unavailable
from isolate.monitor import Monitor, NullMonitor

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]

_FULL = 13  # SQLITE_FULL; the low byte of an extended code is the primary one
_CORRUPT = {11, 26}  # SQLITE_CORRUPT, SQLITE_NOTADB
_TRY_LATER = {5, 6, 10, 14}  # SQLITE_BUSY, _LOCKED, _IOERR, _CANTOPEN


@dataclass(frozen=True, slots=True)
class DatabasePolicy:
    """Limits of one database."""

    readers: int = 2
    max_waiting_jobs: int = 20_000  # beyond, `write` and `read` raise Unavailable: a queue without end helps nobody
    group_s: float = 0.03  # a group takes no further job after this, so that no transaction lasts 50 ms
    group_jobs: int = 2_000
    cache_bytes: int = 16 * 2**20  # page cache of each connection
    checkpoint_pages: int = 4_000  # 16 MiB of log: fewer, larger checkpoints than SQLite's 1,000
    busy_timeout_s: float = 5.0  # somebody looks at the file with another program


@dataclass(slots=True)
class _Request:
    """A job that waits for its commit."""

    job: Job[Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


class Database:
    """One SQLite file, written by one thread.

    `migrations` are SQL scripts, one per schema version, applied once each and in order; released ones never change.
    Raises FormatTooNew for a file with more versions than that, IndexCorrupt for one that is no database.
    """

    def __init__(
        self,
        path: Path,
        migrations: Sequence[str],
        *,
        policy: DatabasePolicy | None = None,
        clock: Clock | None = None,
        monitor: Monitor | None = None,
    ) -> None:
        self.path = path
        self._policy = policy or DatabasePolicy()
        self._clock = clock or SystemClock()
        self._monitor = monitor or NullMonitor()
        self._closing = self._told_to_stop = False
        self._waiting_readers = 0
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._connection = self._connect()
        try:
            _migrate(self._connection, migrations)
        except sqlite3.Error as error:
            self._connection.close()
            raise translated(error, path) from error
        except BaseException:
            self._connection.close()
            raise
        self._idle_readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        for _ in range(self._policy.readers):
            reader = self._connect()
            reader.execute("PRAGMA query_only = ON")
            self._idle_readers.put(reader)
        self._readers = ThreadPoolExecutor(self._policy.readers, thread_name_prefix=f"read-{path.stem}")
        self._thread = threading.Thread(target=self._run, name=f"write-{path.stem}", daemon=True)
        self._thread.start()

    async def write(self, job: Job[T]) -> T:
        """Run `job` in the writer thread and return its result once it is durable.

        Jobs run in the order of the calls, each under its own savepoint inside the group's transaction; a job takes a
        few milliseconds at most, and touches only the connection. What it raises reaches the caller alone. A cancelled
        caller does not know whether the job ran. Raises NoSpace, Unavailable.
        """
        self._admit(self._requests.qsize())
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._requests.put(_Request(job, future))
        return await future

    async def read(self, job: Job[T]) -> T:
        """Run `job` on one consistent snapshot in a reader thread; it sees every write that has returned."""
        self._admit(self._waiting_readers)
        self._waiting_readers += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, job)
        finally:
            self._waiting_readers -= 1

    async def close(self) -> None:
        """Finish what was asked for, then close the file; later calls raise Unavailable."""
        if self._closing:
            return
        self._closing = True
        self._requests.put(None)
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._readers.shutdown)
        while not self._idle_readers.empty():
            self._idle_readers.get().close()
        self._connection.close()

    def _admit(self, waiting: int) -> None:
        if self._closing:
            raise Unavailable(f"{self.path.name} is closing")
        if waiting >= self._policy.max_waiting_jobs:
            raise Unavailable(f"{self.path.name} has {waiting} jobs waiting", retry_after_s=1.0)

    def _connect(self) -> sqlite3.Connection:
        policy = self._policy
        try:
            connection = sqlite3.connect(
                self.path,
                timeout=policy.busy_timeout_s,
                isolation_level=None,  # transactions are ours to begin and end
                check_same_thread=False,  # handed from the opener to its one thread
                cached_statements=512,
            )
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA temp_store = MEMORY")
                # A pragma takes no parameters; its table-valued spelling has no setter either. These are integers.
                connection.execute(f"PRAGMA cache_size = {-(policy.cache_bytes // 1024):d}")
                connection.execute(f"PRAGMA wal_autocheckpoint = {policy.checkpoint_pages:d}")
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise translated(error, self.path) from error
        return connection

    def _read(self, job: Job[T]) -> T:
        connection = self._idle_readers.get()
        try:
            connection.execute("BEGIN")
            try:
                return job(connection)
            finally:
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise translated(error, self.path) from error
        finally:
            self._idle_readers.put(connection)

    def _run(self) -> None:
        """The writer thread: gather a group, commit it, answer, until closed."""
        while not self._told_to_stop:
            request = self._requests.get()
            if request is None:
                return
            group = [request]
            try:
                self._commit(group)
            except Exception as error:  # noqa: BLE001  -- every caller of the group gets it; none may wait for ever
                _fail(group, error)
            _answer(group)

    def _commit(self, group: list[_Request]) -> None:
        """Run the first request, and those that wait behind it, in one transaction."""
        connection, started_s = self._connection, self._clock.monotonic()
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._attempt(group[0])
            while len(group) < self._policy.group_jobs and self._clock.monotonic() - started_s < self._policy.group_s:
                request = self._next()
                if request is None:
                    break
                group.append(request)
                self._attempt(request)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            _fail(group, translated(error, self.path))
        else:
            self._monitor.count("committed_transactions")

    def _next(self) -> _Request | None:
        """Return a request that waits already."""
        try:
            request = self._requests.get_nowait()
        except queue.Empty:
            return None
        self._told_to_stop = request is None
        return request

    def _attempt(self, request: _Request) -> None:
        """Run one job under a savepoint; what it raises is kept for its caller."""
        connection = self._connection
        if request.future.cancelled():
            return
        connection.execute("SAVEPOINT job")
        try:
            request.result = request.job(connection)
        except Exception as error:
            request.error = translated(error, self.path) if isinstance(error, sqlite3.Error) else error
            if isinstance(error, sqlite3.Error) and not connection.in_transaction:
                raise  # on a full disk, for one, SQLite rolls everything back: the neighbours failed too
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")


def _fail(group: Sequence[_Request], error: Exception) -> None:
    for request in group:
        request.error = request.error or error


def translated(error: sqlite3.Error, path: Path) -> Exception:
    """Return the error of ours that says what the caller can do; one about the statement itself stays as it is."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    failure: IsolateError
    if code == _FULL:
        failure = NoSpace(f"No space left for {path.name}")
    elif code in _CORRUPT:
        failure = IndexCorrupt(f"{path.name} is damaged: {error}")
    elif code in _TRY_LATER:
        failure = Unavailable(f"{path.name} cannot be used now: {error}")
    else:
        return error
    failure.__cause__ = error
    return failure


def _migrate(connection: sqlite3.Connection, migrations: Sequence[str]) -> None:
    """Bring the schema to the last version, one transaction per step, so that a crash leaves a whole version."""
    connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    (version,) = connection.execute("SELECT COALESCE(MAX(version), 0) FROM schema_version").fetchone()
    if version > len(migrations):
        raise FormatTooNew(f"Database has schema {version}, this version knows {len(migrations)}: use a newer version")
    for number, script in enumerate(migrations[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _statements(script):
                connection.execute(statement)
            connection.execute("INSERT INTO schema_version (version) VALUES (?)", (number,))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _statements(script: str) -> list[str]:
    """Split a script; `executescript` would commit behind our back."""
    statements, part = [], ""
    for line in script.splitlines(keepends=True):
        part += line
        if sqlite3.complete_statement(part):
            statements.append(part)
            part = ""
    return [*statements, part] if part.strip() else statements


def _answer(group: Sequence[_Request]) -> None:
    """Wake the callers: one hop into each event loop for the whole group."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Request]] = {}
    for request in group:
        by_loop.setdefault(request.future.get_loop(), []).append(request)
    for loop, requests in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, requests)
        except RuntimeError:  # the loop is closed: nobody is left to hear the answer
            continue


def _resolve(requests: Sequence[_Request]) -> None:
    for request in requests:
        if request.future.done():
            continue
        if request.error is not None:
            request.future.set_exception(request.error)
        else:
            request.future.set_result(request.result)
