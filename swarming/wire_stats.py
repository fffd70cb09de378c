"""What bots tell of a run besides its result: kept as it came, as far as it is no burden for those who read the run.

Pure. Too much of it is never worth an error, which would cost the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

MAX_BYTES = 1 << 20  # of each kind of statistics, as JSON: the sizes of some 700,000 files

Said = Mapping[str, Any] | None


def fitting(said: Said) -> Said:
    """Return what was said, or None where it is too much."""
    return None if said is None or len(msgspec.json.encode(said)) > MAX_BYTES else said


def isolated(said: Said) -> Said:
    """Return `isolated_stats`, without the sizes of single files where those are too much."""
    if said is None or fitting(said) is not None:
        return said
    summed = {
        kind: {key: value for key, value in found.items() if not key.startswith("items_")}
        for kind, found in said.items()
        if isinstance(found, dict)
    }
    return fitting(summed)
