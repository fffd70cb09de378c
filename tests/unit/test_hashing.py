"""isolate.hashing: what is read, and what counts as changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from isolate import hashing
from isolate.cas.digest import BLAKE3, SHA1, Algorithm, Blob
from isolate.errors import FileChanged, InvalidInput, IsolateError, Unreadable
from isolate.hashing import SMALL_BYTES, FileReader, Hashed, Stopped
from isolate.scan import stamp_of
from tests.trees import write_tree


def hash_one(path: Path, algorithm: Algorithm = BLAKE3) -> Hashed | IsolateError:
    (result,) = FileReader(algorithm).hash([str(path)])
    return result


@pytest.mark.parametrize("size", [0, 1, SMALL_BYTES - 1, SMALL_BYTES, SMALL_BYTES + 1, 2 * hashing.READ_BYTES + 3])
@pytest.mark.parametrize("algorithm", [BLAKE3, SHA1])
def test_digests_on_each_side_of_the_limit(tmp_path: Path, size: int, algorithm: Algorithm) -> None:
    content = os.urandom(1024) * (size // 1024 + 1)
    (tmp_path / "f").write_bytes(content[:size])
    result = hash_one(tmp_path / "f", algorithm)
    assert result == Hashed(Blob(algorithm.digest(content[:size]), size), stamp_of((tmp_path / "f").stat()))


def test_what_is_no_file_is_an_error_of_its_own_and_the_rest_is_hashed(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a": b"1", "d": {}, "b": b"2"})
    (tmp_path / "l").symlink_to("a")
    os.mkfifo(tmp_path / "p")
    paths = [str(tmp_path / name) for name in ("a", "d", "l", "none", "p", "b")]
    results = FileReader(BLAKE3).hash(paths)
    assert [type(result) for result in results] == [
        Hashed,
        InvalidInput,
        FileChanged,
        FileChanged,
        InvalidInput,
        Hashed,
    ]


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *_: object) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)
    result = hash_one(tmp_path / "f")
    assert isinstance(result, Unreadable)
    assert str(result) == f"Cannot read {str(tmp_path / 'f')!r}: Permission denied"


@pytest.mark.parametrize("size", [10, SMALL_BYTES + 10])
def test_a_file_that_changes_while_it_is_read_has_no_stamp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(size))
    real: Any = os.read if size <= SMALL_BYTES else os.readv

    def meddle(*arguments: Any) -> Any:
        got = real(*arguments)
        os.utime(path, ns=(0, 0))
        return got

    monkeypatch.setattr(os, real.__name__, meddle)
    result = hash_one(path)
    assert isinstance(result, Hashed)
    assert (result.blob.size, result.stamp) == (size, None)


@pytest.mark.parametrize("grown_to", [20, SMALL_BYTES + 20])
def test_a_file_that_grows_meanwhile_is_taken_as_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grown_to: int
) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(10))
    real = os.fstat

    def grow(descriptor: int) -> os.stat_result:
        status = real(descriptor)
        os.truncate(path, grown_to)
        return status

    monkeypatch.setattr(os, "fstat", grow)
    assert hash_one(path) == Hashed(Blob(BLAKE3.digest(bytes(grown_to)), grown_to), None)


@pytest.mark.parametrize("content", [b"aaax", b"aaaaa", b"aaa", b""])
def test_another_content_is_not_given_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(FileChanged, match="f' changed"):
        FileReader(BLAKE3).read(str(tmp_path / "f"), Blob(BLAKE3.digest(b"aaaa"), 4))


@pytest.mark.parametrize("size", [1, SMALL_BYTES + 1])
def test_stop_ends_what_is_running(tmp_path: Path, size: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(size))
    reader = FileReader(BLAKE3)
    reader.stop()
    with pytest.raises(Stopped):
        reader.hash([str(path)])
    with pytest.raises(Stopped):
        reader.read(str(path), Blob(BLAKE3.digest(bytes(size)), size))


def test_what_was_hashed_is_not_opened_again_for_its_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"content")
    reader = FileReader(BLAKE3)
    (hashed,) = reader.hash([str(tmp_path / "f")])
    assert isinstance(hashed, Hashed)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", None)
        assert reader.read(str(tmp_path / "f"), hashed.blob) == b"content"
    assert reader.read(str(tmp_path / "f"), hashed.blob) == b"content"  # kept for one reader only


@pytest.mark.parametrize("change", [lambda path: os.utime(path, ns=(0, 0)), os.unlink])
def test_what_was_hashed_and_changed_is_not_uploaded(tmp_path: Path, change: Any) -> None:
    (tmp_path / "f").write_bytes(b"content")
    reader = FileReader(BLAKE3)
    (hashed,) = reader.hash([str(tmp_path / "f")])
    assert isinstance(hashed, Hashed)
    change(tmp_path / "f")
    with pytest.raises(FileChanged, match="f' changed"):
        reader.read(str(tmp_path / "f"), hashed.blob)


def test_of_tiny_files_few_are_kept(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {f"{number:03}": str(number).encode() for number in range(100)})
    reader = FileReader(BLAKE3, 10 * hashing.KEPT_EACH_BYTES)
    hashed = reader.hash([str(root / f"{number:03}") for number in range(100)])
    assert len(hashed) == 100
    assert 0 < reader.kept < 10


def test_of_what_was_hashed_the_youngest_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = write_tree(tmp_path, {"a": b"aaaa", "b": b"bbbb", "c": b"cccc", "twin": b"cccc"})
    reader = FileReader(BLAKE3, 10 + 2 * hashing.KEPT_EACH_BYTES)
    blobs = [one.blob for one in reader.hash([str(names / name) for name in ("a", "b", "c", "twin")]) if one]  # type: ignore[union-attr]
    opened: list[str] = []
    real = os.open

    def noted(path: str, flags: int) -> int:
        opened.append(Path(path).name)
        return real(path, flags)

    monkeypatch.setattr(os, "open", noted)
    for name, blob in zip(("twin", "c", "b", "a"), reversed(blobs), strict=True):
        reader.read(str(names / name), blob)
    assert opened == ["twin", "a"]


def noted(name: str, call: Any, calls: list[str]) -> Any:
    def noting(*given: Any) -> Any:
        calls.append(name)
        return call(*given)

    return noting


def test_a_file_with_the_stamp_it_is_known_by_costs_four_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, {"f": b"content", "empty": b""})
    paths = [str(tmp_path / "f"), str(tmp_path / "empty")]
    stamps = [stamp_of(os.stat(path)) for path in paths]
    reader, calls = FileReader(BLAKE3), list[str]()
    for name in ("open", "read", "fstat", "close", "lseek", "stat", "lstat"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name), calls))
    found = reader.hash(paths, stamps)
    monkeypatch.undo()
    assert calls == ["open", "read", "fstat", "close"] * 2
    assert found == reader.hash(paths)
    assert [one.stamp for one in found if isinstance(one, Hashed)] == stamps


@pytest.mark.parametrize("field", range(5))
def test_another_stamp_than_the_one_it_was_known_by_is_found(tmp_path: Path, field: int) -> None:
    write_tree(tmp_path, {"f": b"content"})
    stamp = stamp_of((tmp_path / "f").stat())
    known: Any = tuple(value + (index == field) for index, value in enumerate(stamp))
    found = FileReader(BLAKE3).hash([str(tmp_path / "f")], [known])
    assert found == [Hashed(Blob(BLAKE3.digest(b"content"), 7), stamp)]


def test_what_was_a_file_when_it_was_looked_at_is_judged_as_ever(tmp_path: Path) -> None:
    write_tree(tmp_path, {"f": b"1", "gone": b"2"})
    stamps = [stamp_of((tmp_path / name).stat()) for name in ("f", "gone")]
    (tmp_path / "f").unlink()
    (tmp_path / "gone").unlink()
    os.mkfifo(tmp_path / "f")
    results = FileReader(BLAKE3).hash([str(tmp_path / name) for name in ("f", "gone")], stamps)
    assert [type(result) for result in results] == [InvalidInput, FileChanged]
