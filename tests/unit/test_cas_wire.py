"""Bodies of the transfer API: what one side writes the other reads, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolate.cas import wire
from isolate.cas.digest import ALGORITHMS, BLAKE3, SHA1, Algorithm, Blob
from isolate.cas.store import MAX_BATCH, Written
from isolate.errors import InvalidDigest, InvalidInput, TooLarge
from tests.examples import examples

HEX = "ab" * 32
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["digest", "size", "chunks"]), inner),
    max_leaves=10,
)


@examples(100)
@given(st.sampled_from(list(ALGORITHMS.values())), st.integers(0, 20), st.data())
def test_digests_round_trip(algorithm: Algorithm, count: int, data: st.DataObject) -> None:
    size = algorithm.digest_bytes
    digests = [data.draw(st.binary(min_size=size, max_size=size)) for _ in range(count)]
    body = wire.pack_digests(digests, algorithm)
    assert len(body) == count * size
    assert wire.parse_digests(body, algorithm) == digests


@pytest.mark.parametrize(("length", "good"), [(0, True), (19, False), (20, True), (21, False), (40, True)])
def test_only_whole_digests(length: int, good: bool) -> None:
    if good:
        assert len(wire.parse_digests(bytes(length), SHA1)) == length // 20
    else:
        with pytest.raises(InvalidDigest):
            wire.parse_digests(bytes(length), SHA1)


@pytest.mark.parametrize(("count", "good"), [(MAX_BATCH - 1, True), (MAX_BATCH, True), (MAX_BATCH + 1, False)])
def test_a_batch_has_a_limit(count: int, good: bool) -> None:
    if good:
        assert len(wire.parse_digests(bytes(20 * count), SHA1)) == count
    else:
        with pytest.raises(TooLarge):
            wire.parse_digests(bytes(20 * count), SHA1)


def test_digests_of_another_algorithm_are_not_sent() -> None:
    with pytest.raises(InvalidDigest):
        wire.pack_digests([b"x" * 32, b"x" * 20], BLAKE3)


def test_compose_round_trips() -> None:
    blob, chunks = Blob(b"\xab" * 32, 3), (Blob(b"\xcd" * 32, 1), Blob(b"\xef" * 32, 2))
    assert wire.parse_compose(wire.compose_body(blob, chunks), BLAKE3) == (blob, chunks)


@pytest.mark.parametrize("body", [
    None, 1, [], {}, {"digest": HEX, "size": 1}, {"digest": HEX, "size": "1", "chunks": []},
    {"digest": HEX, "size": -1, "chunks": []}, {"digest": HEX, "size": True, "chunks": []},
    {"digest": HEX, "size": 1.0, "chunks": []}, {"digest": HEX[:-1], "size": 1, "chunks": []},
    {"digest": HEX.upper(), "size": 1, "chunks": []}, {"digest": HEX, "size": 1, "chunks": {}},
    {"digest": HEX, "size": 1, "chunks": [HEX]}, {"digest": HEX, "size": 1, "chunks": [[HEX]]},
    {"digest": HEX, "size": 1, "chunks": [[HEX, 1, 1]]}, {"digest": HEX, "size": 1, "chunks": [[HEX, -1]]},
    {"digest": HEX, "size": 1, "chunks": [[1, 1]]},
])  # fmt: skip
def test_what_is_no_compose(body: Any) -> None:
    with pytest.raises(InvalidInput):
        wire.parse_compose(body, BLAKE3)


@examples(1_000)
@given(JSON)
def test_no_json_crashes_a_parser(body: Any) -> None:
    for parse in (
        lambda: wire.parse_compose(body, BLAKE3),
        lambda: wire.parse_written(body),
        lambda: wire.StoreInfo.parse(body),
    ):
        with pytest.raises(InvalidInput):
            parse()


def test_written_round_trips() -> None:
    assert wire.parse_written(wire.written_body(Written(1, 2, 3))) == Written(1, 2, 3)
    assert wire.written_body(Written(1, 2, 3)) == {"stored": 1, "present": 2, "bytes": 3}


def test_info_round_trips() -> None:
    info = wire.StoreInfo(promised_s=1.5, kept_s=2, server_version="v")
    assert wire.StoreInfo.parse(info.body()) == info


@pytest.mark.parametrize(
    "change", [{"promised_s": "soon"}, {"kept_s": float("inf")}, {"max_batch": None}, {"format": []}]
)
def test_what_is_no_info(change: dict[str, Any]) -> None:
    body = wire.StoreInfo(promised_s=1, kept_s=2, server_version="v").body()
    with pytest.raises(InvalidInput):
        wire.StoreInfo.parse({**body, **change})


def test_paths() -> None:
    assert wire.call_path("blake3-zstd", "missing") == "/cas/v2/blake3-zstd/missing"
