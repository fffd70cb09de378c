"""The first stage of an archive: slabs of a tree -> slabs whose unknown files are being read.

Knows no manifest and asks nothing of the store. The invariants: slabs come in the order of paths; of what is read no
more is in flight than its reader said there is room for; the scan is in a thread, because it does nothing but wait for
the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from isolate.cas.digest import Blob, Namespace
from isolate.clock import Clock
from isolate.crew import GrowingCrew
from isolate.entries import Kind
from isolate.errors import FileChanged, InvalidInput, IsolateError, Unreadable
from isolate.hashing import Hashed
from isolate.monitor import Monitor
from isolate.scan import Found
from isolate.scanned import Run, flat
from isolate.sender import Sender
from isolate.slab import UNSENT_SLABS, Slab
from isolate.upload import Wanted


class Feed:
    """Reads what is not remembered; `prefix` is the directory in front of the paths of entries."""

    def __init__(
        self,
        prefix: str,
        crew: GrowingCrew,
        sender: Sender,
        clock: Clock,
        monitor: Monitor,
        *,
        skip_broken: bool,
    ) -> None:
        self._prefix = prefix
        self._crew, self._sender = crew, sender
        self._clock, self._monitor = clock, monitor
        self._skip_broken = skip_broken
        self._unsent = asyncio.Semaphore(UNSENT_SLABS)

    def recorded(self, entries: Iterator[Found | Run], namespace: Namespace) -> Iterator[Found | Run]:
        """Return those of `entries` that a manifest of `namespace` can have."""
        return entries if namespace.is_ours else (one for one in flat(entries) if self._is_recorded(one))

    async def run(self, slabs: Iterator[Slab], queue: asyncio.Queue[Slab | None]) -> None:
        """Put all `slabs` into `queue`, and None behind the last."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            with ThreadPoolExecutor(1, thread_name_prefix="scan") as scanner:
                while (slab := await loop.run_in_executor(scanner, next, slabs, None)) is not None:
                    if slab.unknown or slab.large:
                        await self._begin(slab, tasks)
                    await queue.put(slab)
            await queue.put(None)

    def wanted(self, entries: Sequence[Found], blobs: Sequence[Blob]) -> list[Wanted]:
        """Return the files `entries` with what is in each, as they are sent."""
        return list(map(Wanted, self._sources(entries), blobs))

    def let_next(self) -> None:
        """Let another slab be read: what one held is sent."""
        self._unsent.release()

    def _sources(self, entries: Sequence[Found]) -> list[str]:
        """Return where the contents of `entries` are."""
        prefix = self._prefix
        return [source or prefix + path for path, _, _, _, source, _ in entries]

    async def _begin(self, slab: Slab, tasks: asyncio.TaskGroup) -> None:
        """Have the files of a slab read whose digests nobody remembers."""
        self._monitor.expect("hashed_files", len(slab.unknown) + len(slab.large))
        self._monitor.expect("hashed_bytes", slab.unknown_bytes + slab.large_bytes)
        slab.read_at_ns = int(self._clock.now() * 1e9)
        large = [slab.entries[index] for index in slab.large]
        for path, file in zip(self._sources(large), large, strict=True):
            size_bytes = file.stamp[0] if file.stamp else 0
            slab.reading.append(tasks.create_task(self._read_large(path, size_bytes)))
        if slab.unknown:
            files = [slab.entries[index] for index in slab.unknown]
            paths, stamps = self._sources(files), [file.stamp for file in files if file.stamp]
            await self._unsent.acquire()
            slab.hashing = tasks.create_task(self._crew.hash(paths, stamps))

    async def _read_large(self, path: str, size_bytes: int) -> Hashed | IsolateError:
        """Have a large file read and sent; return why it cannot be read."""
        try:
            return await self._sender.read_large(path, size_bytes)
        except (FileChanged, InvalidInput, Unreadable) as error:
            return error

    def _is_recorded(self, entry: Found) -> bool:
        """Say whether a manifest of 2020 can have `entry`."""
        if "\\" in entry.path:
            error = InvalidInput(f"Name {entry.path!r} has a '\\', which manifests of 2020 take for a '/'")
            if not self._skip_broken:
                raise error
            self._monitor.problem(error)
            return False
        return entry.kind is not Kind.DIR
