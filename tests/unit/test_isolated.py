"""Manifests: canonical bytes, strict loading, includes."""

from __future__ import annotations

import json
import stat
from typing import Any

import pytest

from isolate.cas.digest import Blob, Namespace
from isolate.entries import MAX_PATH_BYTES, MAX_PATH_PARTS, MAX_SIZE, Entry, Kind, manifest_mode
from isolate.errors import InvalidManifest
from isolate.isolated import MAX_MANIFEST_BYTES, Manifest, dumps, loads

OURS = Namespace.parse("blake3-zstd")
OLD = Namespace.parse("default-gzip")
HASH = {namespace.name: namespace.blob(b"hello\n").digest.hex() for namespace in (OURS, OLD)}


def document(namespace: Namespace, files: Any = None, **keys: Any) -> bytes:
    record = {"version": "2.0" if namespace.is_ours else "1.6", **keys}
    if files is not None:
        record["files"] = files
    return json.dumps(record).encode()


def a_file(namespace: Namespace = OURS, **keys: Any) -> dict[str, Any]:
    return {"h": HASH[namespace.name], "s": 6, "m": 416} | keys


def paths(manifest: Manifest) -> list[str]:
    return [entry.path for entry in manifest.entries]


@pytest.mark.parametrize(
    ("on_disk", "expected"),
    [
        (0o777, 0o750),
        (0o755, 0o750),
        (0o750, 0o750),
        (0o744, 0o750),
        (0o700, 0o700),
        (0o644, 0o640),
        (0o640, 0o640),
        (0o600, 0o600),
        (0o444, 0o440),
        (0o400, 0o400),
        (0o511, 0o500),
        (0o000, 0),
    ],
)
def test_mode_is_that_of_2020(on_disk: int, expected: int) -> None:
    assert manifest_mode(stat.S_IFREG | on_disk) == expected


@pytest.mark.parametrize(
    ("mode", "executable"), [(None, True), (0, True), (0o640, False), (0o750, True), (0o400, False), (0o050, False)]
)
def test_executable_as_2020_applies_modes(mode: int | None, executable: bool) -> None:
    assert Entry("a", Kind.FILE, Blob(b"", 1), mode).is_executable is executable


def test_canonical_bytes_of_every_kind() -> None:
    manifest = Manifest(
        algorithm=OURS.algorithm,
        entries=(
            Entry("a\\b", Kind.FILE, OURS.blob(b"hello\n"), 0o640),
            Entry("d", Kind.DIR),
            Entry("l", Kind.LINK, target="../x"),
            Entry("n\udcff", Kind.FILE, OURS.empty),
        ),
        command=("run", "é"),
        relative_cwd=".",
        read_only=1,
        includes=(b"\x01" * 32,),
    )
    data = dumps(manifest)
    assert data == (
        b'{"algo":"blake3-256","command":["run","\\u00e9"],"files":{"a\\\\b":{"h":"%s","m":416,"s":6},"d":{"t":"dir"},'
        b'"l":{"l":"../x"},"n\\udcff":{"h":"%s","s":0}},"includes":["%s"],"read_only":1,"relative_cwd":".","version":"2.0"}'
        % (HASH["blake3-zstd"].encode(), OURS.empty.digest.hex().encode(), b"01" * 32)
    )
    assert loads(data, OURS) == manifest


def test_old_manifests_write_no_empty_directories() -> None:
    with pytest.raises(InvalidManifest, match="'d' is empty"):
        dumps(Manifest(algorithm=OLD.algorithm, entries=(Entry("d", Kind.DIR),)))


def test_what_could_not_be_loaded_is_not_written() -> None:
    blob = OURS.blob(b"x")
    for entries in (
        (Entry("a", Kind.FILE, blob), Entry("a/b", Kind.FILE, blob)),
        (Entry("a", Kind.FILE, blob), Entry("a", Kind.FILE, blob)),
        (Entry("a", Kind.FILE),),
    ):
        with pytest.raises(InvalidManifest):
            dumps(Manifest(algorithm=OURS.algorithm, entries=entries))
    for read_only in (3, -1, True):
        with pytest.raises(InvalidManifest, match="'read_only' is not 0, 1 or 2"):
            dumps(Manifest(algorithm=OURS.algorithm, read_only=read_only))


def test_the_smallest_manifest_of_2020() -> None:
    manifest = loads(b"{}", OLD)
    assert manifest == Manifest(algorithm=OLD.algorithm)


def test_foreign_separators_of_2020_are_converted() -> None:
    data = document(OLD, {"a\\b": a_file(OLD), "l": {"l": "..\\x"}}, relative_cwd="a\\c", command=["x\\y"])
    manifest = loads(data, OLD)
    assert paths(manifest) == ["a/b", "l"]
    assert manifest.entries[1].target == "../x"
    assert manifest.relative_cwd == "a/c"
    assert manifest.command == ("x\\y",)


def test_backslash_is_ordinary_in_2_0() -> None:
    assert paths(loads(document(OURS, {"a\\..\\b": a_file()}), OURS)) == ["a\\..\\b"]


@pytest.mark.parametrize("path", ["../x", "a/../x", "/x", "a/", "", ".", "./a", "a//b", "a\0b", "..", "a/.."])
@pytest.mark.parametrize("namespace", [OURS, OLD], ids=["2.0", "1.6"])
def test_paths_that_leave_the_tree(namespace: Namespace, path: str) -> None:
    with pytest.raises(InvalidManifest, match=r"Path .* is not a plain relative path"):
        loads(document(namespace, {path: a_file(namespace)}), namespace)


@pytest.mark.parametrize("path", ["\\a", "\\\\host\\share", "a\\..\\..\\b", "..\\a", "a\\"])
def test_paths_that_leave_the_tree_in_the_other_spelling(path: str) -> None:
    with pytest.raises(InvalidManifest, match="plain relative path"):
        loads(document(OLD, {path: a_file(OLD)}), OLD)


@pytest.mark.parametrize("path", ["\ud800", "\udcc3\udca9"])
def test_paths_that_are_no_name_or_a_second_spelling(path: str) -> None:
    with pytest.raises(InvalidManifest, match=r"code point|second spelling"):
        loads(document(OURS, {path: a_file()}), OURS)


def test_non_utf8_names_are_kept() -> None:
    assert paths(loads(document(OURS, {"\udcff\udce9/é": a_file()}), OURS)) == ["\udcff\udce9/é"]


def test_path_limits() -> None:
    longest = "a" * MAX_PATH_BYTES
    deepest = "/".join("a" * MAX_PATH_PARTS)
    assert paths(loads(document(OURS, {longest: a_file()}), OURS)) == [longest]
    assert paths(loads(document(OURS, {deepest: a_file()}), OURS)) == [deepest]
    for path in (longest + "a", deepest + "/a", "é" * (MAX_PATH_BYTES // 2 + 1)):
        with pytest.raises(InvalidManifest, match="too long"):
            loads(document(OURS, {path: a_file()}), OURS)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"a": {"l": "/etc"}, "a/b": a_file()}, "'a/b' lies below 'a', which is a link"),
        ({"a": {"l": "/etc"}, "a/b/c/d": a_file()}, "lies below 'a', which is a link"),
        ({"a": {"l": "/etc"}, "a/b": {"t": "dir"}}, "below 'a', which is a link"),
        ({"a": a_file(), "a/b": a_file()}, "'a/b' lies below 'a', which is a file"),
        ({"a": a_file(t="tar"), "a/b": a_file()}, "which is a tar"),
        ({"a": {"l": "x"}, "a!": a_file(), "a/b": a_file()}, "below 'a'"),
    ],
)
def test_nothing_lies_below_a_link_or_a_file(files: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidManifest, match=reason):
        loads(document(OURS, files), OURS)


def test_neighbours_of_a_file_are_not_below_it() -> None:
    files = {"a": a_file(), "a.b/c": a_file(), "a!/x": a_file(), "d": {"t": "dir"}, "d/e": a_file()}
    assert len(loads(document(OURS, files), OURS).entries) == 5


def test_two_spellings_of_one_path_in_2020() -> None:
    with pytest.raises(InvalidManifest, match="same path"):
        loads(document(OLD, {"a\\b": a_file(OLD), "a/b": a_file(OLD)}), OLD)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (None, "'x' is not an object"),
        ([], "'x' is not an object"),
        ({}, "'x' has not both 'h' and 's'"),
        ({"h": HASH["blake3-zstd"]}, "'x' has not both"),
        ({"s": 6}, "'x' has not both"),
        (a_file(z=1), "'x' has the unknown key 'z'"),
        (a_file(l="y"), "'x' is a link and has more than 'l'"),
        ({"l": "y", "m": 416}, "is a link and has more"),
        ({"l": ""}, "Link target of 'x' is empty"),
        ({"l": "a\0b"}, "Link target of 'x' contains a NUL"),
        ({"l": "\ud800"}, "Link target of 'x' contains a code point"),
        ({"l": 1}, "Link target of 'x' is not a string"),
        ({"l": "y" * 5000}, "Link target of 'x' is empty or too long"),
        (a_file(s=-1), "Size of 'x'"),
        (a_file(s=True), "Size of 'x'"),
        (a_file(s=6.0), "Size of 'x'"),
        (a_file(s="6"), "Size of 'x'"),
        (a_file(s=MAX_SIZE + 1), "Size of 'x'"),
        (a_file(s=0), "disagree about being empty"),
        ({"h": OURS.empty.digest.hex(), "s": 1}, "disagree about being empty"),
        (a_file(m=-1), "Mode of 'x'"),
        (a_file(m=0o10000), "Mode of 'x'"),
        (a_file(m=True), "Mode of 'x'"),
        (a_file(m=None), "Mode of 'x'"),
        (a_file(h="00"), "Hash of 'x'"),
        (a_file(h=5), "Hash of 'x'"),
        (a_file(h="g" * 64), "Hash of 'x'"),
        (a_file(h="00 " * 21 + "0"), "Hash of 'x'"),
        (a_file(h="00" * 31 + "  "), "Hash of 'x'"),
        (a_file(t="ar"), "'x' has the unknown type 'ar'"),
        (a_file(t=["tar"]), "'x' has the unknown type"),
        (a_file(t="dir"), "'x' is a directory and has more than 't'"),
    ],
)
def test_bad_entries_are_named(entry: Any, reason: str) -> None:
    with pytest.raises(InvalidManifest, match=reason):
        loads(document(OURS, {"x": entry}), OURS)


def test_good_entries_at_the_limits() -> None:
    files = {
        "upper": a_file(h=HASH["blake3-zstd"].upper()),
        "basic": a_file(t="basic", m=0o7777),
        "huge": {"h": "00" * 32, "s": MAX_SIZE},
        "link": {"l": "/anywhere", "t": "basic"},
        "tar": a_file(t="tar"),
    }
    entries = {entry.path: entry for entry in loads(document(OURS, files), OURS).entries}
    assert entries["upper"].blob == entries["basic"].blob == OURS.blob(b"hello\n")
    assert entries["huge"].blob == Blob(bytes(32), MAX_SIZE)
    assert entries["link"].target == "/anywhere"
    assert entries["tar"].kind is Kind.TAR


def test_directories_are_unknown_in_2020() -> None:
    with pytest.raises(InvalidManifest, match="unknown type 'dir'"):
        loads(document(OLD, {"x": a_file(OLD, t="dir")}), OLD)


def test_one_blob_has_one_size() -> None:
    with pytest.raises(InvalidManifest, match=r"'b' gives blob .* a second size, 7 bytes"):
        loads(document(OURS, {"a": a_file(), "b": a_file(s=7)}), OURS)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"files": []}, "'files' is not an object"),
        ({"version": "1.6"}, "'version' is '1.6'"),
        ({"version": 2.0}, "'version' is 2.0"),
        ({"version": "2.x"}, "'version' is '2.x'"),
        ({"version": "9" * 5000}, "'version' is"),
        ({"version": "2²"}, "'version' is"),
        ({"algo": "sha-1"}, "'algo' is not 'blake3-256'"),
        ({"algo": None}, "'algo'"),
        ({"command": []}, "'command' is not a list"),
        ({"command": "x"}, "'command' is not a list"),
        ({"command": ["x", 1]}, "Item 1 of 'command' is not a string"),
        ({"command": ["x\0"]}, "Item 0 of 'command' contains a NUL"),
        ({"includes": []}, "'includes' is not a list"),
        ({"includes": ["00"]}, "An item of 'includes'"),
        ({"includes": ["00" * 32] * 10_001}, "'includes' is not a list of 1 to 10000"),
        ({"read_only": True}, "'read_only'"),
        ({"read_only": 3}, "'read_only'"),
        ({"relative_cwd": "../x"}, "'relative_cwd' '../x' is not inside"),
        ({"relative_cwd": "a/../../x"}, "'relative_cwd'"),
        ({"relative_cwd": "/"}, "'relative_cwd'"),
        ({"relative_cwd": 1}, "'relative_cwd' is not a string"),
        ({"os": "linux"}, "Unknown key 'os'"),
        ({"zzz": 1}, "Unknown key 'zzz'"),
    ],
)
def test_bad_keys_are_named(keys: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidManifest, match=reason):
        loads(document(OURS, **keys), OURS)


@pytest.mark.parametrize(("version", "accepted"), [("1.3", True), ("1.4", False), ("1.6", False)])
def test_os_is_ignored_in_old_versions_only(version: str, accepted: bool) -> None:
    data = json.dumps({"version": version, "os": "linux"}).encode()
    if accepted:
        assert loads(data, OLD).entries == ()
    else:
        with pytest.raises(InvalidManifest, match="Unknown key 'os'"):
            loads(data, OLD)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Not a manifest"),
        (b"[]", "outermost value"),
        (b"null", "outermost value"),
        (b"{", "Not a manifest"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"files":{},"files":{}}', "Key 'files' is given twice"),
        (b'{"files":{"a":{"l":"x"},"a":{"l":"y"}}}', "Key 'a' is given twice"),
        (b'{"files":{"a":{"l":"x","l":"y"}}}', "Key 'l' is given twice"),
        (b'{"read_only":NaN}', "NaN is no JSON"),
        (b'{"read_only":' + b"1" * 5000 + b"}", "Not a manifest"),
        (b"\xff\xfe{\0}\0", "Not a manifest"),
        (b'\xef\xbb\xbf{"version":"2.0"}', "Not a manifest"),
        (b'{"files":{"\xff":{}}}', "Not a manifest"),
        (b" " * (MAX_MANIFEST_BYTES + 1), "larger than"),
    ],
    ids=range(15),
)
def test_hostile_json(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidManifest, match=reason):
        loads(data, OURS)


def test_blobs_are_distinct_and_not_empty() -> None:
    manifest = Manifest(
        algorithm=OURS.algorithm,
        entries=(
            Entry("a", Kind.FILE, OURS.blob(b"x"), 0o640),
            Entry("b", Kind.FILE, OURS.blob(b"x"), 0o750),
            Entry("c", Kind.FILE, OURS.empty),
            Entry("d", Kind.LINK, target="a"),
        ),
    )
    assert list(manifest.blobs()) == [OURS.blob(b"x")]
