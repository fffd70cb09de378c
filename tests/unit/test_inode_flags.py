"""Flags of files and directories: set, taken away, told apart."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from isolate.cas import inode_flags


@pytest.mark.skipif(sys.platform != "linux", reason="the flag is one of Linux")
def test_directories_are_scattered_where_the_file_system_knows_how(tmp_path: Path) -> None:
    """And a directory for which that was asked for is a directory like others, which can be made mutable."""
    import fcntl

    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        known = inode_flags.scatter(descriptor)
        assert inode_flags.scatter(descriptor) is known
        inode_flags.make_mutable(descriptor)
        if known:
            flags = int.from_bytes(fcntl.ioctl(descriptor, inode_flags.GET_FLAGS, bytes(8))[:4], sys.byteorder)
            assert flags & inode_flags.TOPDIR
    finally:
        os.close(descriptor)
    (tmp_path / "made").mkdir()


@pytest.mark.skipif(sys.platform != "linux", reason="the flag is one of Linux")
def test_who_makes_directories_apart_asks_once_and_for_those_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(inode_flags, "scatter", lambda folder: asked.append(os.readlink(f"/proc/self/fd/{folder}")))
    for name in ("ab", "cd", "ab"):
        inode_flags.make_apart(str(tmp_path / "files/blake3" / name))
    inode_flags.make_apart(str(tmp_path / "plain"))
    assert asked == [str(tmp_path / "files/blake3")]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["ab", "blake3", "cd", "files", "plain"]


def test_what_has_no_flags_is_not_scattered() -> None:
    reading, writing = os.pipe()
    try:
        assert inode_flags.scatter(reading) is False
    finally:
        os.close(reading)
        os.close(writing)
