"""How far a piece of work is, in words: counters of a `Monitor` -> stages with files, bytes, pace; and the last word.

Knows no terminal and no clock: it is told what was counted and when. The invariant: a stage that has nothing to do is
not mentioned, and nothing is ever more than whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

COMMAND_COUNTER = "started_commands"  # from then on a terminal belongs to that command
STAGES = (("hashing", "hashed", "files"), ("uploading", "uploaded", "blobs"), ("fetching", "fetched", "blobs"))
_UNITS = ("B", "kB", "MB", "GB", "TB")
_GAP = "  "
_MOST_RATIO = 1000  # beyond, the digits of a ratio tell nothing
_WINDOW_S = 3.0  # the pace shown is that of the last seconds


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the work as it is now."""

    name: str
    done_files: int
    total_files: int
    done_bytes: int
    total_bytes: int
    bytes_per_s: float = 0.0
    dedup: str = ""

    @property
    def share(self) -> float:
        """How much is done, from 0 to 1: by bytes, since they take the time."""
        if self.total_bytes:
            return min(1.0, self.done_bytes / self.total_bytes)
        return min(1.0, self.done_files / self.total_files) if self.total_files else 0.0

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left: of a large file all may be sent that is not stored yet."""
        return self.share >= 1 and self.done_files >= self.total_files

    def text(self, width: int, *, share: bool = True) -> str:
        """Return the state in at most `width` characters: the less room, the fewer things; `share` in percent."""
        files = f"{min(self.done_files, self.total_files):,}/{self.total_files:,} files"
        pace = f"{bytes_text(self.bytes_per_s)}/s" if self.bytes_per_s and not self.is_over else ""
        parts = [f"{self.share:.0%}" if share else "", pair_text(self.done_bytes, self.total_bytes), files, pace]
        kept: list[str] = []
        for part in filter(None, [*parts, self.dedup]):
            if len(_GAP.join([*kept, part])) > width:
                break
            kept.append(part)
        return _GAP.join(kept)


class Progress:
    """Remembers the last seconds of what was counted, for the pace."""

    def __init__(self) -> None:
        self._past: deque[tuple[float, Mapping[str, int]]] = deque()

    def stages(self, counted: Mapping[str, int], expected: Mapping[str, int], now_s: float) -> list[Stage]:
        """Return the stages that have something to do, as of `now_s`."""
        self._past.append((now_s, counted))
        while len(self._past) > 2 and self._past[1][0] <= now_s - _WINDOW_S:
            self._past.popleft()
        then_s, before = self._past[0]
        found = []
        for name, done, what in STAGES:
            files, size = f"{done}_{what}", f"{done}_bytes"
            if not expected.get(files):
                continue
            elapsed_s = now_s - then_s
            moved = counted.get(size, 0) - before.get(size, 0)
            found.append(
                Stage(
                    name,
                    counted.get(files, 0),
                    expected[files],
                    counted.get(size, 0),
                    expected.get(size, 0),
                    moved / elapsed_s if elapsed_s > 0 else 0.0,
                    _dedup(name, counted, expected),
                )
            )
        return found


def plain_line(stages: list[Stage]) -> str:
    """Return all stages as one line, for where nothing can be drawn."""
    return "; ".join(f"{stage.name} {stage.text(100)}" for stage in stages)


def fetched_line(counted: Mapping[str, int], elapsed_s: float) -> str:
    """Return what bringing a tree here came to."""
    files = counted.get("fetched_blobs", 0) + counted.get("fetched_manifests", 0)
    size = counted.get("fetched_bytes", 0) + counted.get("fetched_manifest_bytes", 0)
    found, found_bytes = counted.get("known_blobs", 0), counted.get("known_bytes", 0)
    known = f"{found:,} ({bytes_text(found_bytes)}) {'was' if found == 1 else 'were'} in the cache"
    line = f"{counted_text(files, 'content')} ({bytes_text(size)}) fetched, {known}; {elapsed_s:.1f} s"
    return f"{line}, {bytes_text(size / elapsed_s)}/s" if size and elapsed_s > 0 else line


def bytes_text(number: float) -> str:
    """Return a size with three digits at most, and its unit."""
    for unit in _UNITS:
        if number < 999.5 or unit == _UNITS[-1]:
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" or number >= 99.5 else f"{number:.3g} {unit}"


def pair_text(done_bytes: float, whole_bytes: float) -> str:
    """Return a part and the whole in the unit of the whole, as `1.2/3.4 MB`; the part is never the larger one."""
    whole, unit = bytes_text(whole_bytes).split()
    part = min(done_bytes, whole_bytes) / 1000 ** _UNITS.index(unit)
    return f"{part:.0f}/{whole} {unit}" if unit == "B" or part >= 99.5 else f"{part:.3g}/{whole} {unit}"


def ratio_text(whole_bytes: float, part_bytes: float) -> str:
    """Return how many bytes stand for each that is sent, as `3.2:1`."""
    if not part_bytes:
        return "all known"
    ratio = whole_bytes / part_bytes
    return f"{ratio:.1f}:1" if ratio < _MOST_RATIO else f"over {_MOST_RATIO}:1"


def counted_text(number: int, what: str, several: str = "") -> str:
    """Return so many of `what`, as `1 file` or `2,000 files`."""
    return f"{number:,} {what if number == 1 else several or what + 's'}"


def _dedup(name: str, counted: Mapping[str, int], expected: Mapping[str, int]) -> str:
    """Return what is known already, as a ratio, for the stages that move contents."""
    if name == "uploading":
        whole, part = counted.get("archived_bytes", 0), expected.get("uploaded_bytes", 0)
    elif name == "fetching":
        part = expected.get("fetched_bytes", 0)
        whole = counted.get("known_bytes", 0) + part
    else:
        whole = part = 0
    return f"dedup {ratio_text(whole, part)}" if whole > part else ""
