"""Parts, encodings and tags of single blobs."""

from __future__ import annotations

import pytest

from server.cas_wish import Wish

DIGEST = b"\xab" * 32
TAG = f'"{DIGEST.hex()}"'


def wish(size: int = 10, *, is_get: bool = True, **headers: str) -> Wish:
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return Wish.of(named, DIGEST, size, is_get=is_get)


@pytest.mark.parametrize(
    ("text", "status", "start", "stop"),
    [
        ("", 200, 0, 10),
        ("bytes=0-0", 206, 0, 1),
        ("bytes=0-9", 206, 0, 10),
        ("bytes=0-99", 206, 0, 10),
        ("bytes=3-", 206, 3, 10),
        ("Bytes=9-", 206, 9, 10),
        ("bytes=-1", 206, 9, 10),
        ("bytes=-10", 206, 0, 10),
        ("bytes=-99", 206, 0, 10),
        ("bytes=5-4", 200, 0, 10),
        ("bytes=0-1,3-4", 200, 0, 10),
        ("bytes=-", 200, 0, 10),
        ("lines=1-2", 200, 0, 10),
        ("bytes=\u0661-", 200, 0, 10),
    ],
)
def test_ranges(text: str, status: int, start: int, stop: int) -> None:
    found = wish(range=text)
    assert (found.status, found.start, found.stop) == (status, start, stop)
    assert found.headers["Content-Length"] == str(stop - start)
    assert found.headers.get("Content-Range") == (f"bytes {start}-{stop - 1}/10" if status == 206 else None)


@pytest.mark.parametrize(("text", "size"), [("bytes=10-", 10), ("bytes=10-11", 10), ("bytes=-0", 10), ("bytes=0-", 0)])
def test_parts_that_do_not_exist(text: str, size: int) -> None:
    found = wish(size, range=text)
    assert found.stop < found.start


def test_only_a_get_has_parts() -> None:
    assert wish(is_get=False, range="bytes=0-1").status == 200


@pytest.mark.parametrize(("tag", "status"), [(TAG, 206), ('"other"', 200), ("Mon, 01 Jan 2024 00:00:00 GMT", 200)])
def test_a_part_of_another_version_is_not_wanted(tag: str, status: int) -> None:
    assert wish(range="bytes=0-1", if_range=tag).status == status


@pytest.mark.parametrize(
    ("text", "known"),
    [(TAG, True), (f'"x", W/{TAG}', True), ("*", True), (f'"{DIGEST.hex()}-zstd"', True), ('"x"', False), ("", False)],
)
def test_known_blobs(text: str, known: bool) -> None:
    assert wish(if_none_match=text).is_known is known


@pytest.mark.parametrize(
    ("text", "zstd"),
    [
        ("gzip, zstd", True),
        ("ZSTD;q=0.5", True),
        ("zstd;q=0", False),
        ("zstd; q=0.000", False),
        ("gzip", False),
        ("", False),
    ],
)
def test_encoding(text: str, zstd: bool) -> None:
    found = wish(accept_encoding=text)
    assert found.zstd is zstd
    assert ("Content-Encoding" in found.headers, "Content-Length" in found.headers) == (zstd, not zstd)


def test_neither_parts_nor_nothing_are_encoded() -> None:
    assert not wish(accept_encoding="zstd", range="bytes=0-1").zstd
    assert not wish(0, accept_encoding="zstd").zstd


def test_stored_bytes_never_act_as_a_page() -> None:
    headers = wish().headers
    assert (headers["X-Content-Type-Options"], headers["Content-Security-Policy"]) == ("nosniff", "sandbox")
