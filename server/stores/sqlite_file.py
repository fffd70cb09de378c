"""A SQLite file as all of ours are: how it is opened, what its errors mean, how its schema grows.

Knows no table and no thread. The invariant: a commit on a connection made here is durable when it returns, and a schema
is at a whole version whenever a process dies.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from isolate.errors import FormatTooNew, IndexCorrupt, IsolateError, NoSpace, Unavailable

BUSY_TIMEOUT_S = 5.0  # somebody looks at the file with another program
KEPT_LOG_BYTES = 64 << 20  # a log that had to grow is cut back to this

_FULL = 13  # SQLITE_FULL; the low byte of an extended code is the primary one
_SHARED_FULL = 4874  # SQLITE_IOERR_SHMSIZE: the memory that connections share is a file, which needs room as well
_CORRUPT = {11, 26}  # SQLITE_CORRUPT, SQLITE_NOTADB
_TRY_LATER = {5, 6, 10, 14}  # SQLITE_BUSY, _LOCKED, _IOERR, _CANTOPEN


def connect(path: Path, cache_bytes: int, checkpoint_pages: int, *, alone: bool = False) -> sqlite3.Connection:
    """Open the file, or create one that is its owner's alone.

    `checkpoint_pages` in the log make a commit move them into the file itself. A connection that is `alone` lets no
    other one use the file, and needs no room on the disk as long as it only reads.
    Raises IndexCorrupt, Unavailable, NoSpace.
    """
    with suppress(OSError):  # where it cannot be made SQLite says why; its log gets the mode of the file
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        mode = os.fstat(descriptor).st_mode
        os.close(descriptor)
        if not stat.S_ISREG(mode):  # SQLite would wait for who writes into a pipe
            raise IndexCorrupt(f"{path.name} is damaged: it is no regular file")
    try:
        connection = sqlite3.connect(
            path,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,  # transactions are ours to begin and end
            check_same_thread=False,  # handed from the opener to its one thread
            cached_statements=512,
        )
        try:
            if alone:
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA temp_store = MEMORY")
            # A pragma takes no parameters; these are integers.
            connection.execute(f"PRAGMA cache_size = {-(cache_bytes // 1024):d}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {checkpoint_pages:d}")
            connection.execute(f"PRAGMA journal_size_limit = {KEPT_LOG_BYTES:d}")
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise translated(error, path) from error
    return connection


def translated(error: sqlite3.Error, path: Path) -> Exception:
    """Return the error of ours that says what the caller can do; one about the statement itself stays as it is."""
    extended = getattr(error, "sqlite_errorcode", 0)
    code = extended & 0xFF
    failure: IsolateError
    if code == _FULL or extended == _SHARED_FULL:
        failure = NoSpace(f"No space left for {path.name}")
    elif code in _CORRUPT:
        failure = IndexCorrupt(f"{path.name} is damaged: {error}")
    elif code in _TRY_LATER:
        failure = Unavailable(f"{path.name} cannot be used now: {error}")
    else:
        return error
    failure.__cause__ = error
    return failure


def migrate(connection: sqlite3.Connection, migrations: Sequence[str], path: Path) -> None:
    """Bring the schema to the last version, one transaction per step, so that a crash leaves a whole version.

    Raises FormatTooNew, which names `path`.
    """
    connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    (version,) = connection.execute("SELECT COALESCE(MAX(version), 0) FROM schema_version").fetchone()
    if version > len(migrations):
        known = len(migrations)
        raise FormatTooNew(f"{path} has schema {version}, this version knows {known}: use a newer version")
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
