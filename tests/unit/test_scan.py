"""isolate.scan: what is found below a directory, and what is refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from isolate.denylist import nothing
from isolate.entries import Kind
from isolate.errors import FileChanged, InvalidInput, IsolateError, Unreadable
from isolate.scan import Found, ScanRules, scan
from tests.trees import Executable, Link, Tree, write_tree

TREE: Tree = {
    "a": {"b": b"1", "z": {}},
    "a.b": b"2",
    "a-": b"3",
    "e": {},
    "x.pyc": b"",
    "only": {"y.pyc": b"", ".git": {"config": b""}},
    "run": Executable(b"#!"),
    "é\udcff": b"4",
}


def found(root: Path, **rules: object) -> dict[str, Found]:
    return {entry.path: entry for entry in scan(str(root), ScanRules(**rules))}  # type: ignore[arg-type]


def test_entries_come_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    paths = [entry.path for entry in scan(str(write_tree(tmp_path, TREE)), ScanRules())]
    assert paths == sorted(paths)
    assert paths == ["a-", "a.b", "a/b", "a/z", "e", "only", "run", "é\udcff"]


def test_files_have_stamps_and_empty_directories_do_not(tmp_path: Path) -> None:
    entries = found(write_tree(tmp_path, TREE))
    status = (tmp_path / "run").stat()
    assert entries["run"].stamp == (2, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)
    assert entries["run"].st_mode & 0o100
    assert (entries["e"].kind, entries["only"].kind, entries["e"].stamp) == (Kind.DIR, Kind.DIR, None)


def test_without_denylist_everything_is_found(tmp_path: Path) -> None:
    assert {"x.pyc", "only/y.pyc", "only/.git/config"} <= found(write_tree(tmp_path, TREE), is_denied=nothing).keys()


@pytest.mark.parametrize(
    "target", ["../f", "f", "./../a/f", "../missing", "..", ".", "../a//f", "../a/../f", "self", "../a/l/../f"]
)
def test_links_that_stay_inside_are_recorded_verbatim(tmp_path: Path, target: str) -> None:
    write_tree(tmp_path, {"f": b"", "a": {"f": b"", "self": Link(target)}})
    entry = found(tmp_path)["a/self"]
    assert (entry.kind, entry.target) == (Kind.LINK, target)


@pytest.mark.parametrize(
    ("target", "recorded"),
    [("../f", "../f"), ("./../a/f", "f"), ("../a//f", "f"), ("../a", "."), ("../a/../f", "../f"), ("./f/", "f"),
     ("d/../../f", "../f"), ("l/../f", "l/../f"), ("l/../../c/f", "../c/f"), ("../missing", "../missing")],
)  # fmt: skip
def test_2020_records_the_target_anew_relative_to_the_link_if_that_leads_to_the_same(
    tmp_path: Path, target: str, recorded: str
) -> None:
    write_tree(tmp_path, {"f": b"", "c": {"e": {}, "f": b""}, "a": {"f": b"", "d": {}, "l": Link("../c/e")}})
    write_tree(tmp_path / "a", {"link": Link(target)})
    assert found(tmp_path, plain_links=True)["a/link"].target == recorded


def test_absolute_links_inside_are_recorded_relative(tmp_path: Path) -> None:
    write_tree(tmp_path, {"f": b"", "a": {"l": Link(f"{tmp_path}/f"), "r": Link(str(tmp_path))}})
    assert [entry.target for entry in found(tmp_path).values()] == ["../f", "..", None]


@pytest.mark.parametrize("plain_links", [False, True])
def test_a_link_that_comes_back_into_the_tree_does_not_depend_on_its_name(tmp_path: Path, *, plain_links: bool) -> None:
    write_tree(tmp_path, {"root": {"f": b"", "a": {"l": Link("../../root/f"), "m": Link("../x/../../root/a")}}})
    (tmp_path / "way").symlink_to("root")
    for root in ("root", "way"):
        entries = found(tmp_path / root, plain_links=plain_links)
        assert [entries["a/l"].target, entries["a/m"].target] == ["../f", "."]


@pytest.mark.parametrize("target", [".../f", "..f/../f", ".f/..", "-/../f"])
def test_names_that_begin_with_dots_are_names(tmp_path: Path, target: str) -> None:
    write_tree(tmp_path, {"f": b"", "...": {"f": b""}, "d": {"e": {}}, "..f": Link("d/e"), ".f": Link("d/e")})
    write_tree(tmp_path, {"-": Link("d"), "l": Link(target)})
    assert found(tmp_path, plain_links=True)["l"].target == {"-/../f": "f"}.get(target, target)
    assert found(tmp_path)["l"].target == target


def test_a_link_out_to_a_file_becomes_the_file(tmp_path: Path) -> None:
    write_tree(tmp_path, {"out": Executable(b"12345"), "root": {"l": Link("../out"), "hop": Link("l")}})
    entries = found(tmp_path / "root")
    assert entries["l"].kind is Kind.FILE
    assert entries["l"].source == str(tmp_path / "out")
    assert entries["l"].stamp is not None
    assert entries["l"].stamp[0] == 5
    assert entries["hop"].target == "l"


def test_a_link_that_leaves_through_another_link_is_seen(tmp_path: Path) -> None:
    write_tree(tmp_path, {"out": b"x", "root": {"d": {"e": {}}, "s": Link("d/e"), "l": Link("s/../../../out")}})
    assert found(tmp_path / "root")["l"].kind is Kind.FILE


@pytest.mark.parametrize("target", ["../out", "/proc/self", "../nothing", "/nothing", "/dev/null"])
def test_other_links_out_are_refused_by_name(tmp_path: Path, target: str) -> None:
    write_tree(tmp_path, {"out": {}, "root": {"l": Link(target)}})
    with pytest.raises(InvalidInput, match="root/l'"):
        found(tmp_path / "root")


def test_2020_refuses_links_to_nothing(tmp_path: Path) -> None:
    write_tree(tmp_path, {"l": Link("nothing")})
    with pytest.raises(InvalidInput, match="'nothing', which does not exist"):
        found(tmp_path, keep_dangling=False)


def test_pipes_and_sockets_are_refused_by_name_or_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInput, match="pipe' is a named pipe"):
        found(tmp_path)
    os.mknod(tmp_path / "sock", stat.S_IFSOCK | 0o600)  # binding one would limit the length of the path
    reported: list[IsolateError] = []
    (tmp_path / "file").touch()
    assert found(tmp_path, broken=reported.append).keys() == {"file"}
    assert [str(error).rpartition("'")[2] for error in reported] == [
        " is a named pipe, which cannot be archived",
        " is a socket, which cannot be archived",
    ]


@pytest.mark.parametrize(("name", "what"), [("file", "is not a directory"), ("none", "does not exist")])
def test_the_root_must_be_a_directory(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match=what):
        found(tmp_path / name)


def test_what_vanishes_during_the_scan_has_changed(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a": {"x": b""}, "b": {"y": b""}})
    entries = scan(str(tmp_path), ScanRules())
    assert next(entries).path == "a/x"
    (tmp_path / "b/y").unlink()
    (tmp_path / "b").rmdir()
    with pytest.raises(FileChanged, match="/b' changed"):
        list(entries)


def test_an_unreadable_directory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").mkdir()
    real = os.open

    def refuse(path: str, flags: int) -> int:
        if path.endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, flags)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(Unreadable, match=r"Cannot read '.*secret': Permission denied"):
        found(tmp_path)


def test_files_are_looked_at_from_their_open_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, {"d": {"a": b"1", "b": b"22", "link": Link("a")}, "e": b"333"})
    entries = found(tmp_path)
    by_path: list[str] = []
    real = os.lstat

    def lstat(path: str) -> os.stat_result:
        if path.startswith(f"{tmp_path}/"):
            by_path.append(path)
        return real(path)

    monkeypatch.setattr(os, "lstat", lstat)
    open_before = set(os.listdir("/proc/self/fd"))
    assert found(tmp_path) == entries
    assert by_path == [str(tmp_path / "d/link")]
    assert set(os.listdir("/proc/self/fd")) == open_before
    # A directory of any size is held as names only, but for so many files.
    by_path.clear()
    monkeypatch.setattr("isolate.scan.EARLY_FILES", 0)
    assert found(tmp_path) == entries
    assert len(by_path) == 4


def test_what_goes_wrong_with_files_is_told_in_their_order(tmp_path: Path) -> None:
    for name in ("z", "m", "a"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "b").write_bytes(b"")
    reported: list[IsolateError] = []
    assert found(tmp_path, broken=reported.append).keys() == {"b"}
    assert [str(error).split("'")[1][-1] for error in reported] == ["a", "m", "z"]
