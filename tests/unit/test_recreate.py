"""isolate.recreate: a tree made again elsewhere, and nothing written outside of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from isolate.entries import Kind
from isolate.errors import InvalidInput, IsolateError
from isolate.recreate import empty_directory, recreate, saved_entries
from isolate.scan import Found
from tests.trees import Link, read_tree, write_tree


@pytest.mark.parametrize("link", [True, False])
def test_what_is_saved_comes_again(tmp_path: Path, link: bool) -> None:
    write_tree(tmp_path / "root", {"d": {"f": b"x"}, "g": b"y"})
    files = {"d/f": None, "g": None, "d/l": "../g"}
    entries = saved_entries(str(tmp_path / "root"), files)
    assert recreate(entries, str(tmp_path / "root"), tmp_path / "out", link=link) == 3
    assert read_tree(tmp_path / "out") == {"d": {"f": b"x", "l": Link("../g")}, "g": b"y"}
    assert (tmp_path / "out/g").samefile(tmp_path / "root/g") is link


@pytest.mark.parametrize("path", ["../x", "/x", "a//b", "a/../../b", ""])
def test_paths_that_lead_out_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidInput):
        list(saved_entries(str(tmp_path), {path: "target"}))


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    entries = [Found("a", Kind.LINK, target="../outside"), Found("a/b", Kind.LINK, target="x")]
    with pytest.raises(InvalidInput, match="'a/b' lies below 'a', which is a link"):
        recreate(entries, str(tmp_path), tmp_path / "out", link=True)
    write_tree(tmp_path / "root", {"a": {"b": b"x"}})
    entries = [Found("a", Kind.LINK, target="../outside"), Found("a/b", Kind.FILE, 0o600)]
    with pytest.raises(InvalidInput, match="'a' is a link and a file"):
        recreate(entries, str(tmp_path / "root"), tmp_path / "out2", link=True)
    assert not list((tmp_path / "outside").iterdir())


def test_a_lost_file_and_a_full_directory(tmp_path: Path) -> None:
    with pytest.raises(IsolateError, match=f"^{tmp_path}/f is missing$"):
        list(saved_entries(str(tmp_path), {"f": None}))
    (tmp_path / "f").write_bytes(b"")
    for place, message in ((tmp_path, "in a non-empty directory"), (tmp_path / "f", "File exists")):
        with pytest.raises(IsolateError, match=message):
            empty_directory(place)
    assert empty_directory(tmp_path / "new/deep").is_dir()
