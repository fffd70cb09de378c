"""Sizes and durations as people write them: 20G, 512 MiB, 7d, 36h.

Knows no flag. A number without a unit is bytes, or seconds; sizes count in powers of two.
"""

from __future__ import annotations

import re

from isolate.errors import InvalidInput

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)(?:i?B)?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?([smhdw]?)", re.IGNORECASE)
_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_bytes(text: str) -> int:
    """Return a number of bytes; raises InvalidInput."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidInput(f"{text!r} is not a size: write a number and K, M, G or T")
    return int(float(match[1]) * _BYTES[match[2].upper()])


def parse_duration_s(text: str) -> float:
    """Return seconds; raises InvalidInput."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InvalidInput(f"{text!r} is not a duration: write a number and s, m, h, d or w")
    return float(match[1]) * _SECONDS[match[2].lower()]


def counted(number: int, noun: str) -> str:
    """Return a number with what it counts: 1 pack, 2 packs."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def bytes_text(size_bytes: float) -> str:
    """Return a size for people, in at most four digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"
