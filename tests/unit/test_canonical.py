"""Reading a manifest in bulk: the same as reading it with care, or left to that."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolate import canonical
from isolate.cas.digest import Blob, Namespace
from isolate.entries import MAX_PATH_PARTS, MAX_SIZE, Entry, Kind
from isolate.errors import InvalidManifest
from isolate.isolated import Manifest, dumps, loads

OURS = Namespace.parse("blake3-zstd")
OLD = Namespace.parse("default-gzip")
NAMESPACES = {namespace.name: namespace for namespace in (OURS, OLD)}


def a_file(namespace: Namespace = OURS, **keys: Any) -> dict[str, Any]:
    return {"h": namespace.blob(b"hello\n").digest.hex(), "m": 416, "s": 6} | keys


def text_of(record: object) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def outcome(text: bytes, namespace: Namespace) -> Manifest | str:
    try:
        return loads(text, namespace)
    except InvalidManifest as error:
        return str(error)


def document(files: object, namespace: Namespace = OURS, **keys: Any) -> dict[str, Any]:
    return {"algo": namespace.algorithm.name, "files": files, "version": "2.0" if namespace.is_ours else "1.6"} | keys


def test_what_we_write_is_read_in_bulk() -> None:
    entries = (
        Entry("a/b", Kind.FILE, OURS.blob(b"one"), 0o640),
        Entry("a/c", Kind.FILE, OURS.empty, 0o500),
        Entry("a/d", Kind.FILE, Blob(bytes(32), MAX_SIZE)),
        Entry("e", Kind.DIR),
        Entry("f", Kind.LINK, target="a/b"),
    )
    manifest = Manifest(algorithm=OURS.algorithm, entries=entries, command=("x",), relative_cwd="a", read_only=1)
    text = dumps(manifest)
    assert canonical.read(text, OURS) == (
        {"algo": "blake3-256", "command": ["x"], "read_only": 1, "relative_cwd": "a", "version": "2.0"},
        list(entries),
    )
    assert loads(text, OURS) == manifest


def test_a_manifest_of_2020_is_read_in_bulk() -> None:
    text = text_of(document({"a": a_file(OLD), "b": {"l": "a"}}, OLD, includes=["0" * 40]))
    assert canonical.read(text, OLD) == (
        {"algo": "sha-1", "includes": ["0" * 40], "version": "1.6"},
        [Entry("a", Kind.FILE, OLD.blob(b"hello\n"), 416), Entry("b", Kind.LINK, target="a")],
    )


EMPTY_HASH = OURS.empty.digest.hex()
HASH = a_file()["h"]
UNUSUAL = {
    "path-twice": b'{"files":{"a":{"t":"dir"},"a":{"t":"dir"}}}',
    "key-twice": b'{"files":{"a":{"t":"dir","t":"dir"}}}',
    "blank": b'{"files": {}}',
    "unknown-key": b'{"files":{},"os":"linux"}',
    "other-order": b'{"version":"2.0","files":{}}',
    "null": b'{"files":null}',
    "null-in-entry": b'{"files":{"a":{"h":null,"t":"dir"}}}',
    "float": b'{"files":{"a":{"h":"%s","s":6.0}}}' % HASH.encode(),
    "exponent": b'{"files":{"a":{"h":"%s","s":6e0}}}' % HASH.encode(),
    "negative-nought": b'{"files":{"a":{"h":"%s","s":-0}}}' % EMPTY_HASH.encode(),
    "trailing": b'{"files":{}}x',
    "bytes": b"\xff",
    "list": b"[]",
    "raw-utf8": '{"files":{"é":{"t":"dir"}}}'.encode(),
    **{
        name: text_of(document({path: {"t": "dir"}}))
        for name, path in {
            "no-path": "",
            "absolute": "/a",
            "parent": "a/../b",
            "only-parent": "..",
            "dot": "./a",
            "slash": "a/",
            "slashes": "a//b",
            "nul": "a\0b",
            "escape": "a\\b",
            "umlaut": "ä",
            "surrogate": "\udc80",
            "long": "a" * 4097,
            "deep": "a/" * MAX_PATH_PARTS + "a",
        }.items()
    },
    **{
        name: text_of(document({"a": entry}))
        for name, entry in {
            "nothing": {},
            "tar": a_file(t="tar"),
            "basic": a_file(t="basic"),
            "unknown-type": a_file(t="ar"),
            "link-and-file": a_file(l="b"),
            "link-with-mode": {"l": "b", "m": 0},
            "link-with-type": {"l": "b", "t": "basic"},
            "no-target": {"l": ""},
            "long-target": {"l": "b" * 4097},
            "dir-with-size": {"s": 0, "t": "dir"},
            "no-size": {"h": HASH},
            "no-hash": {"s": 6},
            "mode-alone": {"m": 416},
            "empty-with-size": {"h": EMPTY_HASH, "s": 1},
            "size-nought": {"h": HASH, "s": 0},
            "negative": a_file(s=-1),
            "huge": a_file(s=1 << 63),
            "true": a_file(s=True),
            "text": a_file(s="6"),
            "mode": a_file(m=0o10000),
            "short": a_file(h=HASH[:-2]),
            "no-hex": a_file(h="g" * 64),
            "blank-in-hash": a_file(h=f"{HASH[:2]} {HASH[2:60]} {HASH[62:]}"),
            "unknown-sub-key": a_file(x=1),
            "list-entry": [],
        }.items()
    },
}


@pytest.mark.parametrize("text", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_what_is_unusual_is_left_to_the_careful_reader(text: bytes) -> None:
    assert canonical.read(text, OURS) is None


@pytest.mark.parametrize("entry", [{"t": "dir"}, a_file(OURS)], ids=["dir", "hash-of-another-length"])
def test_what_2020_does_not_know_is_left_to_the_careful_reader(entry: object) -> None:
    assert canonical.read(text_of(document({"a": entry}, OLD)), OLD) is None


NAMES = st.sampled_from(
    ["a", "b", "c", ".", "..", "", " ", "{", ":", ",", "a.b", "ä", "\\", '"', "\0", "\x7f", "x" * 99]
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
HASHES = st.sampled_from(
    [HASH, EMPTY_HASH, a_file(OLD)["h"], OLD.empty.digest.hex(), HASH.upper(), f"{HASH[:-1]} ", HASH[:-2]]
)
NUMBERS = st.sampled_from([0, 1, 6, 416, 4095, 4096, -1, MAX_SIZE, MAX_SIZE + 1, 1 << 70, 6.0, True, None, "6"])
ENTRIES = st.one_of(
    st.fixed_dictionaries({"h": HASHES, "s": NUMBERS}, optional={"m": NUMBERS}),
    st.fixed_dictionaries({}, optional={"h": HASHES, "s": NUMBERS, "m": NUMBERS, "l": PATHS, "t": NAMES}),
    st.just({"t": "dir"}),
    st.builds(lambda target: {"l": target}, PATHS),
)
DOCUMENTS = st.fixed_dictionaries(
    {"files": st.dictionaries(PATHS, ENTRIES, max_size=5)},
    optional={
        "algo": st.sampled_from(["blake3-256", "sha-1", "", None]),
        "command": st.sampled_from([[], ["a"], ["a", "\0"], None, "a"]),
        "includes": st.sampled_from([[], ["0" * 64], ["0" * 40], ["x"], None]),
        "read_only": st.sampled_from([0, 1, 2, 3, True, None]),
        "relative_cwd": st.sampled_from([".", "a", "..", "/", None, 1]),
        "version": st.sampled_from(["2.0", "1.6", "1.2", "", "3", None, 2]),
        "os": st.just("linux"),
    },
)


@pytest.mark.parametrize("namespace", NAMESPACES.values(), ids=NAMESPACES.keys())
@given(record=DOCUMENTS)
def test_both_readers_agree(namespace: Namespace, record: dict[str, Any]) -> None:
    """With blanks only the careful one reads it."""
    spaced = json.dumps(record, sort_keys=True, indent=1).encode()
    assert canonical.read(spaced, namespace) is None
    assert outcome(text_of(record), namespace) == outcome(spaced, namespace)
