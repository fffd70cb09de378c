"""Digests, blobs and namespaces: what content is called.

Knows no storage and no transport, and is the only module that imports a hash function. A `Namespace` is parsed once;
afterwards a digest of the wrong length or alphabet cannot be built through it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import NamedTuple, Protocol, cast

from blake3 import blake3

from isolate.errors import InvalidDigest, InvalidNamespace

DEFAULT_NAMESPACE = "blake3-zstd"
# A hash given without a namespace is read by its length (architecture, decision 3).
NAMESPACE_BY_HEX_LENGTH = {40: "default-gzip", 64: DEFAULT_NAMESPACE, 128: "sha512-deflate"}

_PLAIN_NAMES = ("default", "temporary", "blake3-")
_ENCODINGS = ("-gzip", "-deflate", "-flat", "-flate", "-zstd")

_NAME = re.compile(r"[a-z0-9A-Z\-._]{1,128}")
_HEX = re.compile(r"[0-9a-f]*")


class Hasher(Protocol):
    """What `hashlib` and `blake3` objects have in common."""

    def update(self, data: bytes | bytearray | memoryview, /) -> object: ...

    def digest(self) -> bytes: ...


class Blob(NamedTuple):
    """One content: its digest, and its size in bytes when plain (not encoded)."""

    digest: bytes
    size: int


# What `Blob(...)` does, without a call in Python for each of a hundred thousand.
fast_blob = cast("Callable[[tuple[object, ...]], Blob]", partial(tuple.__new__, Blob))


def md5_hasher() -> Hasher:
    """Return a hasher of the checksum that bulk transfers of 2020 carry; it guards against accidents only."""
    import hashlib

    return hashlib.md5(usedforsecurity=False)


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A hash function, with its name in `.isolated` files and its code in records."""

    name: str
    code: int
    digest_bytes: int
    hasher: Callable[..., Hasher]  # takes the first bytes, if there are any yet

    def digest(self, content: bytes | bytearray | memoryview) -> bytes:
        """Return the digest of `content`."""
        return self.hasher(content).digest()

    def parallel_hasher(self) -> Hasher:
        """Return a hasher that spreads large updates (megabytes) over every core, if the function can."""
        return blake3(max_threads=blake3.AUTO) if self is BLAKE3 else self.hasher()

    def parse_hex(self, text: str) -> bytes:
        """Return the digest spelt in lower-case hex; raises InvalidDigest."""
        digits = 2 * self.digest_bytes
        if len(text) != digits or not _HEX.fullmatch(text):
            raise InvalidDigest(f"{text!r} is not a {self.name} digest: expected {digits} lower-case hex digits")
        return bytes.fromhex(text)


def _sha1(content: bytes | bytearray | memoryview = b"") -> Hasher:
    import hashlib  # with OpenSSL, which takes longer to load than all else here; ours is BLAKE3

    return hashlib.sha1(content, usedforsecurity=False)


def _sha256(content: bytes | bytearray | memoryview = b"") -> Hasher:
    import hashlib

    return hashlib.sha256(content)


def _sha512(content: bytes | bytearray | memoryview = b"") -> Hasher:
    import hashlib

    return hashlib.sha512(content)


SHA1 = Algorithm("sha-1", 1, 20, _sha1)
SHA256 = Algorithm("sha-256", 2, 32, _sha256)
SHA512 = Algorithm("sha-512", 3, 64, _sha512)
BLAKE3 = Algorithm("blake3-256", 4, 32, blake3)
ALGORITHMS = {algorithm.code: algorithm for algorithm in (SHA1, SHA256, SHA512, BLAKE3)}


class Codec(Enum):
    """How content is encoded; the values are the codes of the block format, zlib has none."""

    IDENTITY = 0
    ZSTD = 1
    ZLIB = -1  # only for the namespaces of 2020, over their own API


@dataclass(frozen=True, slots=True)
class Namespace:
    """A name that fixes how content is hashed and, for the API of 2020, how it is encoded.

    `blake3-*` is ours; every other rule is 2020's: `sha256-` and `sha512-` prefixes, SHA-1 for the rest, zlib for names
    ending in `-gzip` or `-deflate`, plain bytes for the rest.
    """

    name: str
    algorithm: Algorithm
    codec: Codec

    @classmethod
    def parse(cls, name: str) -> Namespace:
        """Return the namespace called `name`; raises InvalidNamespace."""
        if not _NAME.fullmatch(name) or name in {".", ".."}:
            raise InvalidNamespace(f"Namespace {name!r} may hold only letters, digits, '-', '.' and '_', at most 128")
        prefix, dash, _ = name.partition("-")
        if prefix == "blake3":
            codecs = {"blake3-zstd": Codec.ZSTD, "blake3-flat": Codec.IDENTITY}
            if name not in codecs:
                raise InvalidNamespace(f"Namespace {name!r} is unknown; of blake3 there are {' and '.join(codecs)}")
            return cls(name, BLAKE3, codecs[name])
        algorithm = {"sha256": SHA256, "sha512": SHA512}.get(prefix, SHA1) if dash else SHA1
        return cls(name, algorithm, Codec.ZLIB if name.endswith(("-gzip", "-deflate")) else Codec.IDENTITY)

    @classmethod
    def named(cls, name: str) -> Namespace:
        """Return the namespace a user typed; raises InvalidNamespace also for what is probably a slip.

        Any name is one of SHA-1 by the rule of 2020, so a slip would silently hash with another function. A name that
        says its encoding, or is one of those 2020 had without, is meant.
        """
        found = cls.parse(name)
        if not name.startswith(_PLAIN_NAMES) and not name.endswith(_ENCODINGS):
            known = ", ".join(NAMESPACE_BY_HEX_LENGTH.values())
            raise InvalidNamespace(f"Namespace {name!r} is unknown: use {known}, or a name ending in {_ENCODINGS[0]}")
        return found

    @classmethod
    def of_hash(cls, text: str) -> Namespace:
        """Return the namespace a bare hash is read in, by its length; raises InvalidDigest."""
        name = NAMESPACE_BY_HEX_LENGTH.get(len(text))
        if name is None:
            raise InvalidDigest(f"{text!r} is not a hash: expected 40, 64 or 128 hex digits")
        return cls.parse(name)

    @property
    def empty(self) -> Blob:
        """The blob without bytes: never stored nor sent, everyone knows it."""
        return Blob(self.algorithm.digest(b""), 0)

    @property
    def is_ours(self) -> bool:
        """Whether manifests are version 2.0 and the API of 2020 does not serve it."""
        return self.algorithm is BLAKE3

    def blob(self, content: bytes) -> Blob:
        """Return the name of `content`."""
        return Blob(self.algorithm.digest(content), len(content))
