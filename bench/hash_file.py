"""Hash one large file: `python -m bench.hash_file FILE ours|blake3`; prints the seconds, without the start of Python.

`ours` is what an archive does; `blake3` is the library fed by reads of 8 MiB and nothing else.
"""

from __future__ import annotations

import sys
import time

from isolate.cas.digest import BLAKE3
from isolate.hashing import READ_BYTES, FileReader, Hashed


def main(path: str, how: str) -> None:
    """Hash `path`."""
    started_s = time.perf_counter()
    if how == "ours":
        (found,) = FileReader(BLAKE3).hash([path])
        assert isinstance(found, Hashed), found
        digest = found.blob.digest
    else:
        hasher, buffer = BLAKE3.parallel_hasher(), memoryview(bytearray(READ_BYTES))
        with open(path, "rb", buffering=0) as file:
            while got := file.readinto(buffer):
                hasher.update(buffer[:got])
        digest = hasher.digest()
    print(f"{time.perf_counter() - started_s:.4f} {digest.hex()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
