"""How often processes that go on for a while, servers and workers, look for garbage that refers to itself.

Knows nothing of whose garbage it is. A hundred thousand live objects, entries of a tree or waiting connections, make
next to no cycles; at Python's setting a tenth of the time goes into looking for them, and everybody waits meanwhile.
"""

from __future__ import annotations

import gc

THRESHOLDS = (50_000, 20, 500)  # new objects, then collections of the younger generation


def collect_seldom() -> None:
    """Look for cycles seldom, and never again among what there is now: modules, classes, functions."""
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
