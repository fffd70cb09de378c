"""What the maintenance commands do: check, gc and stats on a data directory that no server uses.

Knows no flags. The invariants: each takes the lock a server takes, and makes no directory; an unclean stop stays on
record, because only time settles it; who only looks needs no room on the disk; a result is one line, or one JSON
object.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from isolate.clock import SystemClock
from isolate.errors import Busy, IndexCorrupt, NoSpace
from isolate.monitor import Monitor, TallyMonitor
from server.stores.blobs import LocalBlobStores
from server.stores.check import Check, Checked
from server.stores.datadir import DataDirectory
from server.stores.janitor import Janitor, Tidied
from server.stores.limits import BlobLimits
from server.stores.open import with_advice
from server.stores.rebuild import Rebuild, Rebuilt
from server.stores.reserve import RESERVE_BYTES, Reserve
from server.stores.sqlite_index import Kind
from server.stores.sqlite_tasks import SqliteTaskStore
from server.units import bytes_text, counted

GC_DEAD_SHARE = 0.1  # who asks for it wants the space, and has the time
MAX_SEED = 1_000_000  # of those that are drawn: short enough to be typed again
_NO_FLOOR = BlobLimits(min_free_bytes=0)

Say = Callable[[str], object]


class SayingMonitor(TallyMonitor):
    """Says what was survived: who runs a command reads no log."""

    def __init__(self, say: Say) -> None:
        super().__init__()
        self._say = say

    def problem(self, message: object) -> None:
        self._say(str(message))


def check_data(data_dir: Path, say: Say, *, read_share: float, seed: int | None, rebuild: bool) -> int:
    """Check, after rebuilding the index if that is asked for; returns the exit status.

    `seed` chooses what a share consists of.
    """
    if seed is None:
        seed = random.SystemRandom().randrange(MAX_SEED)
    return asyncio.run(_check(data_dir, say, read_share, seed, rebuild=rebuild))


def collect_garbage(data_dir: Path, limits: BlobLimits, say: Say, *, dry_run: bool) -> None:
    """Do at once what a server does little by little."""
    asyncio.run(_collect_garbage(data_dir, limits, say, dry_run=dry_run))


def print_stats(data_dir: Path, say: Say, *, as_json: bool) -> None:
    """Print what is stored."""
    found = asyncio.run(_stats(data_dir))
    if as_json:
        say(json.dumps(found, indent=2, sort_keys=True))
        return
    for line in _table(found):
        say(line)


async def _check(data_dir: Path, say: Say, read_share: float, seed: int, *, rebuild: bool) -> int:
    data, bad = _open(data_dir), 0
    try:
        if rebuild:
            rebuilt = await _rebuild(data_dir, say)
            bad = rebuilt.bad_ranges
            say(_rebuilt_line(rebuilt))
        async with _stores(data, _NO_FLOOR, SayingMonitor(say)) as stores:
            chance, now_s = random.Random(seed), SystemClock().now()
            check = Check(stores, data_dir, say, read_share, chance, now_s)
            checked = await check.run()
            if (tasks_path := data_dir / "tasks.sqlite").exists():
                tasks = SqliteTaskStore(tasks_path)
                try:
                    checked = await check.outputs(tasks.database)
                finally:
                    await tasks.close()
        say(_checked_line(checked, bad, seed if 0 < read_share < 1 else None))
        return 1 if bad or checked.problems else 0
    finally:
        data.close()


async def _rebuild(data_dir: Path, say: Say) -> Rebuilt:
    """Rebuild the index; the room that is kept for hard times goes to it if there is no other."""
    try:
        return await Rebuild(data_dir, SystemClock(), say).run()
    except NoSpace:
        if not Reserve(data_dir).give_up():
            raise
        return await Rebuild(data_dir, SystemClock(), say).run()


async def _collect_garbage(data_dir: Path, limits: BlobLimits, say: Say, *, dry_run: bool) -> None:
    data = _open(data_dir)
    try:
        async with _stores(data, limits, SayingMonitor(say)) as stores:
            clock, calm, reserve = SystemClock(), data.stopped_cleanly, Reserve(data_dir)
            janitor = Janitor(stores, clock, stopped_cleanly=calm, work_share=1.0, reserve=reserve)
            try:
                tidied = await (janitor.preview(GC_DEAD_SHARE) if dry_run else janitor.run(GC_DEAD_SHARE))
            except NoSpace as error:
                needed = bytes_text(RESERVE_BYTES)
                raise NoSpace(
                    f"{error}, and noting what goes needs some: free {needed} in another way first"
                ) from error
            say(_tidied_line(tidied, dry_run=dry_run))
            if not janitor.is_calm:
                hours = limits.promised_s / 3600
                say(f"Nothing is evicted: the last server was killed. Let one run for {hours:g} hours first")
    finally:
        data.close()


async def _stats(data_dir: Path) -> dict[str, Any]:
    data = _open(data_dir)
    try:
        async with _stores(data, _NO_FLOOR, TallyMonitor()) as stores:
            upkeep = stores.upkeep
            rows, ages, bad = await upkeep.packs(), await upkeep.ages(), await upkeep.quarantined()
            lengths = await stores.packs.lengths([row.pack for row in rows])
            packs = [row for row in rows if lengths[row.pack] or not row.committed_bytes]
            namespaces: dict[int, dict[str, Any]] = {
                age.namespace: {"name": age.name, "blobs": 0, "plain_bytes": 0, "records": 0, "composed": 0,
                                "stored_bytes": 0}
                for age in ages
            }  # fmt: skip
            for namespace, kind, number, size_bytes in await upkeep.count_blocks():
                entry = namespaces[namespace]
                entry["records"] += number
                entry["composed"] += number if kind == Kind.RECIPE else 0
                entry["stored_bytes"] += size_bytes
            for namespace, number, plain_bytes in await upkeep.count_blobs():
                namespaces[namespace] |= {"blobs": number, "plain_bytes": plain_bytes}
    finally:
        data.close()
    return {
        "data_dir": str(data_dir),
        "packs": len(packs),
        "missing_packs": len(rows) - len(packs),
        "pack_bytes": sum(min(row.committed_bytes, lengths[row.pack]) for row in packs),
        "live_bytes": sum(row.live_bytes for row in packs),
        "dead_bytes": sum(row.dead_bytes for row in packs),
        "quarantined_records": bad.blocks,
        "quarantined_bytes": bad.size_bytes,
        "namespaces": sorted(namespaces.values(), key=lambda entry: str(entry["name"])),
    }


def _open(data_dir: Path) -> DataDirectory:
    try:
        return DataDirectory.open_existing(data_dir)
    except Busy as error:
        raise Busy(f"A server is running on {data_dir}: stop it first") from error


@asynccontextmanager
async def _stores(data: DataDirectory, limits: BlobLimits, monitor: Monitor) -> AsyncIterator[LocalBlobStores]:
    try:
        stores = await LocalBlobStores.open(data.path, SystemClock(), monitor, limits)
        try:
            yield stores
        finally:
            await stores.close()
    except IndexCorrupt as error:
        raise with_advice(error) from error


def _rebuilt_line(rebuilt: Rebuilt) -> str:
    return (
        f"Rebuilt the index from {counted(rebuilt.packs, 'pack')}: {counted(rebuilt.records, 'record')},"
        f" {counted(rebuilt.blobs, 'blob')}, {counted(rebuilt.bad_ranges, 'bad range')}"
    )


def _checked_line(checked: Checked, bad_ranges: int, seed: int | None) -> str:
    read = bytes_text(checked.read_bytes)
    sample = "" if seed is None else f" in {checked.whole_records} of them (--seed={seed} chooses the same)"
    looked = f"{counted(checked.packs, 'pack')}, {counted(checked.records, 'record')}"
    parts = [f"Checked {looked}, {read} read{sample}"]
    for number, noun, what in (
        (bad_ranges, "bad range", "set aside"),
        (checked.bad_records, "bad record", "quarantined"),
        (checked.wrong_rows, "wrong index row", "mended"),
        (checked.unknown_packs, "pack", "not in the index"),
        (checked.incomplete_blobs, "composed blob", "incomplete"),
        (checked.short_packs, "pack", "shorter than what was stored"),
        (checked.lost_outputs, "output", "of tasks gone"),
        (checked.unnoted, "change", "of the index not made: no space left"),
    ):
        if number:
            parts.append(f"{counted(number, noun)} {what}")
    return ": ".join((parts[0], ", ".join(parts[1:]) or "all is well"))


def _tidied_line(tidied: Tidied, *, dry_run: bool) -> str:
    verbs = ("Would evict", "would compact", "would still be") if dry_run else ("Evicted", "compacted", "still")
    evicted = f"{counted(tidied.evicted.blocks, 'block')} ({bytes_text(tidied.evicted.size_bytes)})"
    line = f"{verbs[0]} {evicted}; {verbs[1]} {counted(tidied.packs, 'pack')}: {_gain(tidied)}"
    if tidied.stuck_packs:
        line += f"; {counted(tidied.stuck_packs, 'pack')} kept, which cannot be read"
    if tidied.cramped_packs:
        line += f"; {counted(tidied.cramped_packs, 'pack')} kept, for there is no room to copy what is alive"
    if tidied.over_bytes:
        line += f"; {verbs[2]} {bytes_text(tidied.over_bytes)} above the limits"
    return line


def _gain(tidied: Tidied) -> str:
    """Say what the disk got back, and how: a pack goes once what is alive in it was copied."""
    deleted, copied = bytes_text(tidied.freed_bytes), bytes_text(tidied.copied_bytes)
    if tidied.gained_bytes < 0:  # copies out of packs that then had to be kept
        return f"{bytes_text(-tidied.gained_bytes)} more in use ({deleted} deleted, {copied} copied)"
    detail = f" ({deleted} deleted, {copied} of it copied first)" if tidied.copied_bytes else ""
    return f"{bytes_text(tidied.gained_bytes)} gained{detail}"


def _table(found: dict[str, Any]) -> list[str]:
    sizes = ", ".join(
        f"{bytes_text(found[size])} {what}"
        for size, what in (("pack_bytes", "on disk"), ("live_bytes", "alive"), ("dead_bytes", "dead"))
    )
    lines = [f"{found['data_dir']}: {counted(found['packs'], 'pack')}, {sizes}"]
    if found["missing_packs"]:
        lines.append(f"{counted(found['missing_packs'], 'pack')} gone from the disk: its contents count as missing")
    if found["quarantined_records"]:
        records = counted(found["quarantined_records"], "record")
        lines.append(f"{records} in quarantine, {bytes_text(found['quarantined_bytes'])}")
    lines += [
        f"  {entry['name']}: {counted(entry['blobs'], 'blob')} of {bytes_text(entry['plain_bytes'])}"
        f" in {counted(entry['records'], 'record')} of {bytes_text(entry['stored_bytes'])}"
        for entry in found["namespaces"]
    ]
    return lines
