"""isolate.progress: stages in words, their pace, and the line at the end."""

from __future__ import annotations

import pytest

from isolate.progress import Progress, Stage, bytes_text, counted_text, fetched_line, pair_text, plain_line, ratio_text

UPLOAD = Stage("uploading", 1_200, 5_000, 60_600_000, 100_000_000, 18_400_000, "dedup 3.2:1")
EXPECTED = {"hashed_files": 10, "hashed_bytes": 4_000, "uploaded_blobs": 4, "uploaded_bytes": 1_000}


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (70, "61%  60.6/100 MB  1,200/5,000 files  18.4 MB/s  dedup 3.2:1"),
        (58, "61%  60.6/100 MB  1,200/5,000 files  18.4 MB/s"),
        (30, "61%  60.6/100 MB"),
        (3, "61%"),
        (2, ""),
    ],
)
def test_a_narrow_screen_gets_fewer_words(width: int, text: str) -> None:
    assert UPLOAD.text(width) == text
    assert len(UPLOAD.text(width, share=False)) <= width


def test_a_stage_is_never_more_than_whole() -> None:
    stage = Stage("fetching", 7, 6, 1_100, 1_000, 50.0)
    assert (stage.share, stage.text(80)) == (1.0, "100%  1/1 kB  6/6 files")
    assert Stage("fetching", 3, 6, 0, 0).share == 0.5


def test_a_large_file_has_a_pace_until_it_is_stored() -> None:
    sent, stored = (Stage("uploading", blobs, 1, 1_000, 1_000, 50.0) for blobs in (0, 1))
    assert (sent.is_over, sent.text(80)) == (False, "100%  1/1 kB  0/1 files  50 B/s")
    assert (stored.is_over, stored.text(80)) == (True, "100%  1/1 kB  1/1 files")
    assert not Stage("hashing", 1, 1, 900, 1_000).is_over


def test_only_what_has_something_to_do_is_a_stage() -> None:
    assert Progress().stages({"cached_files": 10, "present_blobs": 3}, {}, 1.0) == []
    assert [stage.name for stage in Progress().stages({}, EXPECTED, 1.0)] == ["hashing", "uploading"]


def test_the_pace_is_that_of_the_last_seconds() -> None:
    progress = Progress()
    found = [
        progress.stages({"hashed_bytes": size}, EXPECTED, at)[0] for at, size in ((0.0, 0), (2.0, 200), (5.0, 1_400))
    ]
    assert [stage.bytes_per_s for stage in found] == [0.0, 100.0, 400.0]


def test_dedup_is_what_stands_for_each_byte_that_moves() -> None:
    counted = {"archived_bytes": 3_200, "known_bytes": 1_000}
    fetching = {"fetched_blobs": 1, "fetched_bytes": 1_000}
    stages = Progress().stages(counted, EXPECTED | fetching, 0.0)
    assert [stage.dedup for stage in stages] == ["", "dedup 3.2:1", "dedup 2.0:1"]
    assert Progress().stages({}, fetching, 0.0)[0].dedup == ""


def test_words_for_sizes() -> None:
    assert [bytes_text(size) for size in (0, 999, 1_000, 999_600, 12_345_678, 2.5e15)] == [
        "0 B",
        "999 B",
        "1 kB",
        "1 MB",
        "12.3 MB",
        "2500 TB",
    ]
    assert [pair_text(1_500, 20_000), pair_text(7, 9), pair_text(3e9, 2e9)] == ["1.5/20 kB", "7/9 B", "2/2 GB"]
    assert [ratio_text(10, 4), ratio_text(999, 1), ratio_text(1_000, 1), ratio_text(10, 0)] == [
        "2.5:1",
        "999.0:1",
        "over 1000:1",
        "all known",
    ]
    assert [counted_text(1, "file"), counted_text(2_000, "file"), counted_text(0, "entry", "entries")] == [
        "1 file",
        "2,000 files",
        "0 entries",
    ]


def test_one_line_tells_all() -> None:
    assert plain_line([UPLOAD, Stage("fetching", 1, 2, 1, 2)]) == (
        "uploading 61%  60.6/100 MB  1,200/5,000 files  18.4 MB/s  dedup 3.2:1; fetching 50%  1/2 B  1/2 files"
    )
    counted = {"fetched_blobs": 1_000, "fetched_bytes": 5_000_000, "known_blobs": 2, "known_bytes": 30}
    assert fetched_line(counted, 2.0) == "1,000 contents (5 MB) fetched, 2 (30 B) were in the cache; 2.0 s, 2.5 MB/s"
    counted = {"fetched_blobs": 1, "fetched_bytes": 5, "known_blobs": 1, "known_bytes": 30}
    assert fetched_line(counted, 0.0) == "1 content (5 B) fetched, 1 (30 B) was in the cache; 0.0 s"
    assert fetched_line({}, 0.0) == "0 contents (0 B) fetched, 0 (0 B) were in the cache; 0.0 s"
