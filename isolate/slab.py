"""Consecutive entries of a tree, on their way through the stages of an archive together.

Knows no stage but the first, which makes them: entries as they are found, with what is remembered of them. Large enough
that a stage costs little for each entry, small enough that several are held at a time. The invariant: slabs hold all
entries in their order, and what is remembered is looked for in that order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import cast

from isolate import split
from isolate.cas.digest import Blob, fast_blob
from isolate.cas.wire import CHUNKED_ABOVE_BYTES
from isolate.crew import JOB_BYTES, JOB_FILES
from isolate.entries import Entry, Kind, manifest_mode
from isolate.errors import IsolateError
from isolate.hands import Batch
from isolate.hashing import Hashed
from isolate.partcache import Part, PartCache
from isolate.scan import Found, Stamp
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

    entries: list[Found] = field(default_factory=list)
    blobs: list[Blob | None] = field(default_factory=list)
    learnt: list[tuple[int, Blob, Stamp]] = field(default_factory=list)  # index and what is to be remembered
    unknown: list[int] = field(default_factory=list)  # indexes of small files that have to be hashed
    large: list[int] = field(default_factory=list)  # indexes of large ones, which are sent while they are read
    unknown_bytes: int = 0  # of small files
    large_bytes: int = 0
    files: int = 0
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
    def is_full(self) -> bool:
        return len(self.unknown) >= JOB_FILES or self.unknown_bytes >= JOB_BYTES or len(self.entries) >= SLAB_ENTRIES


def slabs_of(entries: Iterator[Found], cache: StatCache | None, parts: PartCache | None) -> Iterator[Slab]:
    """Yield `entries` with what is remembered of them; `parts` are those of a manifest that `Splitter` cuts."""
    find = None if cache is None else cache.find
    slab = Slab()
    for run in [entries] if parts is None or parts.is_empty else _runs(entries, parts):
        if isinstance(run, Slab):
            if slab.entries:
                yield slab
                slab = Slab()
            if cache is not None:
                cache.keep(run.entries[0].path, run.entries[-1].path)
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
                    slab.large.append(len(slab.entries))
                    slab.large_bytes += stamp[0]
                else:
                    slab.unknown.append(len(slab.entries))
                    slab.unknown_bytes += stamp[0]
            slab.entries.append(entry)
            slab.blobs.append(blob)
            if (blob is None or len(slab.entries) == SLAB_ENTRIES) and slab.is_full:
                yield slab
                slab = Slab()
    if slab.entries:
        yield slab


def _runs(entries: Iterator[Found], parts: PartCache) -> Iterator[list[Found] | Slab]:
    """Yield `entries` in runs: what became a part before, and became nothing else, as a slab."""
    rule = split.RULE
    ahead = list(islice(entries, rule.limit + 1))
    if len(ahead) <= rule.limit:  # one manifest without parts
        yield ahead
        return
    while ahead:
        # The first entry ahead begins a part.
        part = parts.at(ahead[0].path)
        if part is not None:
            ahead += islice(entries, max(0, part.entries + 1 - len(ahead)))
            run = ahead[: part.entries]
            behind = ahead[part.entries : part.entries + 1]
            blobs = parts.blobs(part, run) if all(rule.begins_part(one.path, part.entries) for one in behind) else None
            if blobs is not None:
                ahead = ahead[part.entries :]
                yield Slab(run, blobs, files=len(blobs) - blobs.count(None), part=part)
                continue
        passed = 0
        while ahead:
            numbered = enumerate(ahead, passed)
            end = next((number - passed for number, one in numbered if rule.begins_part(one.path, number)), None)
            yield ahead[:end]
            if end is not None:
                ahead = ahead[end:]
                break
            passed += len(ahead)
            ahead = list(islice(entries, SLAB_ENTRIES))


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
