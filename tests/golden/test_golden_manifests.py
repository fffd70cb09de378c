"""Manifests of every released format, as files that are never edited.

The SHA-1 one was written by the tools of 2020; that of version 2.0 by the first release of ours.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from isolate.cas.digest import Namespace
from isolate.entries import Entry, Kind, manifest_mode
from isolate.isolated import Manifest, dumps, loads

GOLDEN = Path(__file__).parent
# The tree all of them describe: mode on disk and content, or where a link points.
TREE: dict[str, tuple[int, bytes] | str] = {
    "a.txt": (0o644, b"hello\n"),
    "bin/x": (0o755, b"#!/bin/sh\necho hi\n"),
    "empty": (0o600, b""),
    "lnk": "a.txt",
    "é.txt": (0o644, b"n\n"),
}
HASHES = {
    "manifest-1.6-sha-1.isolated": ("default-gzip", "af6898aa06b8c92a0a77458ca9dbaef1ac5989be"),
    "manifest-1.6-sha-256.isolated": (
        "sha256-flat",
        "35c6e95eb423c0db94db13f43bfdcd5970747f0550104ef4c21b839d8c9c108b",
    ),
    "manifest-1.6-sha-512.isolated": (
        "sha512-deflate",
        "370375331dec2680512cfca87d67af6d2803a4bd5d1e15f89290d4798a751a1d5faaf9605f0d9b561554c04d42bd0a100bcb6fce77438868b4a041a5417587f4",
    ),
    "manifest-2.0-blake3.isolated": ("blake3-zstd", "07664254cd8fc10f6a797b427d7050076061004c907ff2c327990e3d32bce2b0"),
}


def manifest_of(namespace: Namespace) -> Manifest:
    entries = [
        Entry(path, Kind.LINK, target=node)
        if isinstance(node, str)
        else Entry(path, Kind.FILE, namespace.blob(node[1]), manifest_mode(node[0]))
        for path, node in TREE.items()
    ]
    if namespace.is_ours:
        entries += [Entry("none", Kind.DIR), Entry("b\\s", Kind.FILE, namespace.empty, 0o600)]
        entries += [Entry("raw\udcff", Kind.LINK, target="\udcfe")]
    return Manifest(algorithm=namespace.algorithm, entries=tuple(sorted(entries)))


@pytest.mark.parametrize("name", HASHES)
def test_the_same_tree_still_has_the_same_bytes(name: str) -> None:
    namespace_name, digest = HASHES[name]
    namespace = Namespace.parse(namespace_name)
    data = (GOLDEN / name).read_bytes()
    assert dumps(manifest_of(namespace)) == data
    assert namespace.blob(data).digest.hex() == digest


@pytest.mark.parametrize("name", HASHES)
def test_they_are_still_read(name: str) -> None:
    namespace = Namespace.parse(HASHES[name][0])
    assert loads((GOLDEN / name).read_bytes(), namespace) == manifest_of(namespace)
