"""A process beside a run that makes some of the links of its tree.

Runs fresh and single-threaded (see `COMMAND_LINE`). Knows no cache and no plan: a batch of names comes in on stdin, and
the numbers of those that could not be linked go out on stdout, for the owner to see why. The invariant: it ends when
stdin does, with at most the batches that were in it made. Imports little: it is to be there before the work is done.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing takes longer to import than all else
if TYPE_CHECKING:
    from collections.abc import Iterable

# As the launcher does it. Argument: the folder of this package.
_CODE = "import sys as s; s.path.append(s.argv[1]); from run_isolated.linker import main as m; m()"
COMMAND_LINE = ("-I", "-S", "-c", _CODE)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
HEADER_BYTES = 8  # length of a batch, big-endian


def batch_of(files: str, root: str, names: list[str]) -> bytes:
    """Return a batch as it is sent: two directories, names below the first, and as many below the second.

    A name cannot have a NUL.
    """
    sent = os.fsencode("\0".join((files, root, *names)))
    return len(sent).to_bytes(HEADER_BYTES) + sent


def main() -> None:
    """Make links, batch after batch."""
    with os.fdopen(0, "rb") as incoming:
        while length := int.from_bytes(incoming.read(HEADER_BYTES)):
            files, root, *names = incoming.read(length).split(b"\0")
            half = len(names) // 2
            failed = _linked(files, root, names[:half], names[half:])
            sys.stdout.write(" ".join(map(str, failed)) + "\n")
            sys.stdout.flush()


def _linked(files: bytes, root: bytes, sources: list[bytes], paths: list[bytes]) -> Iterable[int]:
    """Make links; return the numbers of those that could not be made."""
    descriptors: list[int] = []
    try:
        descriptors.append(os.open(files, _DIRECTORY))
        descriptors.append(os.open(root, _DIRECTORY))
        return _link(sources, paths, *descriptors)
    except OSError:  # of a directory
        return range(len(sources))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _link(sources: list[bytes], paths: list[bytes], files: int, root: int) -> list[int]:
    failed: list[int] = []
    link = os.link
    for number, source in enumerate(sources):
        try:
            link(source, paths[number], src_dir_fd=files, dst_dir_fd=root, follow_symlinks=False)
        except OSError:
            failed.append(number)
    return failed
