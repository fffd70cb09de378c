"""A tree as far as the cache has it: its manifests, and which of its files are absent.

Knows no store and no loop. The parts of a large manifest are read one by one, each time they are needed: from the
cache, where they are pinned like all else. The invariants: what was found is pinned from before the first look until
the pin in `Fetched` is released; memory does not depend on the tree, but for eight bytes per blob.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from struct import Struct

from isolate.cas.cache import LocalCache, Pin
from isolate.cas.cache_checks import Eyes
from isolate.cas.digest import Blob
from isolate.entries import Entry
from isolate.errors import BlobsMissing, InvalidManifest, LostFromCache
from isolate.isolated import MAX_MANIFEST_BYTES, Manifest, loads
from isolate.monitor import Monitor
from isolate.parts import Parts, Tree
from isolate.spool import Spool

STREAMS = 2  # parallel reads of a store: enough to keep a thread busy while another one waits for the network
MAX_READ = 10_000  # blobs asked for in one call
MIN_READ = 512  # a smaller call is not worth its own stream
MAX_SEEN = 1 << 17  # blobs known to have been looked up; one that comes again much later is looked up again


@dataclass(frozen=True, slots=True)
class Fetched:
    """A tree that is in the cache as a whole, for as long as `pin` is not released."""

    root: bytes  # digest of the manifest
    tree: Tree
    pin: Pin
    cold: Sequence[int]  # sizes of what had to be transferred, manifests included
    hot: Sequence[int]  # and of what was there; in a large tree, a blob that comes again much later once more

    @property
    def downloaded_bytes(self) -> int:
        """Plain bytes transferred."""
        return sum(self.cold)


Counted = Callable[[int], object]  # hears how many entries of a tree are known by now, before most are in memory


FindEyes = Callable[[], Eyes | None]


def ignore(_entries: int) -> None:
    """Be told, and do nothing."""


def no_eyes() -> None:
    """Leave it to the cache to look at its files."""


def found(
    cache: LocalCache, root: bytes, monitor: Monitor, counted: Counted = ignore, eyes: FindEyes = no_eyes
) -> Fetched | None:
    """Return the tree whose manifest is `root` if all of it is in `cache`, pinned; None when a store has to be asked.

    `eyes` says who shares the work of looking at its files, once their number is known. Raises InvalidManifest.
    """
    pin = cache.pin([root])
    try:
        fetched = _found(cache, root, pin, monitor, counted, eyes)
    except BlobsMissing:  # evicted by somebody's hand between two looks
        fetched = None
    except BaseException:
        pin.release()
        raise
    if fetched is None:
        pin.release()
    return fetched


def _found(
    cache: LocalCache, root: bytes, pin: Pin, monitor: Monitor, counted: Counted, eyes: FindEyes
) -> Fetched | None:
    namespace = cache.namespace
    manifests, parts = Manifests(cache, counted), Parts(namespace.algorithm)
    level, hot = [root], array("Q")
    while level:
        sizes = manifests.add(level, parts)
        for size in sizes.values():
            if size is None:
                return None
            hot.append(size)
        level = parts.below(level)
    tree = parts.tree(root, manifests.part)
    looking = Looking(cache, pin, namespace.algorithm.digest_bytes, verify=False, eyes=eyes())
    looking.run(tree, until_absent=True)
    if looking.absent_blobs:
        return None
    hot += looking.hot
    looking.tell(hot, monitor)
    return Fetched(root, tree, pin, (), hot)


class Manifests:
    """The manifests in a cache."""

    def __init__(self, cache: LocalCache, counted: Counted = ignore) -> None:
        self._cache, self._counted = cache, counted

    def add(self, digests: Sequence[bytes], parts: Parts) -> dict[bytes, int | None]:
        """Add those of `digests` that are in the cache to `parts`; returns their sizes, and None for the others."""
        sizes: dict[bytes, int | None] = {}
        for digest in digests:
            content = self._content(digest)
            sizes[digest] = None if content is None else len(content)
            if content is not None:
                parts.add(digest, loads(content, self._cache.namespace))
                self._counted(parts.entries)
        return sizes

    def part(self, digest: bytes) -> Manifest:
        """Return a part that was read before."""
        content = self._content(digest)
        if content is None:
            raise LostFromCache([digest], f"the cache {self._cache.root}")
        return loads(content, self._cache.namespace)

    def _content(self, digest: bytes) -> bytes | None:
        is_empty = digest == self._cache.namespace.empty.digest
        return b"" if is_empty else self._cache.read(digest, MAX_MANIFEST_BYTES)


class Looking:
    """A look at the cache for all blobs of a tree, run by run: pins them, and notes on disk what is absent."""

    def __init__(
        self, cache: LocalCache, pin: Pin, digest_bytes: int, *, verify: bool, eyes: Eyes | None = None
    ) -> None:
        self._cache, self._pin, self._verify, self._eyes = cache, pin, verify, eyes
        self._layout = Struct(f"<{digest_bytes}sQ")
        self._absent = Spool(cache.temporary)  # a record for each batch
        self._waiting: list[Blob] = []
        self._seen: dict[bytes, int] = {}  # digest to size
        self.has_forgotten = False  # so that some may be among the absent twice
        self.absent_blobs = self.absent_bytes = 0
        self.hot = array("Q")

    def run(self, tree: Tree, *, until_absent: bool = False) -> None:
        """Look, to the end of the tree or, `until_absent`, to the first run of which something is absent."""
        for entries in tree.runs():
            self._look_up(entries)
            if until_absent and self.absent_blobs:
                return
        self._spool(self._waiting)
        self._waiting = []
        self._pin.restart()  # what was wrong until now is gone, and nothing of ours was linked to it

    def _look_up(self, entries: Sequence[Entry]) -> None:
        if len(self._seen) > MAX_SEEN:
            self._seen, self.has_forgotten = {}, True
        blobs, seen = [], self._seen
        for path, _, blob, _, _ in entries:
            if blob is not None and blob[1]:
                if blob[0] not in seen:
                    seen[blob[0]] = blob[1]
                    blobs.append(blob)
                elif seen[blob[0]] != blob[1]:
                    raise InvalidManifest(f"{path!r} gives blob {blob[0].hex()} a second size, {blob[1]} bytes")
        executables = list(dict.fromkeys(entry.blob for entry in entries if entry.blob and entry.is_executable))
        self._pin.extend(blob.digest for blob in blobs)
        absent = self._cache.absent(blobs, eyes=self._eyes)
        lacking = set(absent)
        variants = set(
            self._cache.absent(executables, executable=True, eyes=self._eyes)
        )  # drops those that were damaged
        if self._verify:  # drops those that are wrong
            files = [(blob, False) for blob in blobs if blob not in lacking]
            right = self._cache.recheck(files + [(blob, True) for blob in executables if blob not in variants])
            wrong = [variant[0] for variant in files if variant not in right]
            absent += wrong
            lacking.update(wrong)
        self.hot.extend([blob.size for blob in blobs if blob not in lacking])
        self.absent_blobs += len(absent)
        self.absent_bytes += sum(blob.size for blob in absent)
        self._waiting += absent
        while len(self._waiting) >= 2 * STREAMS * MAX_READ:  # the last ones are shared by the streams
            self._spool(self._waiting[: STREAMS * MAX_READ])
            self._waiting = self._waiting[STREAMS * MAX_READ :]

    def _spool(self, blobs: Sequence[Blob]) -> None:
        for batch in in_batches(blobs):
            self._absent.append(b"".join([self._layout.pack(*blob) for blob in batch]))

    def tell(self, known: Sequence[int], monitor: Monitor) -> None:
        """Tell what there is, of sizes `known`, and what is to come."""
        monitor.count("known_blobs", len(known))
        monitor.count("known_bytes", sum(known))
        monitor.expect("fetched_blobs", self.absent_blobs)
        monitor.expect("fetched_bytes", self.absent_bytes)

    def batches(self) -> Iterator[Sequence[Blob]]:
        """Yield what was absent."""
        for packed in self._absent:
            yield [Blob(*fields) for fields in self._layout.iter_unpack(packed)]


def in_batches(blobs: Sequence[Blob]) -> list[Sequence[Blob]]:
    size = min(MAX_READ, max(MIN_READ, -(-len(blobs) // STREAMS)))
    return [blobs[start : start + size] for start in range(0, len(blobs), size)]
