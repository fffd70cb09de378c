"""The local cache: what is added is there, whole, for everyone who opens it."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from isolate.cas.cache import CachePolicy, LocalCache, Usage
from isolate.cas.cache_files import Staged
from isolate.cas.digest import Blob, Namespace
from isolate.errors import BlobCorrupt, IsolateError
from isolate.monitor import TallyMonitor
from tests.clock import ManualClock
from tests.unit.caches import BLOBS, CONTENTS, NS, A, B, C, Opener, files_in, fill, leftovers


def test_what_was_added_is_there(opener: Opener) -> None:
    cache = opener()
    assert cache.absent([A, B]) == [A, B]
    fill(cache, A)
    assert cache.absent([B, A, C]) == [B, C]
    assert cache.path(A).read_bytes() == CONTENTS[0]
    assert cache.usage() == Usage(1, A.size)
    assert leftovers(cache) == []


def test_it_is_there_for_the_next_one_too(opener: Opener) -> None:
    with opener() as cache:
        fill(cache, A, B)
    again = opener()
    assert again.absent([A, B, C]) == [C]
    assert again.usage().items == 2


def test_files_are_read_only_and_variants_are_two_inodes(opener: Opener) -> None:
    cache = opener()
    fill(cache, A)
    plain, executable = cache.path(A), cache.path(A, executable=True)
    assert stat.S_IMODE(plain.stat().st_mode) & 0o333 == 0
    assert stat.S_IMODE(executable.stat().st_mode) & 0o300 == 0o100
    assert plain.stat().st_ino != executable.stat().st_ino
    assert executable.read_bytes() == CONTENTS[0]
    assert cache.usage() == Usage(2, 2 * A.size)
    assert cache.path(A, executable=True).stat().st_ino == executable.stat().st_ino


def test_the_empty_blob_is_no_file(opener: Opener) -> None:
    cache = opener()
    cache.add([(NS.empty, b"")])
    assert cache.absent([NS.empty]) == []
    assert files_in(cache) == set()


@pytest.mark.parametrize("wrong", [b"other bytes", b"content 00", b""])
def test_wrong_bytes_are_never_kept(opener: Opener, wrong: bytes) -> None:
    cache = opener()
    with pytest.raises(BlobCorrupt):
        cache.add([(B, CONTENTS[1]), (A, wrong)])
    with pytest.raises(BlobCorrupt):
        cache.add_stream(A, [wrong])
    assert cache.absent([A, B]) == [A, B]
    assert files_in(cache) == set()
    assert leftovers(cache) == []


def test_two_algorithms_share_one_cache(opener: Opener) -> None:
    old = Namespace.parse("sha256-deflate")
    ours, theirs = opener(), opener(old)
    fill(ours, A)
    theirs.add([(old.blob(b"x"), b"x")])
    assert ours.usage() == theirs.usage() == Usage(2, A.size + 1)
    assert theirs.absent([Blob(A.digest, A.size)]) == [A]


def test_a_large_blob_in_pieces_and_in_any_order(opener: Opener) -> None:
    cache = opener()
    content = os.urandom(3 << 20)
    blob = NS.blob(content)
    with cache.writer(blob) as writer:
        for offset in (1 << 20, 0, 2 << 20):
            writer.write_at(offset, content[offset : offset + (1 << 20)])
        writer.commit()
    assert cache.path(blob).read_bytes() == content
    cache.drop(blob.digest)
    cache.add_stream(blob, [content[:100], content[100:]])
    assert cache.read(blob.digest, 4 << 20) == content
    assert leftovers(cache) == []


def test_a_writer_that_is_left_leaves_nothing(opener: Opener) -> None:
    cache = opener()
    with cache.writer(A) as writer:
        writer.write_at(0, CONTENTS[0])
    assert cache.absent([A]) == [A]
    assert leftovers(cache) == []
    with pytest.raises(IsolateError):
        writer.write_at(0, b"late")


def test_read_keeps_its_limit(opener: Opener) -> None:
    cache = opener()
    fill(cache, A)
    assert cache.read(A.digest, A.size) == CONTENTS[0]
    assert cache.read(A.digest, A.size - 1) is None
    assert cache.read(B.digest, 100) is None


def test_adding_twice_keeps_the_first_file(opener: Opener) -> None:
    cache = opener()
    fill(cache, A, A)
    inode = cache.path(A).stat().st_ino
    fill(cache, A)
    assert cache.path(A).stat().st_ino == inode
    assert cache.usage() == Usage(1, A.size)
    assert leftovers(cache) == []


def test_a_size_that_differs_is_absent_and_harmless(opener: Opener) -> None:
    cache = opener()
    fill(cache, A)
    assert cache.absent([Blob(A.digest, A.size + 1)]) == [Blob(A.digest, A.size + 1)]
    assert cache.absent([A]) == []


def test_many_threads_and_openers_agree(opener: Opener) -> None:
    caches = [opener(max_items=5) for _ in range(3)]

    def work(number: int) -> None:
        cache = caches[number % 3]
        for step in range(30):
            blob = BLOBS[(3 * number + step) % 10]
            with cache.pin([blob.digest]):
                if cache.absent([blob]):
                    fill(cache, blob)
                assert cache.path(blob, executable=step % 2 == 0).read_bytes() == CONTENTS[BLOBS.index(blob)]
            cache.trim()

    with ThreadPoolExecutor(6) as executor:
        list(executor.map(work, range(6)))
    caches[0].trim()
    assert caches[0].usage().items == len(files_in(caches[0])) <= 5
    assert leftovers(caches[0]) == []


def test_a_place_that_cannot_be_a_cache(tmp_path: Path, clock: ManualClock, monitor: TallyMonitor) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IsolateError, match="Cannot use the cache"):
        LocalCache.open(tmp_path / "file" / "cache", NS, CachePolicy(), clock, monitor)


def test_a_closed_cache_says_so(opener: Opener) -> None:
    cache = opener()
    cache.close()
    with pytest.raises(IsolateError, match="is closed"):
        cache.absent([A])


def test_a_new_file_is_named_once_and_an_old_one_is_replaced(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = opener()
    renamed: list[str] = []
    rename = os.rename

    def record(source: str, target: str) -> None:
        renamed.append(target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", record)
    fill(cache, A, B)
    assert renamed == []
    path = Path(cache.files_of([(C, False)])[0])
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"left behind by one that was killed")
    fill(cache, C)
    assert renamed == [str(path)]
    assert cache.absent([A, B, C]) == []
    assert path.read_bytes() == CONTENTS[2]


def test_a_file_that_is_swept_away_before_it_is_listed_is_written_again(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, other = opener(), opener()
    adopt = cache._shelf.adopt

    def swept(created: Sequence[Staged]) -> set[bytes]:
        other._shelf.sweep()
        return adopt(created)

    monkeypatch.setattr(cache._shelf, "adopt", swept)
    fill(cache, A)
    assert cache.absent([A]) == []
    assert cache.path(A).read_bytes() == CONTENTS[0]
