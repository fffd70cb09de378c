"""Tar entries of manifests of 2020: plain files only, and only below their directory."""

from __future__ import annotations

import io
import stat
import tarfile
from pathlib import Path

import pytest

from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.digest import Namespace
from isolate.cas.memory import MemoryStore
from isolate.entries import Entry, Kind
from isolate.errors import InvalidManifest
from isolate.fetch import fetch
from isolate.isolated import Manifest
from isolate.monitor import NullMonitor
from run_isolated.mapper import apply
from run_isolated.plans import Plans
from tests.clock import ManualClock
from tests.stored import put, put_manifest
from tests.trees import Executable, Link, Tree, read_tree

NS = Namespace.parse("default-gzip")


def tar_of(*names: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o644) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.type, member.mode = kind, mode
            if kind == tarfile.REGTYPE:
                member.size = 1
            else:
                member.linkname = "/etc/passwd"
            tar.addfile(member, io.BytesIO(b"x"))
    return data.getvalue()


async def extracted(tmp_path: Path, content: bytes, *others: Entry) -> Tree:
    store = MemoryStore(NS)
    (blob,) = await put(store, [content])
    entries = tuple(sorted((Entry("d/files.tar", Kind.TAR, blob), *others)))
    root = await put_manifest(store, Manifest(algorithm=NS.algorithm, entries=entries))
    with LocalCache.open(tmp_path / "cache", NS, CachePolicy(), ManualClock(), NullMonitor()) as cache:
        fetched = await fetch(store, cache, root, NullMonitor())
        apply(Plans(fetched.tree), cache, tmp_path / "tree")
    return read_tree(tmp_path / "tree")


async def test_members_go_beside_the_entry(tmp_path: Path) -> None:
    assert await extracted(tmp_path, tar_of("a", "e/b", "e\\c", "\u00e9")) == {
        "d": {"a": b"x", "e": {"b": b"x", "c": b"x"}, "\u00e9": b"x"}
    }


async def test_members_keep_the_owners_part_of_their_mode(tmp_path: Path) -> None:
    assert await extracted(tmp_path, tar_of("a", mode=0o4777)) == {"d": {"a": Executable(b"x")}}
    assert stat.S_IMODE((tmp_path / "tree/d/a").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
)
async def test_what_is_no_plain_file_is_skipped(tmp_path: Path, kind: bytes) -> None:
    assert await extracted(tmp_path, tar_of("a", kind=kind)) == {"d": {}}


@pytest.mark.parametrize("name", ["../a", "/a", "e/../../a", "..\\a", "\\a", "e//a", "n/" * 300 + "a", "n" * 5000])
async def test_members_that_would_leave_their_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidManifest, match="Tar member"):
        await extracted(tmp_path, tar_of(name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "tree"]


async def test_a_member_takes_no_other_files_place(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidManifest, match=r"^Cannot make d/\w+: another entry of the tree or its tars has this name"
    ):
        await extracted(tmp_path, tar_of("a"), Entry("d/a", Kind.FILE, NS.empty))


async def test_a_member_is_not_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with pytest.raises(InvalidManifest, match=r"^Cannot make d/l[/a]*: another entry of the tree or its tars"):
        await extracted(tmp_path, tar_of("l/a"), Entry("d/l", Kind.LINK, target=str(outside)))
    assert list(outside.iterdir()) == []


async def test_links_beside_members(tmp_path: Path) -> None:
    tree = await extracted(tmp_path, tar_of("a"), Entry("d/l", Kind.LINK, target="a"))
    assert tree == {"d": {"a": b"x", "l": Link("a")}}


@pytest.mark.parametrize("content", [b"no tar at all", tar_of("a")[:700], b"\x1f\x8b" + bytes(600)])
async def test_not_a_tar(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InvalidManifest, match="Not a tar archive"):
        await extracted(tmp_path, content)
