"""The names of the ways in which a tree is mapped, for flags, settings and whoever reads them.

Imports nothing: each start of a program pays for it.
"""

from __future__ import annotations

OVERLAY = "overlay"
WAYS = ("auto", "hardlink", "reflink", "copy", OVERLAY)  # values of `mapper.How`, and one more
DEFAULT = "auto"
SHARING = ("auto", "hardlink")  # files of the tree are files of the cache
