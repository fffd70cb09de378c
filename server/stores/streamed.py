"""Digests of whole uploads: a large blob comes as the chunks of one upload, and is hashed while they are verified.

So whoever composes it next need not read them again. Knows no store. The invariants: what is told was hashed of
contents that were verified and stored, in the order they came; content is held no longer than its block waits for
those before it; what is remembered is bounded, and whatever is not remembered is found by reading.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from isolate.cas.digest import BLAKE3, Algorithm, Blob

MIN_CHUNK_BYTES = 512 << 10  # a shorter one ends a blob; small files are not hashed a second time for nothing
MAX_REMEMBERED = 1_000  # composing follows at once; of each no more is kept than two digests

_Key = tuple[str, bytes]


class PassingBlob:
    """The blob that the blocks of one upload may be; blocks are added by the threads that verified them."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._hasher = algorithm.hasher()
        self._lock = threading.Lock()
        self._early: dict[int, tuple[Blob, memoryview]] = {}  # verified before one in front of it
        self._chunks: list[bytes] = []
        self._is_one = True
        self._has_ended = False

    def add(self, number: int, entries: tuple[Blob, ...], content: memoryview) -> None:
        """Take what block `number` of the upload holds, once it is verified."""
        with self._lock:
            if len(entries) > 1 or not self._is_one:
                self._give_up()
                return
            self._early[number] = (entries[0], content)
            while self._is_one and len(self._chunks) in self._early:
                self._hash(*self._early.pop(len(self._chunks)))

    def digest(self) -> bytes | None:
        """Return the digest of all blocks together, once there are no more; None when they are no chunks."""
        return self._hasher.digest() if self._is_one and len(self._chunks) > 1 else None

    def key(self) -> bytes:
        """Return the name of the chunks in this order."""
        return _name(self._chunks)

    def _hash(self, blob: Blob, content: memoryview) -> None:
        if self._has_ended:
            self._give_up()
            return
        self._has_ended = blob.size < MIN_CHUNK_BYTES
        self._hasher.update(content)
        self._chunks.append(blob.digest)

    def _give_up(self) -> None:
        self._is_one = False
        self._early.clear()


class StreamedBlobs:
    """What the last uploads were as a whole, for all namespaces of one store."""

    def __init__(self) -> None:
        self._digests: dict[_Key, bytes] = {}

    def remember(self, namespace: str, passed: PassingBlob) -> None:
        """Note what an upload was, all blocks of which are stored."""
        digest = passed.digest()
        if digest is None:
            return
        key = (namespace, passed.key())
        self._digests.pop(key, None)
        self._digests[key] = digest
        if len(self._digests) > MAX_REMEMBERED:
            del self._digests[next(iter(self._digests))]

    def digest(self, namespace: str, chunks: Iterable[Blob]) -> bytes | None:
        """Return the digest of the contents of `chunks` one behind the other; None when they did not come like that."""
        return self._digests.get((namespace, _name([chunk.digest for chunk in chunks])))


def _name(digests: list[bytes]) -> bytes:
    return BLAKE3.digest(b"".join(digests))
