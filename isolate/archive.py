"""A tree on disk -> one hash in a store: scan, hash, ask what is missing, upload that, and the manifest last.

Knows no command line and no server; entries come from `scan` or from a `.isolate`, digests and uploads from a `Crew`.
The invariants: the manifest is sent only when the store has acknowledged every blob it names, and has said so recently
enough that it keeps them; what is in flight is bounded whatever the size of the tree.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Container, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from isolate.archived import Archived, Tally
from isolate.cas.digest import Namespace
from isolate.cas.store import BlobStore
from isolate.cas.wire import StoreInfo
from isolate.clock import Clock, SystemClock
from isolate.crew import GrowingCrew
from isolate.denylist import DEFAULT, Denylist
from isolate.entries import Entry
from isolate.errors import FileChanged, Unavailable
from isolate.expansion import EVERYTHING, beginning, expand
from isolate.hands import Remote, Target, open_target
from isolate.isolated import Manifest, dumps
from isolate.monitor import Monitor
from isolate.partcache import PartCache
from isolate.pipeline import Built, Pipeline
from isolate.scan import Found, ScanRules, scan
from isolate.scanned import Run, flat
from isolate.sender import Sender
from isolate.statcache import StatCache

if TYPE_CHECKING:
    from isolate.ahead import ScanAhead
    from isolate.selection import Selection

__all__ = ["ArchiveOptions", "Remote", "archive_file", "archive_files", "archive_tree"]

ATTEMPTS = 3  # of a tree that changes while it is read, or that took longer than the store promises to keep it
MIN_PROMISED_S = 3_600.0


@runtime_checkable
class InformedStore(Protocol):
    """A store that tells what it promises."""

    async def info(self) -> StoreInfo: ...


class Record(Protocol):
    """Sees every entry of a tree in the order of paths, so that nobody needs to hold them all."""

    def begin(self) -> None:
        """Forget what was seen: the tree is looked at from the start, perhaps again."""
        ...

    def add(self, entries: Sequence[Entry]) -> None:
        """See the next entries."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveOptions:
    """How to archive; the defaults suit a tree that a user names."""

    is_denied: Denylist = DEFAULT
    skip_broken: bool = False  # report what cannot be archived instead of failing
    stat_cache: Path | None = None  # where digests of unchanged files are remembered; None reads every file
    workers: int | None = None  # processes for a large tree; 0 for none, None for as many as are useful
    clock: Clock = field(default_factory=SystemClock)
    record: Record | None = None
    collapse_links: bool = False  # take what links lead to instead of the links
    ahead: ScanAhead | None = None  # of the directory to archive, with these options
    subdir: str = ""  # of a directory, keep only what begins with it; a selection has one of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to archive, and what the manifest says beside the files."""

    name: str  # under which digests are remembered
    root: str  # absolute; where the paths of `entries` begin
    entries: Callable[[], Iterator[Found | Run]]  # looks at the disk anew each time
    command: tuple[str, ...] = ()
    relative_cwd: str | None = None
    read_only: int | None = None
    groups: tuple[str, ...] = ()  # beginnings of paths that get manifests of their own


async def archive_tree(root: Path, target: Target, options: ArchiveOptions, monitor: Monitor) -> Archived:
    """Store all that is below the directory `root`.

    Raises InvalidInput for what cannot be archived, Unreadable, FileChanged for a file that did not stay the same while
    it was archived, and what the store raises.
    """
    rules = rules_of(options, target.namespace, monitor)
    where = os.path.abspath(root)

    def entries() -> Iterator[Found | Run]:
        # Collapsed links bring entries out of order, so that all are held; else they come one by one.
        if rules.collapse:
            found = iter(expand(where, EVERYTHING, rules))
        elif options.ahead is not None and options.ahead.root == where:
            if not options.subdir:
                return options.ahead.runs(rules)
            found = flat(options.ahead.runs(rules))
        else:
            found = scan(where, rules)
        return beginning(options.subdir, found)

    return await _archive(Plan(name=where, root=where, entries=entries), target, options, monitor)


async def archive_files(selection: Selection, target: Target, options: ArchiveOptions, monitor: Monitor) -> Archived:
    """Store what a `.isolate` selects; raises as `archive_tree` does."""
    rules = rules_of(options, target.namespace, monitor)
    plan = Plan(
        name=selection.name,
        root=selection.root,
        entries=lambda: selection.entries(rules),
        command=selection.command,
        relative_cwd=selection.relative_cwd,
        read_only=selection.read_only,
        # 2020 kept what changes rarely apart; our own namespaces find it by where parts begin.
        groups=() if target.namespace.is_ours else selection.groups,
    )
    return await _archive(plan, target, options, monitor)


async def archive_file(path: Path, target: Target, options: ArchiveOptions, monitor: Monitor) -> Archived:
    """Store the content of one file, which needs no manifest: `root` is its blob. Raises as `archive_tree` does."""
    tally = Tally(monitor)
    async with _crew(target, options, tally) as (store, crew):
        blob = await Sender(store, crew, options.clock, tally).send_file(os.path.realpath(path))
    return tally.archived(blob, target.namespace, Built((), (), 1, blob.size))


async def _archive(plan: Plan, target: Target, options: ArchiveOptions, monitor: Monitor) -> Archived:
    tally = Tally(monitor)
    async with _crew(target, options, tally) as (store, crew):
        built = await _build(plan, store, crew, options, tally)
        content = dumps(
            Manifest(
                algorithm=target.namespace.algorithm,
                entries=built.entries,
                command=plan.command,
                relative_cwd=plan.relative_cwd,
                read_only=plan.read_only,
                includes=built.includes,
            )
        )
        root = target.namespace.blob(content)
        await Sender(store, crew, options.clock, tally).send_content(root, content)
    return tally.archived(root, target.namespace, built, content)


@asynccontextmanager
async def _crew(
    target: Target, options: ArchiveOptions, monitor: Monitor
) -> AsyncIterator[tuple[BlobStore, GrowingCrew]]:
    """Give the store and who works for it."""
    clock = options.clock
    async with (
        open_target(target, clock, monitor) as store,
        GrowingCrew(target, store, options.workers, clock, monitor) as crew,
    ):
        yield store, crew


async def _build(plan: Plan, store: BlobStore, crew: GrowingCrew, options: ArchiveOptions, tally: Tally) -> Built:
    """Bring everything but the root of the manifest to the store; starts over when the world moved meanwhile."""
    clock = options.clock
    doubted: Container[str] = ()
    for attempt in range(1, ATTEMPTS + 1):
        if attempt > 1:
            tally.begin_again()
        started_s = clock.monotonic()
        try:
            built = await _pass(plan, store, crew, options, tally, doubted)
        except FileChanged as error:
            if attempt == ATTEMPTS:
                raise
            # Perhaps it did not change, and what was remembered of it is wrong; then more may be.
            doubted = {os.path.relpath(error.path, plan.root)} if attempt == 1 else _Everything()
            continue
        # What was present at the start of a long pass may be evicted by its end: promised is only `promised_s`.
        passed_s = clock.monotonic() - started_s
        if passed_s <= await _promised_s(store, passed_s) / 2:
            return built
    raise Unavailable(f"Archiving {plan.root!r} takes longer than the server promises to keep what it has")


async def _pass(
    plan: Plan,
    store: BlobStore,
    crew: GrowingCrew,
    options: ArchiveOptions,
    monitor: Monitor,
    doubted: Container[str],
) -> Built:
    """Bring the tree as it is now to the store; what is remembered of the paths in `doubted` is not believed."""
    clock, algorithm = options.clock, store.namespace.algorithm
    with ExitStack() as stack:
        cache = parts = None
        if options.stat_cache is not None:
            tree = StatCache(options.stat_cache, plan.name, algorithm, clock, monitor, doubted)
            cache = stack.enter_context(tree)
            if store.namespace.is_ours and options.record is None and not options.skip_broken:
                found = PartCache(options.stat_cache, plan.name, algorithm, clock, monitor, trusted=not doubted)
                parts = stack.enter_context(found)
        recorded = None
        if options.record is not None:
            options.record.begin()
            recorded = options.record.add
        skip_broken, groups = options.skip_broken, plan.groups
        pipeline = Pipeline(
            store, crew, cache, parts, clock, monitor, skip_broken=skip_broken, groups=groups, recorded=recorded
        )
        return await pipeline.run(plan.root, plan.entries())


async def _promised_s(store: BlobStore, passed_s: float) -> float:
    """Return how long the store keeps what it said is present."""
    # Nobody promises less than an hour, so that short runs need not ask.
    if passed_s <= MIN_PROMISED_S / 2 or not isinstance(store, InformedStore):
        return MIN_PROMISED_S
    return (await store.info()).promised_s


class _Everything(Container[str]):
    """Holds whatever it is asked for."""

    def __contains__(self, _item: object) -> bool:
        return True


def rules_of(options: ArchiveOptions, namespace: Namespace, monitor: Monitor) -> ScanRules:
    """Return how to scan a directory for an archive in `namespace`."""
    return ScanRules(
        is_denied=options.is_denied,
        keep_dangling=namespace.is_ours,
        plain_links=not namespace.is_ours,
        broken=monitor.problem if options.skip_broken else None,
        collapse=options.collapse_links,
    )
