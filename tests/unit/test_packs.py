"""Pack files: durable groups, rotation, what happens to a pack that failed or was tampered with."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from isolate.errors import NoSpace, Unavailable
from isolate.monitor import TallyMonitor
from server.stores.pack_storage import Location, Pack
from server.stores.packs import TRUST_S, LocalPacks, uuid7
from tests.clock import ManualClock
from tests.pack_faults import FaultyFiles

ROTATE_BYTES = 1000


class Journal:
    """Remembers, in the order of the file operations, what it is told."""

    def __init__(self, files: FaultyFiles) -> None:
        self.announced: list[Pack] = []
        self.sealed: list[Pack] = []
        self._files = files

    async def announce(self, pack: Pack) -> None:
        self._files.calls.append("announce")
        self.announced.append(pack)

    async def seal(self, pack: Pack) -> None:
        self.sealed.append(pack)


class Site:
    """One directory of packs, its journal, its clock and its disk."""

    def __init__(self, root: Path) -> None:
        self.root, self.files, self.clock, self.monitor = root, FaultyFiles(), ManualClock(), TallyMonitor()
        self.journal = Journal(self.files)
        self.packs = LocalPacks(
            root, self.journal, self.clock, self.monitor, files=self.files, rotate_bytes=ROTATE_BYTES
        )

    def path(self, pack: Pack) -> Path:
        return self.root / pack.namespace / f"{pack.name}.pack"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path / "packs")
    yield site
    site.packs.close()


async def test_groups_are_appended_one_behind_the_other(site: Site) -> None:
    first = await site.packs.append("default", [b"abc", b"de"])
    second = await site.packs.append("default", [b"fgh"])
    pack = first[0].pack
    assert [*first, *second] == [Location(pack, 0, 3), Location(pack, 3, 2), Location(pack, 5, 3)]
    assert site.path(pack).read_bytes() == b"abcdefgh"
    assert await site.packs.read([*second, *first]) == [b"fgh", b"abc", b"de"]


async def test_namespaces_have_their_own_packs(site: Site) -> None:
    (one,) = await site.packs.append("default", [b"abc"])
    (other,) = await site.packs.append("default-gzip", [b"abc"])
    assert (one.pack.namespace, other.pack.namespace) == ("default", "default-gzip")
    assert site.path(other.pack).is_file()


async def test_a_pack_is_announced_created_synced_and_then_written(site: Site) -> None:
    site.root.mkdir()
    await site.packs.append("default", [b"abc"])
    # One sync for the name of the namespace's directory, one for the name of the pack, one for its bytes.
    assert site.files.calls == [
        "announce", "create", "sync_directory", "sync_directory", "open_end", "write", "sync"
    ]  # fmt: skip


async def test_a_group_costs_one_sync(site: Site) -> None:
    await site.packs.append("default", [b"a"])
    site.files.calls.clear()
    await site.packs.append("default", [b"b"] * 100)
    assert site.files.calls.count("sync") == 1


@pytest.mark.parametrize(("size", "same"), [(899, True), (900, True), (901, False)])
async def test_a_full_pack_is_sealed(site: Site, size: int, same: bool) -> None:
    (first,) = await site.packs.append("default", [bytes(100)])
    site.clock.advance(1)
    (second,) = await site.packs.append("default", [bytes(size)])
    assert (first.pack == second.pack) is same
    assert site.journal.sealed == ([] if same else [first.pack])
    assert first.pack.name <= second.pack.name


async def test_a_group_larger_than_a_pack_gets_its_own(site: Site) -> None:
    (location,) = await site.packs.append("default", [bytes(3 * ROTATE_BYTES)])
    assert location.length == 3 * ROTATE_BYTES


async def test_after_a_failed_sync_a_pack_grows_no_more(site: Site) -> None:
    (kept,) = await site.packs.append("default", [b"kept"])
    site.files.fail("sync")
    with pytest.raises(Unavailable, match="Input/output error"):
        await site.packs.append("default", [b"lost"])
    assert site.journal.sealed == [kept.pack]
    assert site.path(kept.pack).read_bytes() == b"kept"
    (next_one,) = await site.packs.append("default", [b"next"])
    assert next_one.pack != kept.pack
    assert await site.packs.read([kept, next_one]) == [b"kept", b"next"]


async def test_a_full_disk_takes_back_the_half_group_and_the_pack_goes_on(site: Site) -> None:
    (kept,) = await site.packs.append("default", [b"kept"])
    site.files.fail("write", errno.ENOSPC)
    with pytest.raises(NoSpace):
        await site.packs.append("default", [b"too much"])
    assert site.path(kept.pack).read_bytes() == b"kept"
    (after,) = await site.packs.append("default", [b"after"])
    assert after == Location(kept.pack, 4, 5)


async def test_a_half_group_that_cannot_be_taken_back_seals_the_pack(site: Site) -> None:
    (kept,) = await site.packs.append("default", [b"kept"])
    site.files.fail("write", errno.EIO)
    site.files.fail("truncate", errno.EIO)
    with pytest.raises(Unavailable):
        await site.packs.append("default", [b"half"])
    assert site.journal.sealed == [kept.pack]
    (after,) = await site.packs.append("default", [b"after"])
    assert after.pack != kept.pack


@pytest.mark.parametrize("method", ["create", "sync_directory"])
async def test_a_pack_that_cannot_be_created_leaves_nothing(site: Site, method: str) -> None:
    site.files.fail(method, errno.ENOSPC)
    with pytest.raises(NoSpace):
        await site.packs.append("default", [b"abc"])
    assert list(site.root.rglob("*.pack")) == []
    assert site.journal.sealed == site.journal.announced
    await site.packs.append("default", [b"abc"])


async def change(path: Path, how: str) -> None:
    """Do to a pack what its server does not."""
    if how == "delete":
        path.unlink()
    elif how == "cut":
        os.truncate(path, 2)
    elif how == "lengthen":
        path.write_bytes(path.read_bytes() + b"garbage")
    else:
        path.unlink()
        path.parent.rmdir()
        path.parent.parent.rmdir()


@pytest.mark.parametrize("how", ["delete", "cut", "lengthen", "delete all"])
async def test_a_pack_somebody_changed_is_not_continued(site: Site, how: str) -> None:
    (first,) = await site.packs.append("default", [b"first"])
    await change(site.path(first.pack), how)
    (second,) = await site.packs.append("default", [b"second"])
    assert site.journal.sealed == [first.pack]
    assert await site.packs.read([second]) == [b"second"]


async def test_an_empty_pack_that_was_deleted_does_not_block_the_next_append(site: Site) -> None:
    site.files.fail("write", errno.ENOSPC)
    with pytest.raises(NoSpace):
        await site.packs.append("default", [b"abc"])
    await change(site.path(site.journal.announced[0]), "delete")
    with pytest.raises(Unavailable):
        await site.packs.append("default", [b"abc"])
    (location,) = await site.packs.append("default", [b"abc"])
    assert await site.packs.read([location]) == [b"abc"]


async def test_reading_what_is_gone_or_cut_gives_nothing(site: Site) -> None:
    (first, second) = await site.packs.append("default", [b"first", b"second"])
    os.truncate(site.path(first.pack), 7)
    assert await site.packs.read([first, second]) == [b"first", None]
    site.path(first.pack).unlink()
    assert await site.packs.read([first, second]) == [None, None]


async def test_a_bad_sector_spares_the_neighbours(site: Site) -> None:
    locations = await site.packs.append("default", [b"first", b"second"])
    site.files.fail("read", errno.EIO, call=1)
    assert await site.packs.read(locations) == [b"first", b"second"]
    site.files.fail("read", errno.EIO, call=1)
    assert await site.packs.read(locations[:1]) == [None]
    assert len(site.monitor.problems) == 1


async def test_too_many_open_files_is_no_damage(site: Site) -> None:
    locations = await site.packs.append("default", [b"first"])
    site.files.fail("read", errno.EMFILE)
    with pytest.raises(Unavailable):
        await site.packs.read(locations)


async def test_lengths_are_believed_for_ten_seconds(site: Site) -> None:
    (location,) = await site.packs.append("default", [b"first"])
    pack = location.pack
    site.path(pack).unlink()
    site.clock.advance(TRUST_S - 0.1)
    assert await site.packs.lengths([pack]) == {pack: 5}
    site.clock.advance(0.1)
    assert await site.packs.lengths([pack]) == {pack: 0}
    site.files.calls.clear()
    assert await site.packs.lengths([pack]) == {pack: 0}
    assert site.files.calls == []


async def test_what_others_forget_while_lengths_are_looked_up_is_known_all_the_same(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,) = await site.packs.append("old", [b"first"])
    site.clock.advance(TRUST_S)
    (new,) = await site.packs.append("new", [b"second"])
    length = site.files.length

    def forgotten(path: Path) -> int:
        site.packs._seen.clear()
        return length(path)

    monkeypatch.setattr(site.files, "length", forgotten)
    assert await site.packs.lengths([old.pack, new.pack]) == {old.pack: 5, new.pack: 6}


async def test_a_failed_read_ends_the_trust(site: Site) -> None:
    (location,) = await site.packs.append("default", [b"first"])
    site.path(location.pack).unlink()
    await site.packs.read([location])
    assert await site.packs.lengths([location.pack]) == {location.pack: 0}


@pytest.mark.parametrize(
    ("content", "committed", "after", "continued"),
    [
        (b"abcdef", 3, b"abc", True),
        (b"abc", 3, b"abc", True),
        (b"ab", 3, b"ab", False),
        (None, 3, None, False),
        (None, 0, None, False),
    ],
)
async def test_resuming_drops_only_the_tail(
    site: Site, content: bytes | None, committed: int, after: bytes | None, continued: bool
) -> None:
    pack = Pack("default", "0190")
    site.path(pack).parent.mkdir(parents=True)
    if content is not None:
        site.path(pack).write_bytes(content)
    await site.packs.resume(pack, committed)
    assert (site.path(pack).read_bytes() if after is not None else None) == after
    assert site.journal.sealed == ([] if continued else [pack])
    (location,) = await site.packs.append("default", [b"more"])
    assert (location.pack == pack) is continued
    assert await site.packs.read([location]) == [b"more"]


async def test_a_withdrawn_group_gives_its_space_back(site: Site) -> None:
    (kept,) = await site.packs.append("default", [b"kept"])
    group = await site.packs.append("default", [b"not", b"wanted"])
    await site.packs.withdraw(group)
    assert site.path(kept.pack).read_bytes() == b"kept"
    assert site.journal.sealed == [kept.pack]  # its end is in doubt: the index may still remember the group


async def test_deleting(site: Site) -> None:
    (location,) = await site.packs.append("default", [b"abc"])
    await site.packs.delete(location.pack)
    assert await site.packs.lengths([location.pack]) == {location.pack: 0}
    assert not site.path(location.pack).exists()


def test_ids_sort_by_time() -> None:
    ids = [uuid7(now_s, os.urandom) for now_s in (1.0, 2.0, 1_700_000_000.123, 1_700_000_000.124)]
    assert [(id_.version, id_.variant) for id_ in ids] == [(7, "specified in RFC 4122")] * 4
    assert sorted(map(str, ids)) == list(map(str, ids))
    assert uuid7(1_700_000_000.123, lambda count: b"\xff" * count).int >> 80 == 1_700_000_000_123
