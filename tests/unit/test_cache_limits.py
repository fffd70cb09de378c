"""The local cache keeps to its limits: what goes, in which order, and what is held by a pin."""

from __future__ import annotations

import tracemalloc

import pytest

from isolate.cas.cache import TOUCH_S, Evicted
from isolate.errors import BlobsMissing, NoSpace
from tests.clock import ManualClock
from tests.unit.caches import BLOBS, CONTENTS, NS, A, B, C, D, Opener, files_in, fill


def test_least_recently_used_goes_first(opener: Opener, clock: ManualClock) -> None:
    roomy, cache = opener(), opener(max_items=2)
    for blob in (A, B, C):
        fill(roomy, blob)
        clock.advance(TOUCH_S)
    cache.absent([A])
    assert cache.is_over()
    assert cache.trim() == Evicted(1, B.size)
    assert not cache.is_over()
    assert cache.absent([A, B, C]) == [B]
    assert files_in(cache) == {A.digest.hex(), C.digest.hex()}


@pytest.mark.parametrize("policy", [{"max_items": 2}, {"max_bytes": 2 * 9}])
def test_limits_hold_while_writing(opener: Opener, clock: ManualClock, policy: dict[str, int]) -> None:
    cache = opener(**policy)
    fill(cache, A, B)
    clock.advance(1)
    cache.add_stream(C, [CONTENTS[2]])
    clock.advance(1)
    fill(cache, D)
    assert files_in(cache) == {C.digest.hex(), D.digest.hex()}
    assert not cache.is_over()


def test_a_tree_in_use_may_be_larger_than_the_limits_until_it_is_not(opener: Opener) -> None:
    cache = opener(max_items=2)
    with cache.pin([blob.digest for blob in BLOBS]):
        for blob in BLOBS:
            fill(cache, blob)
        assert cache.absent(BLOBS) == []
    assert cache.is_over()
    assert cache.trim().items == 8


def test_making_the_executable_variant_counts_as_writing(opener: Opener) -> None:
    cache = opener(max_items=2)
    fill(cache, A, B)
    with cache.pin([B.digest]):
        cache.path(B, executable=True)
    assert files_in(cache) == {B.digest.hex(), B.digest.hex() + ".x"}


def test_what_is_old_or_takes_the_last_space_is_noticed(opener: Opener, clock: ManualClock) -> None:
    aged, tight = opener(max_age_s=100), opener(min_free_bytes=1 << 62)
    assert tight.is_over()
    fill(aged, A)
    clock.advance(100)
    assert not aged.is_over()
    clock.advance(1)
    assert aged.is_over()


def test_the_oldest_give_way_to_others_caches(opener: Opener, clock: ManualClock) -> None:
    cache = opener()
    assert cache.oldest_s() is None
    start_s = clock.now()
    for blob in (A, B, C, D):
        fill(cache, blob)
        clock.advance(1)
    assert cache.oldest_s() == start_s
    with cache.pin([A.digest]):
        assert cache.evict_oldest(start_s + 2, 1) == Evicted(1, B.size)
        assert cache.evict_oldest(start_s + 2, 1000) == Evicted(1, C.size)
        assert not cache.evict_oldest(start_s + 2, 1000)
    assert files_in(cache) == {A.digest.hex(), D.digest.hex()}


def test_using_again_within_a_minute_writes_nothing(opener: Opener, clock: ManualClock) -> None:
    cache = opener()
    fill(cache, A)
    before = (cache.root / "index.sqlite-wal").stat()
    clock.advance(TOUCH_S - 1)
    cache.absent([A])
    after = (cache.root / "index.sqlite-wal").stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)


def test_age_limit(opener: Opener, clock: ManualClock) -> None:
    cache = opener(max_age_s=100)
    fill(cache, A)
    clock.advance(50)
    fill(cache, B)
    clock.advance(50)
    assert not cache.trim()
    clock.advance(1)
    assert cache.trim() == Evicted(1, A.size)


def test_variants_are_evicted_one_by_one(opener: Opener, clock: ManualClock) -> None:
    cache = opener(max_items=1)
    fill(cache, A)
    clock.advance(1)
    with cache.pin([A.digest]):
        cache.path(A, executable=True)
    cache.trim()
    assert files_in(cache) == {A.digest.hex() + ".x"}
    with pytest.raises(BlobsMissing):
        cache.path(B, executable=True)


def test_pinned_files_stay(opener: Opener, clock: ManualClock) -> None:
    cache = opener(max_items=1)
    fill(cache, A, B, C)
    with cache.pin([A.digest]) as pin:
        pin.extend([B.digest])
        assert cache.trim() == Evicted(1, C.size)
        assert cache.absent([A, B]) == []
    assert cache.trim().items == 1


def test_memory_does_not_grow_with_what_is_pinned(opener: Opener) -> None:
    cache = opener(max_items=1)
    fill(cache, A, B, C)
    pinned = 50_000
    with cache.pin([A.digest, *(number.to_bytes(NS.algorithm.digest_bytes) for number in range(pinned)), B.digest]):
        tracemalloc.start()
        try:
            assert cache.trim() == Evicted(1, C.size)
            assert tracemalloc.get_traced_memory()[1] < pinned * NS.algorithm.digest_bytes  # less than the digests
        finally:
            tracemalloc.stop()
        assert cache.absent([A, B]) == []


def test_a_pin_that_is_half_written_holds_what_it_has(opener: Opener) -> None:
    mine, other = opener(), opener(max_items=1)
    fill(mine, A, B)
    with mine.pin([A.digest]):
        (pin,) = mine.root.glob("sessions/*/pin-*")
        with open(pin, "ab") as file:
            file.write(B.digest[:-1])
        assert other.trim() == Evicted(1, B.size)


def test_pins_hold_for_every_open_cache(opener: Opener) -> None:
    mine, other = opener(), opener(max_items=1)
    fill(mine, A, B)
    pin = mine.pin([A.digest, B.digest])
    assert not other.trim()
    pin.release()
    assert other.trim().items == 1


def test_pins_can_be_made_before_the_files(opener: Opener) -> None:
    cache = opener(max_items=1)
    with cache.pin([A.digest]):
        fill(cache, A, B)
        assert cache.trim() == Evicted(1, B.size)


def test_too_little_free_space_evicts_and_then_says_so(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = opener(min_free_bytes=1 << 62)
    with pytest.raises(NoSpace, match=r"9 bytes are needed, \d+ are free and \d+ must stay free"):
        fill(cache, A)
    assert files_in(cache) == set()


def test_what_is_in_use_is_not_evicted_for_space(opener: Opener) -> None:
    roomy, tight = opener(), opener(min_free_bytes=1 << 62)
    fill(roomy, A, B)
    with roomy.pin([A.digest]), pytest.raises(NoSpace):
        fill(tight, C)
    assert roomy.absent([A, B]) == [B]
