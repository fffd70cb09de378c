"""Consecutive entries of a tree, on their way through the stages of an archive together.

Knows no stage but the first, which makes them: entries as they are found, with what is remembered of them. Large enough
that a stage costs little for each entry, small enough that several are held at a time. The invariant: slabs hold all
entries in their order, and what is remembered is looked for in that order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from isolate import split
from isolate.cas.digest import Blob, fast_blob
from isolate.cas.wire import CHUNKED_ABOVE_BYTES
from isolate.crew import JOB_BYTES, JOB_FILES
from isolate.entries import Entry, Kind, manifest_mode
from isolate.errors import IsolateError
from isolate.hands import Batch
from isolate.hashing import Hashed
from isolate.lookahead import Lookahead, first_of
from isolate.partcache import Part, PartCache
from isolate.scan import Found, Stamp
from isolate.scanned import Run, flat
from isolate.statcache import StatCache

SLAB_ENTRIES = 4_096  # when nothing has to be hashed
SLABS_IN_FLIGHT = 16
SLABS_BEHIND = 64  # that wait for a large file before them, while their own files are read and sent
# Slabs whose files are being read or wait until their upload is acknowledged: enough that nobody has to wait for that
# (with 6, archives took a tenth longer), few enough that what the crew keeps of them is mostly there when it is sent.
UNSENT_SLABS = 16

# What `Entry(...)` does, without a call in Python for each of a hundred thousand.
fast_entry = cast("Callable[[tuple[object, ...]], Entry]", partial(tuple.__new__, Entry))


@dataclass(slots=True)
class Slab:
    """Consecutive entries on their way through the stages."""

    entries: Sequence[Found] = ()
    blobs: list[Blob | None] = field(default_factory=list)
    learnt: list[tuple[int, Blob, Stamp]] = field(default_factory=list)  # index and what is to be remembered
    unknown: list[int] = field(default_factory=list)  # indexes of small files that have to be hashed
    large: list[int] = field(default_factory=list)  # indexes of large ones, which are sent while they are read
    unknown_bytes: int = 0  # of small files
    large_bytes: int = 0
    files: int = 0
    links: int = 0
    hashing: asyncio.Task[Batch] | None = None
    hand: int | None = None  # who of the crew hashed it
    reading: list[asyncio.Task[Hashed | IsolateError]] = field(default_factory=list)  # one for each of `large`
    read_at_ns: int = 0
    is_settled: bool = True  # nothing that was read may change behind its stamp
    part: Part | None = None  # of the manifest, which these entries became before

    @property
    def is_read(self) -> bool:
        """Whether the large files have been read."""
        return all(task.done() for task in self.reading)

    @property
    def first(self) -> str:
        """The path of the first entry."""
        return first_of(self.entries)

    @property
    def last(self) -> str:
        """The path of the last entry."""
        return self.entries.last if isinstance(self.entries, Run) else self.entries[-1].path

    @property
    def is_full(self) -> bool:
        return len(self.unknown) >= JOB_FILES or self.unknown_bytes >= JOB_BYTES or len(self.entries) >= SLAB_ENTRIES


def slabs_of(entries: Iterator[Found | Run], cache: StatCache | None, parts: PartCache | None) -> Iterator[Slab]:
    """Yield `entries` with what is remembered of them; `parts` are those of a manifest that `Splitter` cuts."""
    find = None if cache is None else cache.find
    held: list[Found] = []
    slab = Slab(held)
    for run in [flat(entries)] if parts is None or parts.is_empty else _runs(Lookahead(entries), parts):
        if isinstance(run, Slab):
            if held:
                yield slab
                held = []
                slab = Slab(held)
            if cache is not None:
                cache.keep(run.first, run.last)
            yield run
            continue
        for entry in run:
            blob, stamp = None, entry[3]
            if stamp is not None:
                slab.files += 1
                digest = None if find is None else find(entry[0], stamp)
                if digest is not None:
                    blob = fast_blob((digest, stamp[0]))
                elif stamp[0] > CHUNKED_ABOVE_BYTES:
                    slab.large.append(len(held))
                    slab.large_bytes += stamp[0]
                else:
                    slab.unknown.append(len(held))
                    slab.unknown_bytes += stamp[0]
            elif entry[1] is Kind.LINK:
                slab.links += 1
            held.append(entry)
            slab.blobs.append(blob)
            if (blob is None or len(held) == SLAB_ENTRIES) and slab.is_full:
                yield slab
                held = []
                slab = Slab(held)
    if held:
        yield slab


def _runs(ahead: Lookahead, parts: PartCache) -> Iterator[Sequence[Found] | Slab]:
    """Yield all entries in runs: what became a part before, and became nothing else, as a slab."""
    rule = split.RULE
    if not ahead.hold(rule.limit + 1):  # one manifest without parts
        while ahead.hold(1):
            yield ahead.take()
        return
    while ahead.hold(1):
        # The first entry ahead begins a part.
        part = parts.at(ahead.first)
        if part is not None:
            ahead.hold(part.entries + 1)
            run, behind = ahead.look(part.entries)
            is_part = behind is None or rule.begins_part(behind, part.entries)
            blobs = parts.blobs(part, run) if is_part else None
            if blobs is not None:
                ahead.take()
                files = len(blobs) - blobs.count(None)
                links = run.links if isinstance(run, Run) else [one[1] for one in run].count(Kind.LINK)
                yield Slab(run, blobs, files=files, links=links, part=part)
                continue
        passed, end = 0, None
        while end is None and ahead.hold(1):
            run = ahead.take()
            end = next((at for at, one in enumerate(run) if rule.begins_part(one[0], passed + at)), None)
            passed += len(run)
            if end is not None:
                ahead.give_back(run[end:])
                run = run[:end]
            yield run


def files_of(slab: Slab, digests: set[bytes]) -> tuple[list[Found], list[Blob]]:
    """Return the first file of `slab` for each of `digests`, in the order of their paths, and what is in it."""
    entries: list[Found] = []
    blobs: list[Blob] = []
    left = set(digests)
    for entry, blob in zip(slab.entries, slab.blobs, strict=True) if left else ():
        if blob is not None and blob[0] in left:
            left.remove(blob[0])
            entries.append(entry)
            blobs.append(blob)
    return entries, blobs


def manifest_entries(slab: Slab, modes: dict[int, int]) -> list[Entry]:
    """Return what the manifest says of a slab; `modes` remembers those of files, of which there are few."""
    entries: list[Entry] = []
    file = Kind.FILE
    for (path, kind, st_mode, _, _, target), blob in zip(slab.entries, slab.blobs, strict=True):
        if kind is not file:
            entries.append(fast_entry((path, kind, None, None, target)))
        elif blob is not None:  # else broken
            mode = modes.get(st_mode)
            if mode is None:
                mode = modes[st_mode] = manifest_mode(st_mode)
            entries.append(fast_entry((path, file, blob, mode, None)))
    return entries
