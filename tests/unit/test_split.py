"""isolate.split: large manifests in parts that stay the same where the tree does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from isolate import split as split_module
from isolate.cas.digest import Namespace
from isolate.entries import Entry, Kind
from isolate.errors import TooLarge
from isolate.split import Rule, Splitter, splitter_for

SMALL = Rule(limit=200, min_entries=20, mask=0x1F)


def entries(names: Iterable[str]) -> list[Entry]:
    return [Entry(name, Kind.LINK, target="x") for name in sorted(names)]


def split(of: Sequence[Entry], rule: Rule = SMALL) -> tuple[list[list[Entry]], bool]:
    splitter = Splitter(rule)
    parts = [part for start in range(0, len(of), 7) for part in splitter.extend(of[start : start + 7])]
    rest, is_whole = splitter.finish()
    return [*parts, rest], is_whole


@pytest.mark.parametrize(("count", "whole"), [(0, True), (199, True), (200, True), (201, False)])
def test_only_a_tree_above_the_limit_is_split(count: int, whole: bool) -> None:
    parts, is_whole = split(entries(f"{number:04}" for number in range(count)))
    assert is_whole is whole
    assert (len(parts) == 1) is whole


def test_a_manifest_of_2020_is_one_whatever_its_size_as_long_as_it_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = entries(f"{number:05}" for number in range(split_module.LIMIT + 1))
    assert isinstance(splitter_for(Namespace.parse("blake3-flat")), Splitter)
    for namespace in ("default-gzip", "sha256-flat", "sha512-deflate"):
        splitter = splitter_for(Namespace.parse(namespace))
        assert (splitter.extend(tree), splitter.finish()) == ([], (tree, True))
    for limit, most in (("MAX_NODES", 20), ("MAX_MANIFEST_BYTES", 100)):
        with monkeypatch.context() as patched:
            patched.setattr(split_module, limit, most)
            with pytest.raises(TooLarge, match="21 entries or more are too many for one manifest"):
                splitter_for(Namespace.parse("default")).extend(tree[:21])


def test_parts_are_the_tree_in_order_and_within_limits() -> None:
    tree = entries(f"d{number % 7}/{number}" for number in range(5_000))
    parts, _ = split(tree)
    assert [entry for part in parts for entry in part] == tree
    assert all(20 <= len(part) <= 200 for part in parts[:-1])


def test_a_small_change_touches_few_parts() -> None:
    names = [f"d{number % 7}/{number}" for number in range(5_000)]
    before, _ = split(entries(names))
    after, _ = split(entries([*names, "d3/new", "d5/2500x"]))
    old = {tuple(part) for part in before}
    assert sum(tuple(part) not in old for part in after) <= 4
    assert len(after) > 50


def test_paths_that_never_begin_a_part_are_cut_at_the_limit() -> None:
    parts, _ = split(entries(f"{number:04}" for number in range(1_000)), Rule(200, 20, 0xFFFFFFFF))
    assert [len(part) for part in parts] == [200] * 5
