"""isolate.remote_tree: finding files in a manifest, and telling two apart."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from isolate.cas.digest import Namespace
from isolate.entries import Entry, Kind
from isolate.errors import IsolateError, NotFound
from isolate.isolated import Manifest
from isolate.parts import Tree
from isolate.remote_tree import Shown, below, differences, find, long_line, shown

SPACE = Namespace.parse("blake3-zstd")
FILE = Entry("d/f", Kind.FILE, SPACE.blob(b"x"), 0o640)


def tree(*entries: Entry) -> Tree:
    return Tree.of(Manifest(algorithm=SPACE.algorithm, entries=tuple(sorted(entries))))


def tars_text(entries: Iterable[Entry]) -> str:
    shown = Shown()
    assert list(shown.passing(entries))
    return shown.tars_text()


def link(path: str, target: str) -> Entry:
    return Entry(path, Kind.LINK, target=target)


TREE = tree(FILE, link("l", "d/f"), link("up/l", "../d"), link("a", "b"), link("b", "a"), Entry("e", Kind.DIR))


@pytest.mark.parametrize("path", ["d/f", "./d//f", "l", "up/l/f", "up/../l"])
def test_a_file_is_found_through_links(path: str) -> None:
    assert find(TREE, path) == FILE


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("d", "no file 'd': it is a directory"),
        ("e", "no file 'e': it is a directory"),
        ("a", "no file 'a': it leads through too many links"),
        ("a/x", "no file 'a/x': it leads through too many links"),
        ("../d/f", "no file '../d/f'"),
        ("/d/f", "no file '/d/f'"),
        ("d/f/g", "no file"),
        ("", "no file"),
    ],
)
def test_what_is_no_file_is_named(path: str, message: str) -> None:
    with pytest.raises(IsolateError, match=message):
        find(TREE, path)


def test_what_only_a_download_shows_is_said() -> None:
    tar = Entry("d/a.tar", Kind.TAR, SPACE.blob(b"y"))
    assert tars_text(TREE.entries()) == ""
    assert tars_text([tar, FILE]).startswith("'d/a.tar': in place of a tar `download`")
    assert tars_text([tar, tar]).startswith("'d/a.tar' and 1 more: ")
    with pytest.raises(NotFound, match=r"no file 'd/x' \(hint: only `download` opens tars, such as 'd/a.tar'\)"):
        find(tree(FILE, tar), "d/x")


def test_a_part_of_a_tree() -> None:
    assert [entry.path for entry in below(TREE, ["d", "./up"])] == ["d/f", "up/l"]
    assert len([*below(TREE, [])]) == len([*below(TREE, ["."])]) == 6
    with pytest.raises(IsolateError, match="nothing at 'up/x'"):
        next(below(TREE, ["d", "up/x"]))


def test_differences_are_those_of_content_mode_kind_and_target() -> None:
    other = tree(FILE._replace(mode=0o750), link("l", "d"), Entry("a", Kind.DIR), link("b", "a"), link("new", "x"))
    changes = [(path, old is None, new is None) for path, old, new in differences(TREE, other)]
    assert changes == [
        ("a", False, False),
        ("d/f", False, False),
        ("e", False, True),
        ("l", False, False),
        ("new", True, False),
        ("up/l", False, True),
    ]
    assert not list(differences(TREE, TREE))


def test_lines_for_people_control_no_terminal() -> None:
    assert shown("a b/é\udcff") == "a b/é\udcff"
    assert shown("a\x1b[2Jb\nc") == "a\\x1b[2Jb\\nc"
    tar = Entry("t.tar", Kind.TAR, SPACE.blob(b"12"))
    assert long_line(tar) == "-r-x------            2 t.tar (tar)"
