"""What an archive came to: the numbers of one tree or file, taken from what is counted while it is made.

Knows no store and no files. The invariant: where a tree is begun again, what was counted of the looks at it is taken
back, so that each file is told once; what was done, the reading and the sending, stays.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from isolate.cas.digest import Blob, Namespace
from isolate.monitor import Monitor
from isolate.pipeline import Built

# What a pass finds: the next one finds it once more.
_FOUND = ("archived_bytes", "cached_files", "present_blobs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """A tree, or a single file, that is in the store as a whole."""

    root: Blob
    namespace: Namespace
    files: int  # links included
    size_bytes: int
    uploaded_blobs: int
    uploaded_bytes: int
    uploaded_manifests: int  # of `uploaded_blobs`
    uploaded_manifest_bytes: int  # of `uploaded_bytes`
    manifest: bytes = b""  # what `root` is the digest of; nothing for a single file
    group_parts: tuple[bytes, ...] = ()  # manifests of the groups of a selection, the first of its includes

    @property
    def hash(self) -> str:
        """The digest of the root, as users write it."""
        return self.root.digest.hex()


class Tally:
    """Passes on what is counted of one tree, and adds up what the result tells."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._counted: Counter[str] = Counter()
        self._expected: Counter[str] = Counter()

    def count(self, counter: str, amount: int = 1) -> None:
        self._counted[counter] += amount
        self._monitor.count(counter, amount)

    def expect(self, counter: str, more: int) -> None:
        self._expected[counter] += more
        self._monitor.expect(counter, more)

    def problem(self, message: object) -> None:
        self._monitor.problem(message)

    def begin_again(self) -> None:
        """Hear that the tree is looked at from the start."""
        for counter in _FOUND:
            self.count(counter, -self._counted[counter])
        for counter, expected in list(self._expected.items()):
            self.expect(counter, self._counted[counter] - expected)

    def archived(self, root: Blob, namespace: Namespace, built: Built, manifest: bytes = b"") -> Archived:
        counted = self._counted
        return Archived(
            root=root,
            namespace=namespace,
            files=built.files,
            size_bytes=built.size_bytes,
            uploaded_blobs=counted["uploaded_blobs"] + counted["uploaded_manifests"],
            uploaded_bytes=counted["uploaded_bytes"] + counted["uploaded_manifest_bytes"],
            uploaded_manifests=counted["uploaded_manifests"],
            uploaded_manifest_bytes=counted["uploaded_manifest_bytes"],
            manifest=manifest,
            group_parts=built.group_parts,
        )
