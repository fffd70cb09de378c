"""One pass over a tree: entries -> digests -> what the store lacks -> uploads -> manifest, all stages at a time.

Knows no scan rules and no processes. The invariants: entries leave every stage in the order of their paths, whatever
finishes first; a part of the manifest is sent after the blobs it names; every stage waits when the next one is behind.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter

from isolate.cas.digest import Blob, Namespace
from isolate.cas.store import BlobStore
from isolate.cas.wire import CHUNKED_ABOVE_BYTES
from isolate.clock import Clock
from isolate.crew import GrowingCrew
from isolate.entries import Entry
from isolate.errors import IsolateError, first_cause
from isolate.feeding import Feed
from isolate.hashing import Hashed
from isolate.isolated import Manifest, dumps
from isolate.monitor import Monitor
from isolate.partcache import Part, PartCache
from isolate.scan import Found
from isolate.scanned import Run
from isolate.seen import Seen
from isolate.sender import Sender, jobs_of
from isolate.slab import SLABS_BEHIND, SLABS_IN_FLIGHT, Slab, files_of, manifest_entries, slabs_of
from isolate.split import Groups, splitter_for
from isolate.statcache import StatCache, settled_ns
from isolate.upload import Wanted

LOOKUP_ENTRIES = 16_384  # what one `missing` may ask about; it asks for less rather than wait
UPLOADS_IN_FLIGHT = 32
PARTS_IN_FLIGHT = 4  # parts of the manifest, 3.5 MB each, that wait for what they name


@dataclass(frozen=True, slots=True)
class Built:
    """What a pass made: entries or parts of a manifest that is not sent yet; what they name is in the store."""

    entries: tuple[Entry, ...]
    includes: tuple[bytes, ...]
    files: int
    size_bytes: int
    group_parts: tuple[bytes, ...] = ()  # the manifests of the groups: the first of the includes


class Pipeline:
    """One pass; `root` is where the paths of `entries` begin on disk."""

    def __init__(
        self,
        store: BlobStore,
        crew: GrowingCrew,
        cache: StatCache | None,
        parts: PartCache | None,
        clock: Clock,
        monitor: Monitor,
        *,
        skip_broken: bool,
        groups: Sequence[str] = (),
        recorded: Callable[[Sequence[Entry]], object] | None = None,
    ) -> None:
        """`groups` are beginnings of paths that get parts of their own; `recorded` sees all entries in order.

        `parts` are those of the whole tree: of a namespace of ours, where nothing is grouped, recorded or skipped.
        """
        self._store, self._crew, self._cache, self._parts = store, crew, cache, parts
        self._clock, self._monitor = clock, monitor
        self._sender = Sender(store, crew, clock, monitor)
        self._skip_broken = skip_broken
        self._namespace: Namespace = store.namespace
        self._splitter = splitter_for(self._namespace)
        self._groups = Groups(groups)
        self._recorded = recorded
        self._seen = Seen([self._namespace.empty.digest])
        self._includes: list[bytes] = []
        self._group_parts: list[bytes] = []
        self._part_room = asyncio.Semaphore(PARTS_IN_FLIGHT)
        self._room = asyncio.Semaphore(UPLOADS_IN_FLIGHT)
        self._sending: set[asyncio.Task[None]] = set()
        self._held: Slab | None = None  # the slab behind those that `_take_ready` gave
        self._files = self._size_bytes = 0
        self._unrecorded: deque[Slab] = deque()
        self._modes: dict[int, int] = {}  # of files to those of the manifest; there are few

    async def run(self, root: str, entries: Iterator[Found | Run]) -> Built:
        """Bring the blobs of `entries` to the store; raises what reading and sending raise."""
        prefix, may_skip = root.rstrip("/") + "/", self._skip_broken
        self._feed = Feed(prefix, self._crew, self._sender, self._clock, self._monitor, skip_broken=may_skip)
        queue: asyncio.Queue[Slab | None] = asyncio.Queue(SLABS_IN_FLIGHT)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                slabs = slabs_of(self._feed.recorded(entries, self._namespace), self._cache, self._parts)
                tasks.create_task(self._feed.run(slabs, queue))
                rest = await self._drain(queue)
        except BaseExceptionGroup as group:
            raise first_cause(group) from group
        return Built(tuple(rest), tuple(self._includes), self._files, self._size_bytes, tuple(self._group_parts))

    async def _drain(self, queue: asyncio.Queue[Slab | None]) -> list[Entry]:
        """Do stages 2 and 3; return the entries that are not in a part by themselves."""
        while ready := await self._take_ready(queue):
            await self._look_up(ready)
            self._unrecorded.extend(ready)
            await self._record_ready(SLABS_BEHIND)
        await self._record_ready(0)
        await self._close_groups()
        rest, is_whole = self._splitter.finish()
        if is_whole:
            return rest
        if rest:
            await self._close_part(rest)
        return []

    async def _close_groups(self) -> None:
        """Give each group its part, or parts if it is large: the first includes, in the order of the groups."""
        others, self._includes = self._includes, []
        for part in self._groups.parts(partial(splitter_for, self._namespace)):
            self._group_parts.append(await self._close_part(part))
        self._includes += others

    # Stage 2: digests are there; ask which blobs the store lacks, and have them sent.

    async def _take_ready(self, queue: asyncio.Queue[Slab | None]) -> list[Slab]:
        """Return the next slab and those behind it that need no waiting; nothing at the end."""
        ready: list[Slab] = []
        entries = 0
        while not ready or (entries < LOOKUP_ENTRIES and (self._held or not queue.empty())):
            slab = self._held or await queue.get()
            self._held = None
            if slab is None:
                queue.put_nowait(None)  # for the next call
                break
            if ready and slab.hashing is not None and not slab.hashing.done():
                self._held = slab
                break
            await self._settle(slab)
            ready.append(slab)
            entries += len(slab.entries)
        return ready

    async def _settle(self, slab: Slab) -> None:
        """Wait for the digests of a slab."""
        if slab.hashing is not None:
            results, slab.hand = await slab.hashing
            self._monitor.count("hashed_bytes", self._learn(slab, slab.unknown, results))
        self._monitor.count("cached_files", slab.files - len(slab.unknown) - len(slab.large))
        self._monitor.count("hashed_files", len(slab.unknown))

    def _learn(self, slab: Slab, indexes: Sequence[int], results: Sequence[Hashed | IsolateError]) -> int:
        """Take what files are called by their contents; return their size."""
        newest_ns, size_bytes = settled_ns(slab.read_at_ns), 0
        for index, result in zip(indexes, results, strict=True):
            if isinstance(result, IsolateError):
                if not self._skip_broken:
                    raise result
                self._monitor.problem(result)
                continue
            blob, stamp = result
            slab.blobs[index] = blob
            size_bytes += blob[1]
            if stamp is not None and stamp[2] <= newest_ns:
                slab.learnt.append((index, blob, stamp))
        return size_bytes

    async def _settle_large(self, slab: Slab) -> None:
        """Wait until the large files of a slab are read; have those sent that changed meanwhile."""
        for index, reading in zip(slab.large, slab.reading, strict=True):
            result = await reading
            self._learn(slab, [index], [result])
            self._monitor.count("hashed_files")
            if isinstance(result, IsolateError) or not self._seen.first([result.blob.digest]):
                continue
            if result.stamp is None and await self._store.missing([result.blob]):
                self._sender.expect(1, result.blob.size)
                await self._start(self._feed.wanted([slab.entries[index]], [result.blob]))

    async def _look_up(self, slabs: Sequence[Slab]) -> None:
        """Ask for the blobs that this pass meets for the first time, and have the missing ones sent."""
        self._monitor.count("archived_bytes", sum([blob[1] for slab in slabs for blob in slab.blobs if blob]))
        asked: list[Blob] = []
        fresh: list[list[bytes]] = []
        for slab in slabs:
            named = {blob[0]: blob for blob in slab.blobs if blob is not None}
            if slab.part is not None:
                named[slab.part.manifest.digest] = slab.part.manifest
            fresh.append(self._seen.first(named))
            asked += [named[digest] for digest in fresh[-1]]
        lacking = await self._store.missing(asked) if asked else []
        self._monitor.count("present_blobs", len(asked) - len(lacking))
        if lacking:
            self._sender.expect(len(lacking), sum([blob[1] for blob in lacking]))
        missing = {blob[0] for blob in lacking}
        for slab, first in zip(slabs, fresh, strict=True):
            absent = missing.intersection(first) if missing else missing
            if absent:
                slab.part = None  # is made once more, which is the way to have it sent
            await self._send_slab(slab, self._feed.wanted(*files_of(slab, absent)))

    async def _send_slab(self, slab: Slab, files: Sequence[Wanted]) -> None:
        """Have `files` sent by who hashed them."""
        unsent: set[asyncio.Task[None]] = set()
        for job in jobs_of(files):
            task = await self._start(job, slab.hand)
            if job[0].blob.size <= CHUNKED_ABOVE_BYTES:  # of larger ones nothing is kept
                unsent.add(task)
        if slab.hashing is not None:
            self._tasks.create_task(self._let_next(unsent))

    async def _start(self, job: Sequence[Wanted], hand: int | None = None) -> asyncio.Task[None]:
        """Begin to send a job as soon as there is room."""
        await self._room.acquire()
        task = self._tasks.create_task(self._send(job, hand))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return task

    async def _let_next(self, unsent: set[asyncio.Task[None]]) -> None:
        """Let another slab be read once `unsent` are sent."""
        if unsent:
            await asyncio.wait(unsent)
        self._feed.let_next()

    async def _send(self, files: Sequence[Wanted], hand: int | None) -> None:
        try:
            await self._sender.send(files, hand)
        finally:
            self._room.release()

    # Stage 3: entries in their order, into the manifest and the memory of digests.

    async def _record_ready(self, behind: int) -> None:
        """Record the slabs that are complete, and wait for others where more than `behind` would be left."""
        slabs = self._unrecorded
        while slabs and (len(slabs) > behind or slabs[0].is_read):
            slab = slabs.popleft()
            await self._settle_large(slab)
            slab.learnt.sort(key=itemgetter(0))
            read = sorted(slab.unknown + slab.large)
            slab.is_settled = [slab.entries[index][3] for index in read] == [stamp for _, _, stamp in slab.learnt]
            await self._record(slab)

    async def _record(self, slab: Slab) -> None:
        # A file without a blob is broken, reported, and left out as the caller wished.
        sizes = [blob[1] for blob in slab.blobs if blob is not None]
        self._files += len(sizes) + slab.links
        self._size_bytes += sum(sizes)
        if slab.part is not None:
            await self._record_part(slab.part)
        else:
            await self._record_entries(slab)
        if self._cache is not None:
            self._cache.passed(slab.last)

    async def _record_part(self, part: Part) -> None:
        """Include a part that was made before and is in the store, as what it names is or will be."""
        for entries in self._splitter.cut():
            await self._close_part(entries)
        self._includes.append(part.manifest.digest)
        if self._parts is not None:
            self._parts.again(part)

    async def _record_entries(self, slab: Slab) -> None:
        entries = manifest_entries(slab, self._modes)
        if self._cache is not None:
            self._cache.store([(slab.entries[index][0], stamp, blob[0]) for index, blob, stamp in slab.learnt])
        if self._parts is not None:
            self._parts.take(slab.entries, slab.blobs, settled=slab.is_settled)
        if self._recorded is not None:
            self._recorded(entries)
        for part in self._splitter.extend(self._groups.take(entries)):
            await self._close_part(part)

    async def _close_part(self, entries: Sequence[Entry]) -> bytes:
        """Make one part of the manifest, and send it after all that was sent before it; return its bytes."""
        await self._part_room.acquire()
        content = dumps(Manifest(algorithm=self._namespace.algorithm, entries=tuple(entries)))
        blob = self._namespace.blob(content)
        self._includes.append(blob.digest)
        if self._parts is not None:
            self._parts.made(len(entries), blob)
        self._tasks.create_task(self._send_part(blob, content, set(self._sending)))
        return content

    async def _send_part(self, blob: Blob, content: bytes, before: set[asyncio.Task[None]]) -> None:
        try:
            if before:
                await asyncio.wait(before)  # the group ends us when one of them fails
            await self._sender.send_content(blob, content)
        finally:
            self._part_room.release()
