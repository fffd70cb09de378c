"""isolate.selection: from a .isolate to the files it selects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from isolate.denylist import denylist
from isolate.errors import InvalidInput, InvalidIsolateFile, IsolateError
from isolate.isolated import Kind
from isolate.scan import Found, ScanRules
from isolate.selection import Selection, Variables, select
from tests.trees import Link, Tree, write_tree

SOURCES: Tree = {
    "src": {"a.py": b"a", "a.pyc": b"", "lib": {"b.py": b"b", "deep": {"c": b"c"}, ".git": {"x": b""}}, "empty": {}},
    "data": {"d": b"d"},
}


def selected(root: Path, files: list[str], where: str = "src", **flags: Any) -> Selection:
    path = root / where / "t.isolate"
    path.write_text(repr({"variables": {"files": files, "command": ["run", *flags.pop("arguments", [])]}}))
    variables = Variables(config=flags.get("config", {}), paths=flags.get("paths", {}), extra=flags.get("extra", {}))
    return select(path, variables, root, defaults=flags.get("defaults", Variables()), subdir=flags.get("subdir", ""))


def entries(selection: Selection, **rules: Any) -> dict[str, Found]:
    found = list(selection.entries(ScanRules(**rules)))
    assert [entry.path for entry in found] == sorted(entry.path for entry in found)
    return {entry.path: entry for entry in found}


def test_files_and_directories(tmp_path: Path) -> None:
    write_tree(tmp_path, SOURCES)
    selection = selected(tmp_path, ["a.py", "lib/", "lib/deep/c"])
    assert (selection.root, selection.relative_cwd, selection.command) == (str(tmp_path / "src"), ".", ("run",))
    assert entries(selection).keys() == {"a.py", "lib/b.py", "lib/deep/c"}


def test_the_root_moves_up_to_what_is_needed(tmp_path: Path) -> None:
    write_tree(tmp_path, SOURCES)
    selection = selected(tmp_path, ["../../data/d", "b.py"], where="src/lib")
    assert (selection.root, selection.relative_cwd) == (str(tmp_path), "src/lib")
    assert entries(selection).keys() == {"data/d", "src/lib/b.py"}


def test_everything_below_the_file_itself_included(tmp_path: Path) -> None:
    write_tree(tmp_path, SOURCES)
    found = entries(selected(tmp_path, ["./"]))
    assert found.keys() == {"a.py", "lib/b.py", "lib/deep/c", "t.isolate", "empty"}
    assert found["empty"].kind is Kind.DIR


def test_the_denylist_spares_what_is_named(tmp_path: Path) -> None:
    write_tree(tmp_path, SOURCES)
    selection = selected(tmp_path, ["a.pyc", "lib/.git/", "lib/"])
    found = entries(selection, is_denied=denylist([r"lib/deep$"]))
    assert found.keys() == {"a.pyc", "lib/.git/x", "lib/b.py"}


def test_path_variables_are_relative_to_the_current_directory(tmp_path: Path) -> None:
    write_tree(tmp_path, SOURCES)
    selection = selected(
        tmp_path,
        ["<(DATA)/d"],
        arguments=["<(DATA)", "<(n)"],
        paths={"DATA": " data"},
        config={"n": "007", "DATA": "won"},
    )
    assert selection.root == str(tmp_path)
    assert entries(selection).keys() == {"data/d"}
    assert selection.command == ("run", "won", "7")
    assert selected(tmp_path, [], arguments=["<(DATA)"], paths={"DATA": "data"}).command == ("run", "../data")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["none"], "Input file .*src/none doesn't exist"),
        (["lib"], "Input directory .*src/lib must have a trailing slash"),
        (["a.py/"], 'a.py/ is not a directory but ends with "/"'),
        (["/etc/passwd"], "Can't map file /etc/passwd outside"),
        (["dangling"], "Input file .*src/dangling doesn't exist"),
        (["up"], "must have a trailing slash"),
        (["up/"], "a recursive reference"),
        (["<(NONE)"], 'Variable "NONE" was not found'),
    ],
)
def test_what_cannot_be_mapped_is_named(tmp_path: Path, files: list[str], message: str) -> None:
    write_tree(tmp_path, SOURCES)
    write_tree(tmp_path / "src", {"dangling": Link("nothing"), "up": Link("../src")})
    with pytest.raises(InvalidInput, match=message):
        entries(selected(tmp_path, files))


def test_broken_items_are_reported_when_asked_for(tmp_path: Path) -> None:
    write_tree(tmp_path, SOURCES)
    reported: list[IsolateError] = []
    assert entries(selected(tmp_path, ["none", "a.py"]), broken=reported.append).keys() == {"a.py"}
    assert len(reported) == 1


def test_links_bring_what_they_point_to(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {"src": {"chain": Link("one"), "one": Link("real"), "real": b"x", "ld": Link("dir"), "dir": {"f": b"y"},
                 "abs": Link(f"{tmp_path}/src/real"), "in": {"l": Link("../real")}}},
    )  # fmt: skip
    found = entries(selected(tmp_path, ["chain", "ld/", "abs", "in/"]))
    assert {path: entry.target for path, entry in found.items()} == {
        "abs": "real",
        "chain": "one",
        "one": "real",
        "real": None,
        "ld": "dir",
        "dir/f": None,
        "in/l": "../real",
    }


def test_a_path_through_a_link_brings_the_link_and_the_file(tmp_path: Path) -> None:
    write_tree(tmp_path, {"src": {"ld": Link("dir"), "dir": {"f": b"y", "g": b"z"}}})
    assert entries(selected(tmp_path, ["ld/f"])).keys() == {"ld", "dir/f"}


def test_links_out_are_mapped_as_what_they_point_to(tmp_path: Path) -> None:
    outside: Tree = {"f": b"y", "e": {}, "h": Link("f"), "x.pyc": b""}
    links: Tree = {"od": Link("../out"), "of": Link("../file"), "sub": {"od": Link("../../out")}}
    write_tree(tmp_path, {"out": outside, "file": b"z", "src": links})
    found = entries(selected(tmp_path, ["od/", "of", "sub/"]))
    assert found.keys() == {"od/f", "od/e", "od/h", "of", "sub/od/f", "sub/od/e", "sub/od/h"}
    assert found["od/f"].source == found["sub/od/f"].source == str(tmp_path / "out/f")
    assert (found["of"].kind, found["of"].source, found["od/h"].target) == (Kind.FILE, str(tmp_path / "file"), "f")
    assert entries(selected(tmp_path, ["od/f"]))["od/f"].source == str(tmp_path / "out/f")


def test_directories_that_contain_each_other_through_links_end_in_an_error(tmp_path: Path) -> None:
    write_tree(tmp_path, {"out": {"back": Link("../src/sub")}, "src": {"sub": {"l": Link("../../out")}}})
    with pytest.raises(InvalidInput, match="a recursive reference"):
        entries(selected(tmp_path, ["sub/"]))


@pytest.mark.parametrize("value", ["nowhere", "src/a.py"])
def test_a_path_variable_must_be_a_directory(tmp_path: Path, value: str) -> None:
    write_tree(tmp_path, SOURCES)
    with pytest.raises(InvalidInput, match=f"^X={tmp_path}/{value} is not a directory"):
        selected(tmp_path, [], paths={"X": value})


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidIsolateFile, match=r"Cannot read '.*none\.isolate': No such file"):
        select(tmp_path / "none.isolate", Variables(), tmp_path)
    (tmp_path / "latin.isolate").write_bytes(b"{} # \xe9")
    with pytest.raises(InvalidIsolateFile, match=r"latin\.isolate: not UTF-8"):
        select(tmp_path / "latin.isolate", Variables(), tmp_path)
