"""Whether a machine is fit, from readings of several; and the settings that decide it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isolate.errors import InvalidInput
from swarming.bot import health
from swarming.bot.health import EARLIEST, Disk, Readings, complaints
from swarming.bot.settings import GIB, MAX_TEMP_FILES, MIB, FreeSpace, Settings

TOTAL = 40 * GIB  # of which the bot wants 4 GiB, the root 6 %
FINE = Readings(
    root=Disk("/", TOTAL, TOTAL), bot=Disk("/data", TOTAL, TOTAL), temp_dir="/tmp", temp_files=0, now=EARLIEST
)


def test_a_fit_machine_has_no_complaints() -> None:
    assert complaints(FINE, Settings()) == []


@pytest.mark.parametrize(("free", "count"), [(4 * GIB, 0), (4 * GIB - 1, 1)])
def test_space_for_the_bot_has_a_sharp_limit(free: int, count: int) -> None:
    assert len(complaints(replace(FINE, bot=Disk("/data", TOTAL, free)), Settings())) == count


def test_too_little_space_says_where_and_how_much() -> None:
    seen = replace(FINE, bot=Disk("/data", TOTAL, 3 * GIB), root=Disk("/", TOTAL, 100 * MIB))
    how = "(or other figures for free_partition, see get_settings() in the server's bot_config.py)"
    assert complaints(seen, Settings()) == [
        f"Not enough free disk space on /data: 3.0 GiB of 40.0 GiB, 4.0 GiB are needed {how}",
        f"Not enough free disk space on /: 100.0 MiB of 40.0 GiB, 2.4 GiB are needed {how}",
    ]


@pytest.mark.parametrize(("free", "text"), [(0, "0 bytes"), (900, "900 bytes"), (2048, "2.0 KiB")])
def test_a_size_that_is_not_zero_does_not_read_so(free: int, text: str) -> None:
    (found,) = complaints(replace(FINE, bot=Disk("/data", 64 << 10, free)), Settings())
    assert f": {text} of 64.0 KiB, 9.6 KiB are needed" in found


def test_one_file_system_is_complained_about_once() -> None:
    both = Disk("/", TOTAL, 0)
    assert len(complaints(replace(FINE, root=both, bot=both), Settings())) == 1


@pytest.mark.parametrize(("files", "count"), [(MAX_TEMP_FILES, 0), (MAX_TEMP_FILES + 1, 1)])
def test_temporary_files_have_a_sharp_limit(files: int, count: int) -> None:
    assert len(complaints(replace(FINE, temp_files=files), Settings())) == count


def test_a_clock_that_was_never_set_is_shown() -> None:
    assert complaints(replace(FINE, now=3.0), Settings()) == ["The clock of this machine says 1970-01-01"]


def test_what_cannot_be_measured_is_no_complaint() -> None:
    assert complaints(replace(FINE, root=None, bot=None), Settings()) == []


def test_a_folder_is_made_again_and_one_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    seen = health.read(tmp_path, (tmp_path / "w", tmp_path / "file"), 5.0)
    assert seen.broken == [f"Cannot write to {tmp_path / 'file'}: File exists"]
    assert list((tmp_path / "w").iterdir()) == []
    assert seen.now == 5.0
    assert seen.bot is not None
    assert complaints(seen, Settings())[0] == seen.broken[0]


@pytest.mark.parametrize(
    ("total_gib", "required_gib"),
    [(10, 1.5), (40, 4), (100, 7)],  # at most 15 %, 4 GiB, at least 7 %
)
def test_how_much_must_be_free(total_gib: int, required_gib: float) -> None:
    assert Settings().bot.required_bytes(total_gib * GIB) == required_gib * GIB


def test_a_cache_leaves_more_than_the_bot_needs(tmp_path: Path) -> None:
    usual = Settings()
    disk = health.read(tmp_path, (), 0).bot
    assert disk is not None
    assert health.min_free_bytes(tmp_path, usual) == usual.bot.required_bytes(disk.total_bytes) + 250 * MIB


def test_settings_are_laid_over_the_usual_ones() -> None:
    found = Settings.of(
        {
            "free_partition": {"root": {"size": 5}, "bot": {"min_percent": 1.5, "wiggle": 7}},
            "caches": {"isolated": {"items": 9, "map": "overlay"}},
            "unknown": 1,
        }
    )
    assert found.root == FreeSpace(size_bytes=5, max_percent=10, min_percent=6)
    assert (found.bot.min_percent, found.wiggle_bytes) == (1.5, 7)
    assert (found.cache_items, found.cache_bytes, found.mapping) == (9, 50 * GIB, "overlay")
    assert Settings.of({}) == Settings()


@pytest.mark.parametrize(
    "changes",
    [
        [],
        {"free_partition": 3},
        {"caches": {"isolated": []}},
        {"free_partition": {"bot": {"size": "4"}}},
        {"free_partition": {"bot": {"size": -1}}},
        {"free_partition": {"bot": {"size": True}}},
        {"caches": {"isolated": {"size": float("nan")}}},
        {"caches": {"isolated": {"map": "softlink"}}},
    ],
)
def test_settings_that_are_none(changes: Any) -> None:
    with pytest.raises(InvalidInput, match="settings whose"):
        Settings.of(changes)
