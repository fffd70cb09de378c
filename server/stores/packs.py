"""Packs as files: append-only, and the rules of appending to them.

Knows no record and no index: it keeps byte strings and says where they are. The invariants: `append`
returns only when its group is durable; a pack whose sync failed, or that is not as we left it, gets no further byte;
bytes behind the last acknowledged end are dropped, bytes before it never.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from isolate.clock import Clock
from isolate.errors import NoSpace, Unavailable
from isolate.monitor import Monitor
from server.stores.pack_files import PackFiles
from server.stores.pack_scan import Head, PackReader
from server.stores.pack_storage import Location, Pack, PackJournal

ROTATE_BYTES = 256 << 20  # compaction copies one pack at a time, and losing one loses no more than this
TRUST_S = 10.0  # how long the existence and length of a pack are believed after they were seen
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

T = TypeVar("T")


class LocalPacks:
    """Packs as files `<root>/<namespace>/<name>.pack`; implements PackStorage."""

    def __init__(
        self,
        root: Path,
        journal: PackJournal,
        clock: Clock,
        monitor: Monitor,
        *,
        files: PackFiles | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
        rotate_bytes: int = ROTATE_BYTES,
    ) -> None:
        self._root, self._journal, self._clock, self._monitor = root, journal, clock, monitor
        self._files = files or PackFiles()
        self._entropy = entropy
        self._rotate_bytes = rotate_bytes
        self._open: dict[tuple[str, str], tuple[Pack, int]] = {}  # namespace, lane -> growing pack and its durable end
        self._seen: dict[Pack, tuple[float, int]] = {}  # when a length was seen, and which
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="packs")

    async def resume(self, pack: Pack, committed_bytes: int) -> None:
        """Go on with a pack after a start: drop what was never acknowledged; one that lost bytes grows no more."""

        def drop_tail() -> bool:
            length = self._files.length(self._path(pack))
            if length > committed_bytes:
                self._files.truncate(self._path(pack), committed_bytes)
            return length >= committed_bytes and self._path(pack).exists()

        try:
            whole = await self._run(drop_tail)
        except OSError as error:
            self._monitor.problem(f"Pack {pack.name} cannot be continued: {error}")
            whole = False
        if whole and (pack.namespace, "") not in self._open:
            self._open[pack.namespace, ""] = (pack, committed_bytes)
        else:
            await self._seal(pack)

    async def append(self, namespace: str, group: Sequence[bytes], lane: str = "") -> list[Location]:
        size_bytes = sum(map(len, group))
        pack, end = await self._writable(namespace, lane, size_bytes)
        try:
            await self._run(lambda: self._append(pack, end, group))
        except _Unusable as error:
            await self._retire(pack, end)
            raise _translated(error.cause) from error.cause
        except OSError as error:
            raise _translated(error) from error
        self._open[namespace, lane] = (pack, end + size_bytes)
        self._seen[pack] = (self._clock.monotonic(), end + size_bytes)
        self._monitor.count("appended_bytes", size_bytes)
        locations = []
        for record in group:
            locations.append(Location(pack, end, len(record)))
            end += len(record)
        return locations

    async def withdraw(self, locations: Sequence[Location]) -> None:
        if locations:
            await self._retire(locations[0].pack, min(location.offset for location in locations))

    async def read(self, locations: Sequence[Location]) -> list[bytes | None]:
        def load() -> list[bytes | None]:
            found: list[bytes | None] = [None] * len(locations)
            by_pack: dict[Pack, list[int]] = {}
            for number, location in enumerate(locations):
                by_pack.setdefault(location.pack, []).append(number)
            for pack, numbers in by_pack.items():
                self._load(pack, [(number, locations[number]) for number in numbers], found)
            return found

        return await self._run(load)

    async def lengths(self, packs: Collection[Pack]) -> Mapping[Pack, int]:
        now_s = self._clock.monotonic()
        known = {pack: seen[1] for pack in packs if (seen := self._seen.get(pack)) and now_s - seen[0] < TRUST_S}
        stale = [pack for pack in packs if pack not in known]
        if stale:  # others may forget what they have seen meanwhile
            found = await self._tried(lambda: [self._files.length(self._path(pack)) for pack in stale])
            lengths = dict(zip(stale, found, strict=True))
            self._seen.update({pack: (now_s, length) for pack, length in lengths.items()})
            known |= lengths
        return known

    async def retire(self, pack: Pack) -> None:
        await self._retire(pack, None)

    async def rescue(self, pack: Pack, places: Sequence[tuple[int, int]]) -> bool:
        end = await self._tried(lambda: self._files.length(self._path(pack)))
        for offset, length in places:
            if offset >= end:
                continue
            (record,) = await self.read([Location(pack, offset, min(length, end - offset))])
            if record is None:
                return False
            saved = self._root.parent / "quarantine" / f"{pack.name}-{offset}.bad"
            await self._tried(partial(self._files.save, saved, record))
        return True

    async def heads(self, pack: Pack) -> list[Head]:
        def scan() -> list[Head]:
            try:
                with PackReader(self._path(pack)) as reader:
                    return list(reader.heads())
            except FileNotFoundError:
                return []

        return await self._tried(scan)

    async def delete(self, pack: Pack) -> None:
        self._seen.pop(pack, None)
        await self._tried(lambda: self._files.unlink(self._path(pack)))

    async def free_bytes(self) -> int:
        """Return what the file system has left."""
        return await self._tried(lambda: self._files.free_bytes(self._root))

    def close(self) -> None:
        """End the threads; nothing may be running."""
        self._threads.shutdown()

    async def _writable(self, namespace: str, lane: str, size_bytes: int) -> tuple[Pack, int]:
        """Return a pack that takes `size_bytes` more, and its end."""
        if (namespace, lane) in self._open:
            pack, end = self._open[namespace, lane]
            fits = end == 0 or end + size_bytes <= self._rotate_bytes
            if fits and await self._tried(lambda: self._files.length(self._path(pack))) == end:
                return pack, end
            await self._retire(pack, None)  # full, or somebody else deleted, cut or lengthened it
        pack = Pack(namespace, str(uuid7(self._clock.now(), self._entropy)))
        await self._journal.announce(pack)
        try:
            await self._run(lambda: self._files.create(self._path(pack)))
        except OSError as error:
            with suppress(OSError):
                await self._run(lambda: self._files.unlink(self._path(pack)))
            await self._journal.seal(pack)
            raise _translated(error) from error
        self._open[namespace, lane] = (pack, 0)
        self._monitor.count("created_packs")
        return pack, 0

    def _append(self, pack: Pack, end: int, group: Sequence[bytes]) -> None:
        path = self._path(pack)
        try:
            descriptor, found = self._files.open_end(path)
        except FileNotFoundError as error:
            raise _Unusable(error) from error
        try:
            if found != end:
                raise _Unusable(OSError(errno.EIO, "was changed by somebody else"))
            try:
                self._files.write(descriptor, group)
            except OSError as error:
                try:
                    self._files.truncate(path, end)
                except OSError:
                    raise _Unusable(error) from error
                raise
            try:
                self._files.sync(descriptor)
            except OSError as error:
                # The kernel may have dropped the dirty pages and would call the next sync a success.
                raise _Unusable(error) from error
        finally:
            os.close(descriptor)

    async def _retire(self, pack: Pack, end: int | None) -> None:
        """Append no more to `pack`, and drop what is behind `end`."""
        self._open = {lane: growing for lane, growing in self._open.items() if growing[0] != pack}
        self._seen.pop(pack, None)
        if end is not None:
            with suppress(OSError):  # garbage behind the acknowledged end wastes space and harms nobody
                await self._run(lambda: self._files.truncate(self._path(pack), end))
        await self._seal(pack)

    async def _seal(self, pack: Pack) -> None:
        try:
            await self._journal.seal(pack)
        except (NoSpace, Unavailable) as error:
            self._monitor.problem(error)  # it stays open on record; `resume` then drops the tail at the next start

    def _load(self, pack: Pack, wanted: Sequence[tuple[int, Location]], found: list[bytes | None]) -> None:
        """Read records of one pack into their places in `found`."""
        places = [(location.offset, location.length) for _, location in wanted]
        try:
            records = self._files.read(self._path(pack), places)
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
                raise Unavailable(f"Cannot read: {error.strerror}", retry_after_s=1.0) from error
            if len(wanted) > 1:  # one bad sector must not take its neighbours along
                for one in wanted:
                    self._load(pack, [one], found)
                return
            self._monitor.problem(f"Pack {pack.name} cannot be read: {error.strerror}")
            records = [b""]
        for (number, location), record in zip(wanted, records, strict=True):
            if len(record) == location.length:
                found[number] = record
            else:
                self._seen.pop(pack, None)  # look again before anybody is told that it is there

    def _path(self, pack: Pack) -> Path:
        return self._root / pack.namespace / f"{pack.name}.pack"

    async def _tried(self, call: Callable[[], T]) -> T:
        try:
            return await self._run(call)
        except OSError as error:
            raise _translated(error) from error

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


class _Unusable(Exception):
    """A pack must not be appended to any more."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _translated(error: OSError) -> NoSpace | Unavailable:
    if error.errno in _FULL:
        return NoSpace("No space left for packs")
    return Unavailable(f"Cannot use packs: {error.strerror}", retry_after_s=5.0)


def uuid7(now_s: float, entropy: Callable[[int], bytes]) -> UUID:
    """Return a UUID of version 7: milliseconds, then random bits (RFC 9562)."""
    random = int.from_bytes(entropy(10), "big")
    high = (int(now_s * 1000) << 16) | (7 << 12) | (random >> 68)
    low = (0b10 << 62) | (random & ((1 << 62) - 1))
    return UUID(int=(high << 64) | low)
