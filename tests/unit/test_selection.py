"""isolate.selection: from a .isolate to the files it selects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from isolate.denylist import denylist
from isolate.entries import Kind
from isolate.errors import InvalidInput, InvalidIsolateFile, IsolateError
from isolate.scan import Found, ScanRules
from isolate.selection import Selection, Variables, host_defaults, select
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


def test_a_path_variable_that_nothing_uses_moves_the_root_as_in_2020(tmp_path: Path) -> None:
    write_tree(tmp_path, SOURCES)
    for paths, root, path in (({}, tmp_path / "src", "a.py"), ({"DEPTH": "."}, tmp_path, "src/a.py")):
        selection = selected(tmp_path, ["a.py"], paths=paths)
        assert (selection.root, list(entries(selection))) == (str(root), [path])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["none"], r"Input file .*src/none doesn't exist \(hint: it is named in .*src/t.isolate:1:26\)$"),
        (["lib"], "Input directory .*src/lib must have a trailing slash"),
        (["a.py/"], 'a.py/ is not a directory but ends with "/"'),
        (["/etc/passwd"], "Can't map file /etc/passwd outside"),
        (["lib/../../data/d"], r"Can't map file .*/data/d outside .*/src \(hint: it is named in .*/t.isolate:1:26\)$"),
        (["./../data/d"], r"Can't map file .*/data/d outside .*/src \(hint: it is named in .*/t.isolate:1:26\)$"),
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
    with pytest.raises(InvalidIsolateFile, match=r"latin\.isolate:1:6: not UTF-8"):
        select(tmp_path / "latin.isolate", Variables(), tmp_path)


def test_variables_of_the_host_give_way_to_flags(tmp_path: Path) -> None:
    write_tree(tmp_path, {"src": {"x.exe": b"", "x": b""}})
    words = ["<(OS)", "<(EXECUTABLE_SUFFIX)", "<(E)"]
    flags: dict[str, Any] = {"arguments": words, "extra": {"E": "<(OS)"}, "defaults": host_defaults("linux")}
    selection = selected(tmp_path, ["x<(EXECUTABLE_SUFFIX)"], **dict(flags))
    assert (selection.command, [*entries(selection)]) == (("run", "linux", "", "<(OS)"), ["x"])
    flags |= {"extra": {"EXECUTABLE_SUFFIX": ".exe", "E": ""}, "config": {"OS": "win"}}
    selection = selected(tmp_path, ["x<(EXECUTABLE_SUFFIX)"], **dict(flags))
    assert (selection.command, [*entries(selection)]) == (("run", "win", ".exe", ""), ["x.exe"])


@pytest.mark.parametrize(
    ("platform", "name", "suffix"),
    [("linux", "linux", ""), ("darwin", "mac", ""), ("win32", "win", ".exe"), ("cygwin", "win", ".exe")],
)
def test_what_a_host_is_called(platform: str, name: str, suffix: str) -> None:
    assert host_defaults(platform) == Variables(config={"OS": name}, extra={"EXECUTABLE_SUFFIX": suffix})


def test_collapsed_links_are_what_they_lead_to(tmp_path: Path) -> None:
    tree: Tree = {"d": {"f": b"1", "in": Link("f"), "out": Link("../../o")}, "l": Link("d"), "c": Link("l/f")}
    write_tree(tmp_path, {"src": tree, "o": {"g": b"2"}})
    found = entries(selected(tmp_path, ["l/", "c", "d/"]), collapse=True)
    assert [*found] == ["c", "d/f", "d/in", "d/out/g", "l/f", "l/in", "l/out/g"]
    assert {entry.kind for entry in found.values()} == {Kind.FILE}


def test_collapsed_links_in_circles_end_in_an_error(tmp_path: Path) -> None:
    write_tree(tmp_path, {"src": {"a": {"x": Link("../b")}, "b": {"y": Link("../a")}}})
    with pytest.raises(InvalidInput, match="a recursive reference"):
        entries(selected(tmp_path, ["a/"]), collapse=True)


def test_a_subdir_is_a_beginning_of_paths(tmp_path: Path) -> None:
    write_tree(tmp_path, SOURCES)
    for subdir, expected in (("src/lib/d", ["src/lib/deep/c"]), ("<(DATA)", ["data/d"]), ("./src/a", ["src/a.py"])):
        flags: dict[str, Any] = {"paths": {"DATA": "data"}, "subdir": subdir}
        assert [*entries(selected(tmp_path, ["lib/", "a.py", "<(DATA)/d"], **flags))] == expected


def test_a_file_that_never_ends_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.isolate").symlink_to("/dev/zero")
    with pytest.raises(InvalidIsolateFile, match="it is not a file"):
        select(tmp_path / "t.isolate", Variables(), tmp_path)
