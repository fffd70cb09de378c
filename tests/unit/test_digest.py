"""Namespaces as users type them and as the protocol of 2020 reads them; hashes by their length."""

from __future__ import annotations

import pytest

from isolate.cas.digest import BLAKE3, SHA1, SHA256, SHA512, Codec, Namespace
from isolate.errors import InvalidDigest, InvalidNamespace


@pytest.mark.parametrize(
    ("name", "algorithm", "codec"),
    [
        ("blake3-zstd", BLAKE3, Codec.ZSTD),
        ("blake3-flat", BLAKE3, Codec.IDENTITY),
        ("default", SHA1, Codec.IDENTITY),
        ("default-gzip", SHA1, Codec.ZLIB),
        ("temporary-gzip", SHA1, Codec.ZLIB),
        ("temporary123", SHA1, Codec.IDENTITY),
        ("sha1-flat", SHA1, Codec.IDENTITY),
        ("sha256-deflate", SHA256, Codec.ZLIB),
        ("sha256-flate", SHA256, Codec.IDENTITY),
        ("sha512-flat", SHA512, Codec.IDENTITY),
        ("my.own-gzip", SHA1, Codec.ZLIB),
    ],
)
def test_names_that_are_meant(name: str, algorithm: object, codec: Codec) -> None:
    for found in (Namespace.parse(name), Namespace.named(name)):
        assert (found.name, found.algorithm, found.codec) == (name, algorithm, codec)


@pytest.mark.parametrize("name", ["bogus", "blake3zstd", "blake3", "sha256", "sha-256", "gzip", "sha1"])
def test_a_slip_is_no_namespace_of_a_user(name: str) -> None:
    with pytest.raises(InvalidNamespace, match=r"is unknown|is incomplete"):
        Namespace.named(name)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".", "a b", "é-gzip", "x" * 129, "blake3-gzip", "blake3-lzma"])
def test_what_is_no_name_for_anybody(name: str) -> None:
    for parse in (Namespace.parse, Namespace.named):
        with pytest.raises(InvalidNamespace):
            parse(name)


@pytest.mark.parametrize(("digits", "name"), [(40, "default-gzip"), (64, "blake3-zstd"), (128, "sha512-deflate")])
def test_a_bare_hash_is_read_by_its_length(digits: int, name: str) -> None:
    assert Namespace.of_hash("a" * digits).name == name
    for near in (digits - 1, digits + 1):
        with pytest.raises(InvalidDigest):
            Namespace.of_hash("a" * near)


@pytest.mark.parametrize("text", ["A" * 64, "g" * 64, "a" * 63, "a" * 65, "", " " + "a" * 63])
def test_a_digest_is_lower_case_hex_of_its_length(text: str) -> None:
    with pytest.raises(InvalidDigest, match="expected 64 lower-case hex digits"):
        BLAKE3.parse_hex(text)
