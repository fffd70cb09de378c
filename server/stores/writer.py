"""A SQLite file with one writer thread, group commit, and a few reader threads.

Knows no table: jobs bring their statements, a list of migrations brings the schema. The invariants: `write` returns
only after the commit that holds its job is durable (WAL, synchronous=FULL); a job that raises leaves no trace and does
not disturb its neighbours; nothing here runs in the event loop.

Why groups: a durable commit costs one fsync whatever it holds, so the next jobs gather while one is being written. Why
a group is run without savepoints first: nearly no job raises, and two statements less for each is two hand-overs
of the interpreter less. When one does raise, the group is undone and run again with a savepoint around every job; so a
job may run twice, the first time without effect.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from isolate.clock import Clock, SystemClock
from isolate.errors import NoSpace, Unavailable
from isolate.monitor import Monitor, NullMonitor
from server.stores.sqlite_file import connect, migrate, translated

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]


@dataclass(frozen=True, slots=True)
class DatabasePolicy:
    """Limits of one database."""

    readers: int = 2
    max_waiting_jobs: int = 20_000  # beyond, `write` and `read` raise Unavailable: a queue without end helps nobody
    group_s: float = 0.03  # a group takes no further job after this, so that no transaction lasts 50 ms
    group_jobs: int = 2_000
    cache_bytes: int = 16 * 2**20  # page cache of each connection
    checkpoint_rows: int = 4_000  # changed rows after which the log is moved into the file, beside the writer
    max_log_pages: int = 50_000  # 200 MiB of log: only then the writer itself stops to do it
    alone_log_pages: int = 500  # the same where one connection does everything, because the disk is full


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
    Raises FormatTooNew for a file with more versions than that, IndexCorrupt for one that is no database. Where a full
    disk has no room for the memory that connections share, one does everything: reading goes on.
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
        self.has_short_log = False  # set where there is little room for it: moved into the file after every commit
        self._waiting_readers = 0
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._connections: list[sqlite3.Connection] = []
        self._idle_readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        try:
            self._open(migrations, alone=False)
        except NoSpace:
            self._open(migrations, alone=True)
        self._readers = ThreadPoolExecutor(self._policy.readers, thread_name_prefix=f"read-{path.stem}")
        self._checkpoints = ThreadPoolExecutor(1, thread_name_prefix=f"checkpoint-{path.stem}")
        self._checkpointed_rows = 0
        self._checkpoint: Future[None] | None = None
        self._thread = threading.Thread(target=self._run, name=f"write-{path.stem}", daemon=True)
        self._thread.start()

    async def write(self, job: Job[T]) -> T:
        """Run `job` in the writer thread and return its result once it is durable.

        Jobs run in the order of the calls, several in one transaction; a job takes a few milliseconds at most, touches
        only the connection, and may be undone and run again. What it raises reaches the caller alone. A cancelled
        caller does not know whether the job ran. Raises NoSpace, Unavailable.
        """
        self._admit(self._requests.qsize())
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._requests.put(_Request(job, future))
        return await future

    async def read(self, job: Job[T]) -> T:
        """Run `job` on one consistent snapshot in a reader thread; it sees every write that has returned."""
        if self._is_alone:
            return await self.write(job)
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
        for end in (self._thread.join, self._checkpoints.shutdown, self._readers.shutdown):
            await asyncio.to_thread(end)
        await asyncio.to_thread(self._close_connections)  # the last one to go moves the log into the file

    def _admit(self, waiting: int) -> None:
        if self._closing:
            raise Unavailable(f"{self.path.name} is closing")
        if waiting >= self._policy.max_waiting_jobs:
            raise Unavailable(f"{self.path.name} has {waiting} jobs waiting", retry_after_s=1.0)

    def _open(self, migrations: Sequence[str], *, alone: bool) -> None:
        policy, self._is_alone = self._policy, alone
        try:
            self._writer = self._connect(policy.alone_log_pages if alone else policy.max_log_pages)
            migrate(self._writer, migrations, self.path)
            if alone:
                return
            self._checkpointer = self._connect(0)
            for _ in range(policy.readers):
                reader = self._connect(0)
                reader.execute("PRAGMA query_only = ON")
                self._idle_readers.put(reader)
        except BaseException as error:
            self._close_connections()
            if isinstance(error, sqlite3.Error):
                raise translated(error, self.path) from error
            raise

    def _connect(self, checkpoint_pages: int) -> sqlite3.Connection:
        connection = connect(self.path, self._policy.cache_bytes, checkpoint_pages, alone=self._is_alone)
        self._connections.append(connection)
        return connection

    def _close_connections(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def _read(self, job: Job[T]) -> T:
        connection = self._idle_readers.get()
        try:
            connection.execute("BEGIN")
            try:
                return job(connection)
            finally:
                if connection.in_transaction:  # some errors end it by themselves
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
        try:
            if not self._ran_all(group):
                self._run_each(group)
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo()
            _fail(group, translated(error, self.path))
        else:
            self._monitor.count("committed_transactions")
            self._checkpoint_soon()

    def _ran_all(self, group: list[_Request]) -> bool:
        """Begin a transaction and run in it what there is; returns False, with nothing done, when a job raised."""
        connection, policy, started_s = self._writer, self._policy, self._clock.monotonic()
        connection.execute("BEGIN IMMEDIATE")
        request: _Request | None = group[0]
        while request is not None:
            if not request.future.cancelled():
                try:
                    request.result = request.job(connection)
                except Exception:  # noqa: BLE001 - the second run finds out what it was, and whose
                    self._undo()
                    return False
            if len(group) >= policy.group_jobs or self._clock.monotonic() - started_s >= policy.group_s:
                return True
            request = self._next()
            if request is not None:
                group.append(request)
        return True

    def _run_each(self, group: Sequence[_Request]) -> None:
        """Begin a transaction in which each of the group can fail alone."""
        self._writer.execute("BEGIN IMMEDIATE")
        for request in group:
            self._attempt(request)

    def _undo(self) -> None:
        if self._writer.in_transaction:  # some errors end it by themselves
            self._writer.execute("ROLLBACK")

    def _checkpoint_soon(self) -> None:
        """Have the log moved into the file by another thread: of a large index this takes longer than a commit may."""
        rows = self._writer.total_changes
        enough = 0 if self.has_short_log else self._policy.checkpoint_rows
        if self._is_alone or rows - self._checkpointed_rows < enough:
            return
        if self._checkpoint is None or self._checkpoint.done():
            self._checkpointed_rows = rows
            self._checkpoint = self._checkpoints.submit(self._move_log)

    def _move_log(self) -> None:
        try:
            self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            self._monitor.problem(translated(error, self.path))  # the log keeps everything; the next one may work

    def _next(self) -> _Request | None:
        """Return one that waits already."""
        try:
            request = self._requests.get_nowait()
        except queue.Empty:
            return None
        self._told_to_stop = request is None
        return request

    def _attempt(self, request: _Request) -> None:
        """Run one job under a savepoint; what it raises is kept for its caller."""
        connection = self._writer
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


def _answer(group: Sequence[_Request]) -> None:
    """Wake the callers: one hop into each event loop for the whole group."""
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[_Request]] = defaultdict(list)
    for request in group:
        by_loop[request.future.get_loop()].append(request)
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
