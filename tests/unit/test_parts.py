"""isolate.parts: a tree in parts is the tree it would be in one piece, with few entries in memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolate import parts as module
from isolate.cas.digest import Namespace
from isolate.entries import Entry, Kind, check_tree
from isolate.errors import InvalidManifest
from isolate.isolated import Manifest
from isolate.parts import Parts, Tree

OURS = Namespace.parse("blake3-zstd")

Many = dict[bytes, Manifest]


@pytest.fixture(params=["held", "streamed"])
def held(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Go through each test with a tree in memory, and with one that is too large for that."""
    if request.param == "streamed":
        stream(monkeypatch)
    return bool(request.param == "held")


def stream(monkeypatch: pytest.MonkeyPatch, step: int = 0) -> None:
    monkeypatch.setattr(module, "HELD_ENTRIES", -1)
    monkeypatch.setattr(module, "STEP_ENTRIES", step)


def part(*paths: str, content: bytes = b"x", **keys: Any) -> Manifest:
    entries = tuple(Entry(path, Kind.FILE, OURS.blob(content), 0o640) for path in paths)
    return Manifest(algorithm=OURS.algorithm, entries=entries, **keys)


def link(path: str) -> Manifest:
    return Manifest(algorithm=OURS.algorithm, entries=(Entry(path, Kind.LINK, target="/etc"),))


def tree_of(found: Many, root: bytes = b"0") -> Tree:
    parts = Parts(OURS.algorithm)
    for digest, manifest in found.items():
        parts.add(digest, manifest)
    return parts.tree(root, found.__getitem__)


def included(*manifests: Manifest, root: Manifest | None = None) -> Many:
    """Return `manifests` as the includes of a root."""
    below = {b"%d" % number: manifest for number, manifest in enumerate(manifests, 1)}
    root = root or part()
    return {b"0": part_with(root, tuple(below))} | below


def part_with(manifest: Manifest, includes: tuple[bytes, ...]) -> Manifest:
    return Manifest(
        algorithm=manifest.algorithm,
        entries=manifest.entries,
        command=manifest.command,
        relative_cwd=manifest.relative_cwd,
        includes=includes,
    )


def seen(tree: Tree) -> list[tuple[str, Any]]:
    return [(entry.path, entry.blob) for entry in tree.entries()]


def merged(found: Sequence[Manifest]) -> list[Entry]:
    """Return what `found`, in the order in which they count, are together: the rule in its simplest form."""
    entries: dict[str, Entry] = {}
    for manifest in found:
        for entry in manifest.entries:
            entries.setdefault(entry.path, entry)
    check_tree(sorted(entries.values()))
    return sorted(entries.values())


@pytest.mark.usefixtures("held")
def test_first_definition_wins() -> None:
    first = part("a", "b", content=b"first", command=("one",))
    second = part("c", content=b"second", command=("two",), relative_cwd="c")
    tree = tree_of(included(first, second, root=part("b", content=b"root")))
    assert seen(tree) == [("a", OURS.blob(b"first")), ("b", OURS.blob(b"root")), ("c", OURS.blob(b"second"))]
    assert tree.command == ("one",)
    assert tree.relative_cwd == "c"


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize(
    "runs", [(["a", "b"], [], ["c"]), (["a", "b"], ["b", "c"]), (["c"], ["a", "b"]), (["a", "c"], ["b"]), ([],), ()]
)
def test_parts_in_order_or_not_make_one_sorted_tree(runs: tuple[list[str], ...]) -> None:
    found = [part(*paths, content=bytes([65 + index])) for index, paths in enumerate(runs)]
    first = {path: bytes([65 + index]) for index, paths in reversed(list(enumerate(runs))) for path in paths}
    expected = [(path, OURS.blob(first[path])) for path in sorted(first)]
    assert seen(tree_of(included(*found) if found else {b"0": part()})) == expected


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize(
    ("leaf", "between"),
    [("a", []), ("a", ["a-b", "a.c/d"]), ("a/b", ["a/b-"])],
)
def test_nothing_lies_below_a_link_of_another_part(leaf: str, between: list[str]) -> None:
    """Nor when other entries sort between the two, in parts of their own."""
    manifests = [link(leaf), *map(part, between), part(f"{leaf}/passwd"), part("z")]
    for order in (manifests, manifests[::-1]):
        with pytest.raises(InvalidManifest, match=f"'{leaf}/passwd' lies below '{leaf}', which is a link"):
            list(tree_of(included(*order)).runs())


@pytest.mark.usefixtures("held")
def test_a_directory_may_have_entries_in_another_part() -> None:
    folder = Manifest(algorithm=OURS.algorithm, entries=(Entry("a", Kind.DIR),))
    assert [path for path, _ in seen(tree_of(included(folder, part("a-b"), part("a/b"))))] == ["a", "a-b", "a/b"]


@pytest.mark.usefixtures("held")
def test_includes_are_walked_depth_first() -> None:
    one, two, three, root = b"1", b"2", b"3", b"0"
    found = {
        root: part(includes=(one, three)),
        one: part(includes=(two,), content=b"1"),
        two: part("x", content=b"2"),
        three: part("x", content=b"3"),
    }
    assert seen(tree_of(found)) == [("x", OURS.blob(b"2"))]


@pytest.mark.parametrize(
    "includes", [{b"0": (b"0",)}, {b"0": (b"1", b"1"), b"1": ()}, {b"0": (b"1", b"2"), b"1": (b"2",), b"2": ()}]
)
def test_a_part_is_reached_once(includes: dict[bytes, tuple[bytes, ...]]) -> None:
    with pytest.raises(InvalidManifest, match="is retrieved recursively"):
        tree_of({digest: part(includes=found) for digest, found in includes.items()})


@pytest.mark.usefixtures("held")
def test_some_paths_of_a_tree() -> None:
    tree = tree_of(included(part("a", "b"), part("c", "d"))).only(lambda path: path in "bd")
    assert [path for path, _ in seen(tree)] == ["b", "d"]
    assert all(tree.runs())


def test_parts_that_overlap_are_open_together_only_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    stream(monkeypatch)
    monkeypatch.setattr(module, "MAX_OPEN", 4)
    fits = included(part("a", "y"), part("b", "z"))
    assert len(seen(tree_of(fits))) == 4
    too_many = included(part("a", "x"), part("b", "y"), part("c", "z"), part("d", "zz"))
    with pytest.raises(InvalidManifest, match="more than 4 entries overlap at 'd'"):
        list(tree_of(too_many).runs())


class Watched(str):
    """A path that tells when it is gone, and its entry with it."""

    __slots__ = ("__weakref__",)


def test_the_parts_of_a_tree_of_ours_are_in_memory_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stream(monkeypatch)
    alive: weakref.WeakSet[Watched] = weakref.WeakSet()
    most = 0

    def load(digest: bytes) -> Manifest:
        nonlocal most
        paths = [Watched(f"{int(digest):02}/{number}") for number in range(10)]
        alive.update(paths)
        most = max(most, len(alive))
        return part(*paths)

    digests = [b"%d" % number for number in range(1, 31)]
    parts = Parts(OURS.algorithm)
    parts.add(b"0", part(includes=tuple(digests)))
    for digest in digests:
        parts.add(digest, load(digest))
    tree = parts.tree(b"0", load)
    assert sum(1 for _ in tree.entries()) == sum(1 for _ in tree.entries()) == 300
    at_once = most - 2 * len(digests)  # the first and last path of each part are remembered
    assert at_once <= 2 * 10


names = st.sampled_from(["a", "b", "a-", "a.", "a0", "b!"])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
entries = st.builds(
    lambda path, kind: {
        "f": Entry(path, Kind.FILE, OURS.blob(path.encode()), 0o640),
        "l": Entry(path, Kind.LINK, target="a"),
        "d": Entry(path, Kind.DIR),
    }[kind],
    paths,
    st.sampled_from("fffld"),
)
contents = st.lists(entries, max_size=4, unique_by=lambda entry: entry.path).map(lambda found: tuple(sorted(found)))


def sound(found: tuple[Entry, ...]) -> bool:
    try:
        check_tree(found)
    except InvalidManifest:
        return False
    return True


@given(found=st.lists(contents.filter(sound), min_size=1, max_size=6), step=st.sampled_from([0, 3, 8]))
def test_any_parts_are_the_tree_they_would_be_together(found: list[tuple[Entry, ...]], step: int) -> None:
    manifests = [Manifest(algorithm=OURS.algorithm, entries=entries) for entries in found]
    expected: list[Entry] | None
    try:
        expected = merged([part(), *manifests])
    except InvalidManifest:
        expected = None
    for result in _both_ways(manifests, step):
        assert result == expected


@given(path=st.sets(paths, min_size=1, max_size=12), cuts=st.sets(st.integers(1, 11)), step=st.sampled_from([0, 3]))
def test_a_tree_cut_anywhere_is_the_same_tree(path: set[str], cuts: set[int], step: int) -> None:
    whole = [Entry(one, Kind.DIR) for one in sorted(path)]
    ends = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
    manifests = [Manifest(algorithm=OURS.algorithm, entries=tuple(whole[start:end])) for start, end in pairwise(ends)]
    for result in _both_ways(manifests, step):
        assert result == whole


def _both_ways(manifests: Sequence[Manifest], step: int) -> Iterator[list[Entry] | None]:
    """Yield the entries of a tree that is held and of one that is not; None for one that is refused."""
    for is_held in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not is_held:
                stream(patch, step)
            try:
                yield list(tree_of(included(*manifests)).entries())
            except InvalidManifest:
                yield None
