"""The index of a local cache: which files it holds, as they were when they were verified.

Knows rows, not files: the caller gives a `scan` that lists what is on disk, and that is what a lost or corrupt index is
rebuilt from, under the lock of the cache and without a word to whoever was in the middle of something. The invariant: a
job either happened as a whole or not at all, and the totals are those of the rows.

SQLite in WAL mode, shared by processes; transactions are short. Nothing is fsynced: losing the index costs a rebuild,
and rows of an earlier boot are not believed (see `Row.boot`).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from isolate.cas.cache_session import has_room, lack_of_descriptors, locked
from isolate.cas.lru import Item, Usage
from isolate.errors import IsolateError, NoSpace, Unavailable
from isolate.monitor import Monitor

T = TypeVar("T")

BUSY_TIMEOUT_S = 60.0  # jobs take milliseconds; a rebuild of a million files takes seconds
UNKNOWN_BOOT = 0  # of a row whose file was never verified by anyone we remember; less: it came into doubt later
_PERHAPS_FULL = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}  # also of what is damaged
_BATCH = 256  # keys per look-up: one statement, prepared once

_SCHEMA = """
CREATE TABLE item(
    key BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL,
    used_s INTEGER NOT NULL, boot INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX item_by_use ON item(used_s);
CREATE TABLE total(items INTEGER NOT NULL, size_bytes INTEGER NOT NULL);
INSERT INTO total VALUES (0, 0);
CREATE TABLE boot(number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE);
CREATE TRIGGER item_added AFTER INSERT ON item BEGIN
    UPDATE total SET items = items + 1, size_bytes = size_bytes + new.size; END;
CREATE TRIGGER item_gone AFTER DELETE ON item BEGIN
    UPDATE total SET items = items - 1, size_bytes = size_bytes - old.size; END;
"""
_LOOK_UP = "SELECT key, size, mtime_ns, inode, used_s, boot FROM item WHERE key IN (?)".replace(
    "?", ",".join("?" * _BATCH)
)
# Not in _SCHEMA: caches made before there was a use for it get it too.
_BY_DOUBT = "CREATE INDEX IF NOT EXISTS item_in_doubt ON item(key) WHERE boot <= 0"
_INSERT = "INSERT INTO item(key, size, mtime_ns, inode, used_s, boot) VALUES (?, ?, ?, ?, ?, ?)"


Identity = tuple[int, int, int]  # size, mtime_ns, inode


class Row(NamedTuple):
    """One file of the cache as it was when it was verified."""

    key: bytes
    size: int
    mtime_ns: int
    inode: int
    used_s: int
    boot: int  # another boot than the present one: verify the bytes again, they may never have reached the disk

    @property
    def is_in_doubt(self) -> bool:
        """Whether somebody may be able to write to the file: see cache_doubt.py. Each new doubt is another `boot`."""
        return self.boot <= UNKNOWN_BOOT

    @property
    def identity(self) -> Identity:
        """What changes when the file is replaced, and nearly always when it is written to."""
        return self.size, self.mtime_ns, self.inode


def identity(status: os.stat_result) -> Identity:
    """Return what `Row.identity` is compared with."""
    return status.st_size, status.st_mtime_ns, status.st_ino


class Rows:
    """The statements a job may use, inside its transaction."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def look_up(self, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """Return the rows of those `keys` that have one."""
        found: dict[bytes, Row] = {}
        new = tuple.__new__  # half of a constructor's time; a tree has a hundred thousand rows
        ordered = sorted(keys)  # neighbours share the pages they are on: twice as fast
        for start in range(0, len(ordered), _BATCH):
            batch = ordered[start : start + _BATCH]
            batch += batch[-1:] * (_BATCH - len(batch))
            for values in self._database.execute(_LOOK_UP, batch):
                found[values[0]] = new(Row, values)
        return found

    def oldest_first(self) -> Iterable[Item]:
        """Yield all items, least recently used first; read no further than needed."""
        for values in self._database.execute("SELECT key, size, used_s FROM item ORDER BY used_s, key"):
            yield Item(*values)

    def usage(self) -> Usage:
        return Usage(*self._database.execute("SELECT items, size_bytes FROM total").fetchone())

    def oldest_s(self) -> int | None:
        """Return when the least recently used item was used, None without items."""
        used_s: int | None = self._database.execute("SELECT MIN(used_s) FROM item").fetchone()[0]
        return used_s

    def insert(self, rows: Iterable[Row]) -> None:
        self._database.executemany(_INSERT, rows)

    def delete(self, keys: Iterable[bytes]) -> None:
        self._database.executemany("DELETE FROM item WHERE key = ?", [(key,) for key in keys])

    def touch(self, keys: Iterable[bytes], used_s: int, boot: int) -> None:
        """Say that the items were used now, and are known to be good in this boot; a doubt stays one."""
        rows = [(used_s, boot, key) for key in keys]
        self._database.executemany("UPDATE item SET used_s = ?, boot = IIF(boot > 0, ?, boot) WHERE key = ?", rows)

    def mark(self, keys: Iterable[bytes], boot: int) -> None:
        """Say that the items are good in this `boot`, or with one of 0 and less that they are in doubt."""
        self._database.executemany("UPDATE item SET boot = ? WHERE key = ?", [(boot, key) for key in keys])

    def in_doubt(self) -> list[bytes]:
        """Return the keys of all items in doubt; that costs nothing when there are none."""
        return [key for (key,) in self._database.execute("SELECT key FROM item WHERE boot <= 0")]


class Index:
    """The index of the cache at `root`; call its methods from any thread."""

    def __init__(self, root: Path, scan: Callable[[], Iterable[Row]], boot_id: str, monitor: Monitor) -> None:
        self._root, self._path = root, root / "index.sqlite"
        self._scan, self._boot_id, self._monitor = scan, boot_id, monitor
        self._mutex = threading.RLock()
        self._database: sqlite3.Connection | None = None
        self._inode = 0
        self.is_closed = False
        self.boot = UNKNOWN_BOOT

    def look_up(self, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """Return the rows of those `keys` that have one."""
        return self._run(lambda database: Rows(database).look_up(keys))

    def usage(self) -> Usage:
        return self._run(lambda database: Rows(database).usage())

    def oldest_s(self) -> int | None:
        """Return when the least recently used item was used, None without items."""
        return self._run(lambda database: Rows(database).oldest_s())

    def in_doubt(self) -> list[bytes]:
        """Return the keys of all items in doubt."""
        return self._run(lambda database: Rows(database).in_doubt())

    def write(self, job: Callable[[Rows], T]) -> T:
        """Run `job` in a transaction that excludes all other writers, in every process, and return its result.

        `job` runs a second time when the index turns out to be corrupt and was rebuilt, so it must be repeatable.
        """

        def transaction(database: sqlite3.Connection) -> T:
            database.execute("BEGIN IMMEDIATE")
            try:
                result = job(Rows(database))
                database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                raise
            return result

        return self._run(transaction)

    def close(self) -> None:
        """Refuse everything from now on."""
        with self._mutex:
            self.is_closed = True
            self._disconnect()

    def _run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run `operation`; on a corrupt index rebuild it and run it once more."""
        with self._mutex:
            if self.is_closed:
                raise IsolateError(f"The cache {self._root} is closed")
            try:
                return operation(self._current())
            except sqlite3.DatabaseError as error:
                self._raise_unless_corrupt(error)
                self._monitor.problem(f"The index of the cache {self._root} was corrupt and is rebuilt: {error}")
                self._monitor.count("rebuilt_cache_indexes")
            try:
                self._rebuild()
                return operation(self._current())
            except sqlite3.DatabaseError as error:
                self._raise_unless_corrupt(error)
                raise IsolateError(f"Cannot use the cache {self._root}: {error}") from error

    def _raise_unless_corrupt(self, error: sqlite3.DatabaseError) -> None:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise Unavailable(f"The cache {self._root} is busy in another process") from error
        if code == sqlite3.SQLITE_FULL or (code in _PERHAPS_FULL and not has_room(self._root)):
            raise NoSpace(f"No space left for the index of the cache {self._root}: its disk is full") from error
        if code == sqlite3.SQLITE_CANTOPEN and (lack := lack_of_descriptors(self._root)):
            raise IsolateError(f"Cannot use the cache {self._root}: {lack}") from error
        if not os.access(self._path, os.R_OK | os.W_OK):  # else a damaged header says that it is read-only
            raise IsolateError(f"Cannot use the cache {self._root}: {error}") from error

    def _current(self) -> sqlite3.Connection:
        """Return a connection to the index that is at the path now: another process may have replaced it."""
        try:
            inode = os.stat(self._path).st_ino
        except FileNotFoundError:
            inode = 0
        if self._database is None or inode != self._inode or not inode:
            self._disconnect()
            with locked(self._root):
                self._database = self._connect()
        return self._database

    def _connect(self) -> sqlite3.Connection:
        if not self._path.exists():
            self._forget()  # a journal without its database would be applied to the new one
            self._path.touch(0o600)
        self._inode = os.stat(self._path).st_ino
        database = sqlite3.connect(
            self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=16
        )
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=OFF")
            database.execute("PRAGMA cache_size=-16000")  # 16 MB
            self._prepare(database)
        except BaseException:
            database.close()
            raise
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        """Create what a new index needs, from what is on disk; note which boot this is."""
        database.execute("BEGIN IMMEDIATE")
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'item_gone'").fetchone():
            for statement in _statements(_SCHEMA):
                database.execute(statement)
            Rows(database).insert(self._scan())
        database.execute(_BY_DOUBT)
        database.execute("INSERT OR IGNORE INTO boot(id) VALUES (?)", (self._boot_id,))
        self.boot = database.execute("SELECT number FROM boot WHERE id = ?", (self._boot_id,)).fetchone()[0]
        database.execute("COMMIT")

    def _rebuild(self) -> None:
        """Replace the index, unless another process was faster."""
        broken = self._inode
        self._disconnect()
        with locked(self._root):
            with suppress(FileNotFoundError):
                if os.stat(self._path).st_ino != broken and broken:
                    return
            self._forget()
        self._inode = 0

    def _disconnect(self) -> None:
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
        self._database = None

    def _forget(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(f"{self._path}{suffix}")


def _statements(script: str) -> list[str]:
    """Split a script at the semicolons that end a statement: SQLite decides, triggers contain some."""
    statements, text = [], ""
    for line in script.splitlines():
        text += line + "\n"
        if sqlite3.complete_statement(text):
            statements.append(text)
            text = ""
    return statements
