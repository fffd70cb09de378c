"""The directory of a bot: who owns it, what is in it, and what a crashed predecessor left there.

Knows no task. The invariant: one bot per directory, and when it starts, nothing of an earlier one is alive or in the
way. Only what is ours is ever deleted.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from isolate.clock import SystemClock
from isolate.errors import Busy, InternalFailure, InvalidInput
from isolate.monitor import NullMonitor
from run_isolated.command_group import end_leftovers
from run_isolated.installed import take_back
from run_isolated.workdir import delete_tree
from swarming.unpack import LOCK, foreign

NAMED_CACHES = "c"

log = logging.getLogger(__name__)


class WorkDirectory:
    """`c/` named caches, `isolated_cache/`, `w/` the task at hand, `logs/`, `config/`, `swarming.lck`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work, self.logs = root / "w", root / "logs"
        self.isolated_cache, self.named_caches = root / "isolated_cache", root / NAMED_CACHES
        self.config = root / "config"
        self.spool = self.work / "stdout"
        self.context = self.work / "luci_context.json"
        self.bot_file = self.work / "bot_file.json"

    @property
    def vital(self) -> tuple[Path, Path]:
        """The folders without which no task can run."""
        return self.work, self.isolated_cache

    @classmethod
    @contextmanager
    def taken(cls, root: Path) -> Iterator[WorkDirectory]:
        """Own the directory while the block lasts; raises Busy when another bot does."""
        if root.resolve() in {Path.home().resolve(), Path("/")}:
            raise InvalidInput(f"{root} cannot be the directory of a bot: give it one of its own with --dir")
        directory = cls(root.resolve())
        try:
            if name := foreign(directory.root):
                raise InvalidInput(f"{root / name} is not of a bot: give the bot an empty directory with --dir")
            for folder in (*directory.vital, directory.logs, directory.named_caches, directory.config):
                folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(directory.root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InvalidInput(f"Cannot use {root} as the directory of a bot: {error.strerror}") from error
        try:
            _lock(lock, directory.root)
            yield directory
        finally:
            os.close(lock)

    def end_tasks(self, group_parent: str | None = None) -> int:
        """End the processes of tasks whose runner is gone; return how many there were.

        `group_parent` is where their control groups are, None being where a run makes its own.
        """
        return sum(end_leftovers(entry, group_parent) for entry in self.work.iterdir() if _is_directory(entry))

    def clean(self) -> None:
        """Delete the files of tasks that have ended, but for named caches, which are kept for others.

        What resists is reported and does not harm the next task.
        """
        for entry in list(self.work.iterdir()):
            try:
                if _is_directory(entry):
                    take_back(entry, SystemClock(), NullMonitor())
                    delete_tree(entry)
                else:
                    entry.unlink(missing_ok=True)
            except (InternalFailure, OSError) as error:
                log.warning("%s", error)


def _is_directory(entry: Path) -> bool:
    return entry.is_dir() and not entry.is_symlink()


def _lock(lock: int, root: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
        raise Busy(
            f"Another bot runs in {root} (process {owner}); a second bot on one machine needs another --id and --dir"
        ) from error
    with suppress(OSError):  # it only helps the one who is refused; a full disk must not end a bot that is needed
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
