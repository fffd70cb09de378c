"""Entries of a scan as bytes, from the process that scans to the one that archives.

Knows no processes and no digests. Values are in columns, which both sides read and write without a step for each
entry: `head · modes · sizes · mtimes · ctimes · inodes · devices · paths · sources · targets`; both are one version of
one program on one machine. The invariant: a `Run` is what was packed, made only when somebody looks at an entry.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Final, Literal, overload

from isolate.entries import Kind
from isolate.scan import Found, Stamp, found_of

# Entries, links among them, bytes of paths, of sources, of targets; what no other entries have, zeros if nobody asked.
HEAD = struct.Struct("<IIIII32s")
UNPROVEN = bytes(32)
COLUMNS: Final[tuple[Literal["Q", "q"], ...]] = ("Q", "q", "q", "Q", "Q")  # of a stamp
MODE_BYTES, NUMBER_BYTES = array("I").itemsize, array("Q").itemsize
ENTRY_BYTES = MODE_BYTES + len(COLUMNS) * NUMBER_BYTES
_NO_STAMP = (0, 0, 0, 0, 0)


def pack(batch: Sequence[Found], proof: bytes = UNPROVEN) -> bytes:
    """Return entries, at least one, as they are sent."""
    paths, _, modes, stamps, sources, targets = zip(*batch, strict=True)
    columns = zip(*[stamp or _NO_STAMP for stamp in stamps], strict=True)
    path_text = os.fsencode("\0".join(paths))
    source_text = os.fsencode("\0".join(sources)) if any(sources) else b""
    others = [target or "" for mode, target in zip(modes, targets, strict=True) if not mode]
    target_text = os.fsencode("\0".join(others))
    links = len(others) - others.count("")
    return b"".join(
        [
            HEAD.pack(len(batch), links, len(path_text), len(source_text), len(target_text), proof),
            array("I", modes),  # 0 for what is no file
            *[array(code, column) for code, column in zip(COLUMNS, columns, strict=True)],
            path_text,
            source_text,
            target_text,
        ]
    )


def pack_end(behind: str) -> bytes:
    """Return what is sent last: the path of the first entry that somebody else tells, or ""."""
    text = os.fsencode(behind)
    return HEAD.pack(0, 0, len(text), 0, 0, UNPROVEN) + text


def body_bytes(head: bytes) -> int:
    """Return how many bytes follow `head`; raises struct.error for nonsense."""
    entries, _, paths, sources, targets, _ = HEAD.unpack(head)
    size: int = entries * ENTRY_BYTES + paths + sources + targets
    return size


class Run(Sequence[Found]):
    """Consecutive entries, or where they end: then it is empty, and `first` is the path behind."""

    __slots__ = ("_body", "_entries", "_head", "first", "last", "links", "proof")

    def __init__(self, head: bytes, body: bytes) -> None:
        """Take what `pack` made; raises ValueError for nonsense that can be seen at once."""
        self._head, self._body = HEAD.unpack(head), body
        count, self.links, path_bytes, _, _, proof = self._head
        self.proof: bytes | None = None if proof == UNPROVEN else proof
        self._entries: list[Found] | None = None if count else []
        at = count * ENTRY_BYTES
        paths = body[at : at + path_bytes]
        if paths.count(b"\0") != max(0, count - 1):
            raise ValueError("as many paths as entries are missing")
        self.first, self.last = os.fsdecode(paths.partition(b"\0")[0]), os.fsdecode(paths.rpartition(b"\0")[2])

    def __len__(self) -> int:
        count: int = self._head[0]
        return count

    def __iter__(self) -> Iterator[Found]:
        return iter(self._all())

    @overload
    def __getitem__(self, index: int) -> Found: ...

    @overload
    def __getitem__(self, index: slice) -> list[Found]: ...

    def __getitem__(self, index: int | slice) -> Found | list[Found]:
        return self._all()[index]

    def sizes(self) -> list[int | None]:
        """Return the size of each file, None for what is none."""
        count = len(self)
        view = memoryview(self._body)
        sizes: list[int | None] = list(_column(view, MODE_BYTES * count, "Q", count))
        modes = _column(view, 0, "I", count).tolist()
        if not all(modes):
            sizes = [size if mode else None for size, mode in zip(sizes, modes, strict=True)]
        return sizes

    def _all(self) -> list[Found]:
        if self._entries is None:
            self._entries = self._unpacked()
        return self._entries

    def _unpacked(self) -> list[Found]:
        count, _, path_bytes, source_bytes, _, _ = self._head
        view = memoryview(self._body)
        modes: list[int] = _column(view, 0, "I", count).tolist()
        starts = range(MODE_BYTES * count, ENTRY_BYTES * count, NUMBER_BYTES * count)
        columns = [_column(view, at, code, count) for at, code in zip(starts, COLUMNS, strict=True)]
        stamps: list[Stamp | None] = list(zip(*columns, strict=True))
        sources_at = count * ENTRY_BYTES + path_bytes
        targets_at = sources_at + source_bytes
        paths = os.fsdecode(self._body[sources_at - path_bytes : sources_at]).split("\0")
        sources: Iterable[str] = repeat("", count)
        if source_bytes:
            sources = os.fsdecode(self._body[sources_at:targets_at]).split("\0")
        kinds = [Kind.FILE] * count
        targets: list[str | None] = [None] * count
        others = [index for index, mode in enumerate(modes) if not mode]
        if others:
            told = os.fsdecode(self._body[targets_at:]).split("\0")
            for index, target in zip(others, told, strict=True):
                kinds[index], stamps[index] = Kind.LINK if target else Kind.DIR, None
                targets[index] = target or None
        return list(map(found_of, zip(paths, kinds, modes, stamps, sources, targets, strict=True)))


def _column(view: memoryview, start: int, code: Literal["I", "Q", "q"], count: int) -> memoryview:
    return view[start : start + count * (MODE_BYTES if code == "I" else NUMBER_BYTES)].cast(code)


def flat(entries: Iterable[Found | Run]) -> Iterator[Found]:
    """Yield all entries, one by one."""
    for one in entries:
        if isinstance(one, Run):
            yield from one
        else:
            yield one
