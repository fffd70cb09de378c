"""Read and hash every file of a tree in one thread: `python -m bench.hash_tree DIR`.

The baseline of hashing, without worker processes, stat cache or server.
"""

from __future__ import annotations

import os
import sys

from isolate.cas.digest import BLAKE3
from isolate.errors import IsolateError
from isolate.hashing import FileReader


def main(root: str) -> None:
    """Hash what is below `root`; print how much it was."""
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
    files = [path for path in paths if os.path.isfile(path) and not os.path.islink(path)]
    found = FileReader(BLAKE3).hash(files)
    hashed = [one for one in found if not isinstance(one, IsolateError)]
    print(f"{len(hashed)} files, {sum(one.blob.size for one in hashed)} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
