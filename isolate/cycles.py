"""How often Python looks for garbage that refers to itself.

Knows nothing of whose garbage it is. Programs that hold a hundred thousand live objects at a time, entries of a tree
for one, make next to no cycles, and at Python's setting spend a tenth of their time looking for them.
"""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 100_000  # new ones between two looks: a few milliseconds of work, some ten megabytes at worst


def collect_seldom() -> None:
    """Look for cycles seldom, and never again among what there is now: modules, classes, functions."""
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 100)
