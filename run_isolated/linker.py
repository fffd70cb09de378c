"""A process beside a run that makes some of the links of its tree.

Runs fresh and single-threaded (see `COMMAND_LINE`). Knows no cache and no plan: a batch of names comes in on stdin, and
the numbers of those that could not be linked go out on stdout, for the owner to see why. The invariant: it ends when
stdin does, with at most the batches that were in it made. Imports little: it is to be there before the work is done.
"""

from __future__ import annotations

import os
import sys

# As the launcher does it. Arguments: the folder of this package, descriptors of the cache's files and of the tree.
_CODE = "import sys as s; s.path.append(s.argv[1]); from run_isolated.linker import main as m; m(*map(int, s.argv[2:]))"
COMMAND_LINE = ("-I", "-S", "-c", _CODE)
HEADER_BYTES = 8  # length of a batch, big-endian


def batch_of(sources: list[str], paths: list[str]) -> bytes:
    """Return a batch as it is sent; a name cannot have a NUL."""
    names = os.fsencode("\0".join(sources + paths))
    return len(names).to_bytes(HEADER_BYTES) + names


def main(files: int, root: int) -> None:
    """Link files below the descriptor `files` to names below `root`, batch after batch."""
    with os.fdopen(0, "rb") as incoming:
        while length := int.from_bytes(incoming.read(HEADER_BYTES)):
            names = incoming.read(length).split(b"\0")
            half = len(names) // 2
            failed = _link(names[:half], names[half:], files, root)
            sys.stdout.write(" ".join(map(str, failed)) + "\n")
            sys.stdout.flush()


def _link(sources: list[bytes], paths: list[bytes], files: int, root: int) -> list[int]:
    failed: list[int] = []
    link = os.link
    for number, source in enumerate(sources):
        try:
            link(source, paths[number], src_dir_fd=files, dst_dir_fd=root, follow_symlinks=False)
        except OSError:
            failed.append(number)
    return failed
