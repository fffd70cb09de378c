"""isolate.frames: what is no file is not read, what nobody needs any more goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from isolate.frames import ABANDONED_S, KEPT_S, UNFINISHED, clean_frames, open_frames, read_frame, write_frame

NOW_S = 1_700_000_000.0


def test_what_was_written_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "f", "wb") as file:
        for payload in (b"one", b""):
            write_frame(file, payload)
    with open_frames(tmp_path / "f") as found:
        assert [read_frame(found) for _ in range(3)] == [b"one", b"", None]


@pytest.mark.parametrize("kind", ["pipe", "directory", "link", "device"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "f"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "link":
            (tmp_path / "real").touch()
            path.symlink_to("real")
        case "device":
            path = Path("/dev/zero")
    with pytest.raises((OSError, ValueError)), open_frames(path):
        pass


def test_what_is_old_or_abandoned_goes_and_a_directory_harms_nobody(tmp_path: Path) -> None:
    ages_s = {
        "stale": KEPT_S + 1,
        "fresh": KEPT_S - 1,
        f"{UNFINISHED}-killed": ABANDONED_S + 1,
        f"{UNFINISHED}-at-work": ABANDONED_S - 1,
        "a-directory": KEPT_S + 1,
    }
    for name, age_s in ages_s.items():
        (tmp_path / name).mkdir() if name == "a-directory" else (tmp_path / name).touch()
        os.utime(tmp_path / name, (NOW_S - age_s,) * 2)
    clean_frames(tmp_path, NOW_S)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-directory", "fresh", f"{UNFINISHED}-at-work"]
    clean_frames(tmp_path / "nothing", NOW_S)
