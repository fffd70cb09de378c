"""What a file of a cache is called, below the directory of its algorithm, and whether it is what is told of it.

Knows no index and no tree, and imports little: processes that only look at files start with it. The invariant: it
changes nothing, and what `differing` does not return was, when it looked, as told.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing takes longer to import than all else
if TYPE_CHECKING:
    from collections.abc import Iterable

EXECUTABLE = ".x"
NEVER_NS = (1 << 63) - 1  # no ctime is later


def name_of(digest: bytes, executable: int) -> str:
    """Return the name of the variant of a blob: in one of 256 directories, by how its digest begins."""
    name = digest.hex()
    return f"{name[:2]}/{name}{EXECUTABLE if executable else ''}"


def differing(files: int, facts: Iterable[tuple[int, int, int, int, bytes]], before_ns: int = NEVER_NS) -> list[int]:
    """Return the numbers of the facts that do not hold, or not since before `before_ns`.

    `files` is the directory of the files of their algorithm. A fact is size, mtime_ns, inode, whether it is the
    executable variant, and digest.
    """
    found: list[int] = []
    look = os.stat
    for number, (size, mtime_ns, inode, executable, digest) in enumerate(facts):
        try:
            status = look(name_of(digest, executable), dir_fd=files, follow_symlinks=False)
        except OSError:  # gone although it is pinned, or out of reach
            found.append(number)
            continue
        if (
            status.st_ino != inode
            or status.st_size != size
            or status.st_mtime_ns != mtime_ns
            or status.st_ctime_ns >= before_ns
        ):
            found.append(number)
    return found
