"""Files are whole or absent, whatever fails."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from isolate.cas.files import (
    SET_ASIDE_BYTES,
    atomic_file,
    atomic_file_async,
    read_chunks,
    set_aside,
    sync_directory,
    write_atomic,
)
from tests.faults import fail_nth

FULL = OSError(errno.ENOSPC, "No space left on device")


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_file(path) as file:
        file.write(b"first ")
        file.flush()
        assert not path.exists()
        file.write(b"second")
    assert path.read_bytes() == b"first second"
    assert os.listdir(tmp_path) == ["file"]


async def test_a_file_appears_whole_from_a_loop_too(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    async with atomic_file_async(path, durable=True) as file:
        await file.write(b"first ")
        await file.flush()
        assert path.read_bytes() == b"old"
        await file.write(b"second")
    assert path.read_bytes() == b"first second"
    assert os.listdir(tmp_path) == ["file"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail_midway() -> None:
        with atomic_file(path) as file:
            file.write(b"new")
            raise KeyError

    with pytest.raises(KeyError):
        fail_midway()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(("number", "place"), [(errno.ENOSPC, "file"), (errno.EPIPE, None)])
def test_a_full_disk_is_that_of_the_file(tmp_path: Path, number: int, place: str | None) -> None:
    def fail_midway() -> None:
        with atomic_file(tmp_path / "file"):
            raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        fail_midway()
    assert caught.value.filename == (place and str(tmp_path / place))


async def test_a_failure_in_a_loop_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"

    async def fail_midway() -> None:
        async with atomic_file_async(path) as file:
            await file.write(b"new")
            raise KeyError

    with pytest.raises(KeyError):
        await fail_midway()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("function", "calls"), [("open", 2), ("fsync", 2), ("replace", 1)])
def test_every_step_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, calls: int) -> None:
    for number in range(1, calls + 1):
        path = tmp_path / f"{function}-{number}"
        with monkeypatch.context() as patch:
            fail_nth(patch, os, function, number, FULL)
            with pytest.raises(OSError, match="No space"):
                write_atomic(path, b"content", durable=True)
        left = path.read_bytes() if path.exists() else b"content"
        assert left == b"content"
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


@pytest.mark.parametrize(("durable", "syncs"), [(False, 0), (True, 2)])
def test_only_durable_files_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool, syncs: int
) -> None:
    counted = fail_nth(monkeypatch, os, "fsync", 0, FULL)
    write_atomic(tmp_path / "file", b"content", durable)
    assert counted.calls == syncs


def test_the_mode_is_what_was_asked_for(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "file", mode=0o600) as file:
        file.write(b"secret")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_long_names_have_room_for_the_temporary_one(tmp_path: Path) -> None:
    write_atomic(tmp_path / ("n" * 255), b"content")
    write_atomic(tmp_path / ("é" * 127), b"content")
    assert sorted(os.listdir(tmp_path)) == ["n" * 255, "é" * 127]


def test_the_directory_must_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "none" / "file", b"content")
    with pytest.raises(FileNotFoundError):
        sync_directory(tmp_path / "none")


@pytest.mark.parametrize(("size", "pieces"), [(0, []), (9, [9]), (10, [10]), (11, [10, 1]), (20, [10, 10])])
async def test_files_are_read_in_pieces(tmp_path: Path, size: int, pieces: list[int]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    assert [len(piece) async for piece in read_chunks(path, 10)] == pieces


def test_a_link_is_followed_and_stays_one(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"
    (tmp_path / "dangling").symlink_to("made")
    write_atomic(tmp_path / "dangling", b"fresh")
    assert (tmp_path / "made").read_bytes() == b"fresh"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomic(tmp_path / "pipe", b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize(("size_bytes", "is_large"), [(SET_ASIDE_BYTES - 1, False), (SET_ASIDE_BYTES, True)])
def test_a_large_file_has_its_blocks_before_its_bytes(tmp_path: Path, size_bytes: int, is_large: bool) -> None:
    with open(tmp_path / "file", "wb") as file:
        set_aside(file.fileno(), size_bytes)
        status = os.fstat(file.fileno())
        assert (status.st_size, status.st_blocks * 512 >= size_bytes) == (0, is_large)
        os.pwrite(file.fileno(), b"x", 2)
        assert os.fstat(file.fileno()).st_size == 3


def test_blocks_that_cannot_be_had_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with open(tmp_path / "file", "rb") as file:  # which cannot be written to
        set_aside(file.fileno(), SET_ASIDE_BYTES)
        assert os.fstat(file.fileno()).st_blocks == 0
