"""What a disk needs for a large file: `python -m bench.write_bare FILE COPY` writes the half that does not shrink.

No store, no hash, no network: the kernel copies the bytes that have to be stored, and they are synced once. Whoever
answers only when all is on the disk cannot be much faster.
"""

from __future__ import annotations

import os
import sys

from bench.subjects import MIB


def main(source: str, target: str) -> None:
    """Copy every other MiB of `source`."""
    with open(source, "rb") as file, open(target, "xb") as copy:
        for offset in range(0, os.fstat(file.fileno()).st_size, 2 * MIB):
            left = MIB
            while left and (sent := os.sendfile(copy.fileno(), file.fileno(), offset + MIB - left, left)):
                left -= sent
        os.fsync(copy.fileno())


if __name__ == "__main__":
    main(*sys.argv[1:])
