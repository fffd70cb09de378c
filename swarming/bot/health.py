"""Whether this machine can take tasks: free space, temporary files, the clock, the directories of the bot.

Looking and judging are apart: `read` looks, `complaints` is pure. The invariant: a bot that is ill says why, takes no
task, and is well again as soon as the cause is gone; nothing has to be reset by hand.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from swarming.bot import machine
from swarming.bot.settings import GIB, MIB, FreeSpace, Settings

# Before this program was written. A machine without a battery for its clock believes so after each start, and then
# takes every certificate for not yet valid and every cached file for brand-new.
EARLIEST = datetime(2024, 1, 1, tzinfo=UTC).timestamp()
_PROBE = ".health"
_HOW = "get_settings() in the server's bot_config.py"


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system."""

    mount: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What was seen."""

    root: Disk | None
    bot: Disk | None
    temp_dir: str
    temp_files: int
    now: float
    broken: Sequence[str] = ()  # directories of the bot that cannot be used, with the reason


def read(base_dir: Path, folders: Sequence[Path], now: float) -> Readings:
    """Look at the machine; a folder of the bot that is gone is made again."""
    temp = tempfile.gettempdir()
    return Readings(
        root=_disk("/"),
        bot=_disk(machine.mount_point(base_dir)),
        temp_dir=temp,
        temp_files=machine.file_count(Path(temp)),
        now=now,
        broken=[problem for folder in folders if (problem := _broken(folder))],
    )


def complaints(seen: Readings, settings: Settings) -> list[str]:
    """Return what keeps this machine from taking tasks, best readable first."""
    found = list(seen.broken)
    if seen.now < EARLIEST:
        found.append(f"The clock of this machine says {datetime.fromtimestamp(max(0, seen.now), UTC):%Y-%m-%d}")
    rules = [(seen.bot, settings.bot), (seen.root, settings.root)]
    if seen.root is not None and seen.bot is not None and seen.root.mount == seen.bot.mount:
        rules = rules[:1]  # the rule for the bot is the stricter one
    found += [text for disk, rule in rules if disk is not None and (text := _too_full(disk, rule))]
    if seen.temp_files > settings.max_temp_files:
        found.append(
            f"{seen.temp_files} files in {seen.temp_dir}, at most {settings.max_temp_files} are fine (or another "
            f"max_files of temp, see {_HOW})"
        )
    return found


def min_free_bytes(base_dir: Path, settings: Settings) -> int:
    """Return how much a cache has to leave free, so that the bot stays in service."""
    disk = _disk(machine.mount_point(base_dir))
    return 0 if disk is None else settings.bot.required_bytes(disk.total_bytes) + settings.wiggle_bytes


def _too_full(disk: Disk, rule: FreeSpace) -> str:
    required = rule.required_bytes(disk.total_bytes)
    if disk.free_bytes >= required:
        return ""
    return (
        f"Not enough free disk space on {disk.mount}: {_size(disk.free_bytes)} of {_size(disk.total_bytes)}, "
        f"{_size(required)} are needed (or other figures for free_partition, see {_HOW})"
    )


def _size(size_bytes: int) -> str:
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (1024, "KiB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes} bytes"


def _disk(mount: str) -> Disk | None:
    try:
        usage = shutil.disk_usage(mount)
    except OSError:
        return None
    return Disk(mount, usage.total, usage.free)


def _broken(folder: Path) -> str:
    """Return why nothing can be written to a folder, or ""."""
    probe = folder / _PROBE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        with suppress(OSError):
            os.unlink(probe)
        return f"Cannot write to {folder}: {error.strerror}"
    return ""
