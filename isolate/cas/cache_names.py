"""What a file of a cache is called, below the directory of its algorithm.

Knows nothing else and imports nothing: processes that only look at files start with it.
"""

from __future__ import annotations

EXECUTABLE = ".x"


def name_of(digest: bytes, executable: int) -> str:
    """Return the name of the variant of a blob: in one of 256 directories, by how its digest begins."""
    name = digest.hex()
    return f"{name[:2]}/{name}{EXECUTABLE if executable else ''}"
