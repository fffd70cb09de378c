"""The steps that commands of `isolate` share: flags into a wish, a wish archived, looked at or made again.

A root beside `cli`, which parses and calls them. Everything heavy is imported inside functions.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isolate import ending, errors
from isolate.progress import counted_text
from isolate.sources import USER_AGENT, required, run
from isolate.terminal import Console, TerminalMonitor

if TYPE_CHECKING:
    from isolate.ahead import ScanAhead
    from isolate.archive import ArchiveOptions, Remote
    from isolate.archived import Archived
    from isolate.choosing import Wish
    from isolate.scan import Found


def wish_of(given: dict[str, Any], cwd: Path | None = None) -> Wish:
    """Return what the flags of `flags.selecting` ask for."""
    with ending.put_off():
        from isolate.choosing import Wish
        from isolate.saved import checked_isolated
        from isolate.selection import Variables

    cwd = cwd or Path.cwd()
    isolated: Path | None = given["isolated"]
    if isolated is not None:
        checked_isolated(cwd / isolated)
    return Wish(
        isolate_file=given["isolate_file"],
        isolated=isolated,
        given=Variables(config=given["config"], paths=given["paths"], extra=given["extra"]),
        subdir=given["subdir"],
        cwd=cwd,
        platform=sys.platform,
    )


def target_of(server: str | None, namespace: str) -> Remote:
    """Return where to archive to; raises UsageError, InvalidInput."""
    with ending.put_off():
        from isolate.cas.digest import Namespace
        from isolate.hands import Remote
        from isolate.urls import normalize_url

    return Remote(normalize_url(required(server)), Namespace.named(namespace), USER_AGENT)


@contextmanager
def scanned_ahead(paths: Sequence[str], namespace: str, given: dict[str, Any]) -> Iterator[ScanAhead | None]:
    """Begin to look at the first of `paths`, if it was a large tree the last time, before all else is imported."""
    with ending.put_off():
        from isolate import config
        from isolate.cas.digest import Namespace

    configured, space = config.load(), Namespace.named(namespace)
    is_plain = space.is_ours and not (given["skip_broken"] or configured.skips_broken or given["collapse"])
    if given["no_stat_cache"] or not is_plain or not os.path.isdir(paths[0]):
        yield None
        return
    with ending.put_off():
        from isolate.partcache import beginnings

    root = os.path.abspath(paths[0])
    known = beginnings(configured.stat_cache, root, space.algorithm)
    if not known:
        yield None
        return
    with ending.put_off():
        from isolate.ahead import ScanAhead
        from isolate.denylist import denylist
        from isolate.scan import ScanRules

    with ScanAhead(root, ScanRules(is_denied=denylist(given["denied"], defaults=False)), known) as ahead:
        yield ahead


def options_of(given: dict[str, Any], *, leave_out_junk: bool, ahead: ScanAhead | None = None) -> ArchiveOptions:
    """Return how to archive, from flags and environment."""
    with ending.put_off():
        from isolate import config
        from isolate.archive import ArchiveOptions
        from isolate.denylist import denylist

    configured = config.load()
    return ArchiveOptions(
        is_denied=denylist(given["denied"], defaults=leave_out_junk),
        skip_broken=given["skip_broken"] or configured.skips_broken,
        stat_cache=None if given["no_stat_cache"] else configured.stat_cache,
        collapse_links=given.get("collapse", False),
        ahead=ahead,
        subdir=given.get("subdir", "").removeprefix("./"),
    )


def store_each(
    console: Console, paths: Sequence[str], target: Remote, options: ArchiveOptions, separator: str
) -> dict[str, str | None]:
    """Archive each of `paths` once, printing a line for each when it is stored."""
    with ending.put_off():
        from isolate.storing import store_paths, summary, upload_errors

    hashes: dict[str, str | None] = {}

    def stored(name: str, archived: Archived) -> None:
        hashes[name] = archived.hash
        console.result(f"{archived.hash}{separator}{name}")
        console.note(f"{name}: {summary(archived)}")

    with console.watch() as monitor, upload_errors():
        run(store_paths(list(dict.fromkeys(paths)), target, options, monitor, stored))
    tell_reads(console, monitor)
    return hashes


def archive_selected(
    console: Console, wish: Wish, target: Remote, options: ArchiveOptions, monitor: TerminalMonitor
) -> str:
    """Archive what `wish` selects and print its line; returns the hash."""
    with ending.put_off():
        from isolate.choosing import archive_choice, choose, failures
        from isolate.storing import summary, upload_errors

    assert wish.isolated is not None, "checked by the caller"
    with failures(), upload_errors():
        archived = run(archive_choice(choose(wish, console.warn), wish, target, options, monitor))
    name = wish.isolated.stem
    console.result(f"{archived.hash}  {name}")
    console.note(f"{name}: {summary(archived)}")
    return archived.hash


def tell_reads(console: Console, monitor: TerminalMonitor) -> None:
    """Say how many files had to be read."""
    counted = monitor.snapshot()
    read, unchanged = counted.get("hashed_files", 0), counted.get("cached_files", 0)
    console.note(f"{counted_text(read, 'file')} read, {unchanged:,} unchanged since last time")


def look(console: Console, wish: Wish, given: dict[str, Any]) -> None:
    """Look at what `wish` selects; hash it, too, when a .isolated is to be written."""
    with ending.put_off():
        from isolate.archive import rules_of
        from isolate.cas.digest import Namespace
        from isolate.choosing import archive_choice, choose, failures, look_at
        from isolate.nowhere import Nowhere

    namespace = Namespace.named(given["namespace"])
    options = options_of(given, leave_out_junk=True)
    with failures(), console.watch() as monitor:
        choice = choose(wish, console.warn)
        if wish.isolated is None:
            files = look_at(choice.selection, rules_of(options, namespace, monitor))
        else:
            files = run(archive_choice(choice, wish, Nowhere(namespace), options, monitor)).files
    console.note(f"{counted_text(files, 'file')} {'is' if files == 1 else 'are'} there")


def recreated(
    console: Console, wish: Wish, given: dict[str, Any]
) -> tuple[str, Iterator[Found], str, tuple[str, ...], bool]:
    """Return what is to be made again: root, entries, directory of the command, command, whether by links."""
    with ending.put_off():
        from isolate.archive import rules_of
        from isolate.cas.digest import Namespace
        from isolate.choosing import choose, remembered
        from isolate.recreate import saved_entries

    if wish.isolate_file is None and wish.isolated is None:
        raise click.UsageError("--isolate is required (or --isolated with a state that remembers it)")
    if given["skip_refresh"]:
        saved = remembered(wish, console.warn)
        if not saved.root:
            raise errors.IsolateError("Execution failure: --skip-refresh needs -s with a state beside it")
        entries = saved_entries(saved.root, saved.files)
        return saved.root, entries, saved.cwd, saved.command, not saved.read_only
    selection = choose(wish, console.warn).selection
    options = options_of(given, leave_out_junk=True)
    rules = rules_of(options, Namespace.named(given["namespace"]), TerminalMonitor(console.program))
    link = not selection.said_read_only
    return selection.root, selection.entries(rules), selection.cwd, selection.command, link


def save_after(console: Console, wish: Wish, given: dict[str, Any]) -> None:
    """Write the `.isolated` of `wish` once the work is done."""
    if wish.isolated is not None and not given["skip_refresh"]:
        look(console, wish, given)


def today() -> str:
    """Return the date, for names."""
    with ending.put_off():
        from datetime import datetime

    return datetime.now().astimezone().strftime("%Y-%m-%d")


def dump(path: Path, hashes: dict[str, str | None]) -> None:
    """Write hashes by name as JSON."""
    with ending.put_off():
        import json

    with ending.put_off():
        from isolate.cas.files import write_atomic

    write_atomic(path, json.dumps(hashes, indent=2, sort_keys=True).encode() + b"\n")


@contextmanager
def named(source: str) -> Iterator[None]:
    """Say which file holds the flags that are wrong."""
    try:
        yield
    except click.UsageError as error:
        raise click.UsageError(f"{source}: {error.format_message()}") from error
