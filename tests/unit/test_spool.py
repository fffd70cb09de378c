"""isolate.spool: records that wait in memory or in a file without a name."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from isolate import spool
from isolate.errors import NoSpace
from isolate.spool import Spool, temporary_path


@pytest.mark.parametrize("buffer_bytes", [0, 7, 1 << 20])
def test_records_come_back_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer_bytes: int) -> None:
    monkeypatch.setattr(spool, "BUFFER_BYTES", buffer_bytes)
    records = [b"one", b"", b"three" * 3, b"4"]
    spooled = Spool(lambda: str(tmp_path / "file"))
    for record in records:
        spooled.append(record)
    assert list(spooled) == records
    assert list(reversed(spooled)) == records[::-1]
    assert spooled[1:3] == records[1:3]
    assert len(spooled) == 4
    assert list(tmp_path.iterdir()) == []
    spooled.append(b"later")
    assert spooled[4] == b"later"


def test_few_records_need_no_file() -> None:
    def refuse() -> str:
        raise AssertionError("no file is needed")

    spooled = Spool(refuse)
    spooled.append(b"x" * 1000)
    assert list(spooled) == [b"x" * 1000]


def test_the_file_is_closed_with_its_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "BUFFER_BYTES", 0)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    spooled = Spool(lambda: str(tmp_path / "file"))
    spooled.append(b"x")
    del spooled
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after == before


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "BUFFER_BYTES", 0)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(NoSpace, match="temporary data"):
        Spool(lambda: str(tmp_path / "file")).append(b"x")


def test_temporary_paths_are_new() -> None:
    one, other = temporary_path(), temporary_path()
    assert one != other
    assert not os.path.lexists(one)
