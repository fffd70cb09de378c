"""The `isolate` and `isolateserver` commands: parse, call one function, print its result.

A root. Everything heavy is imported inside functions, because `--help` has 150 ms.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import click

from isolate import __version__, errors, flags
from isolate.config import load_settings
from isolate.terminal import (
    EXIT_HELP,
    CommandGroup,
    Console,
    TerminalMonitor,
    run_command,
    verbose_option,
    version_option,
)

if TYPE_CHECKING:
    from isolate.archive import Archived, ArchiveOptions, Remote
    from isolate.selection import Selection

Result = TypeVar("Result")

USER_AGENT = f"isolate/{__version__}"
# Of the cache that `download` fills; as in 2020.
MAX_CACHE_BYTES, MIN_FREE_BYTES, MAX_CACHE_ITEMS, MAX_CACHE_AGE_S = 50 << 30, 2 << 30, 100_000, 21 * 86_400
# What only the server or the way to it can be blamed for.
_UPLOAD_ERRORS = (errors.Unavailable, errors.Refused, errors.NoSpace, errors.NotFound, errors.UploadCorrupt)


def main() -> int:
    """Run the `isolate` command line of this process."""
    return run_command("isolate", isolate, settings=load_settings)


def isolateserver_main() -> int:
    """Run the `isolateserver` command line of this process."""
    return run_command("isolateserver", isolateserver, settings=load_settings)


@click.group("isolate", cls=CommandGroup, epilog=EXIT_HELP)
@verbose_option
@version_option
def isolate() -> None:
    """Turn files into a hash, and a hash back into files."""


@isolate.command("archive", cls=flags.CommandWithVariables, epilog=EXIT_HELP)
@flags.selecting
@click.option(
    "-s", "--isolated", type=flags.PATH, metavar="FILE", help="With -i: write the manifest to this *.isolated."
)
@flags.storing
@verbose_option
@version_option
@click.argument("files", nargs=-1, metavar="[PATH]...")
@click.pass_obj
def archive_command(
    console: Console, /, isolate_file: Path | None, isolated: Path | None, files: tuple[str, ...], **given: Any
) -> None:
    """Store directories, files or what a .isolate selects, and print `HASH  NAME` for each.

    The hash of a directory is that of its manifest: `run_isolated -s HASH` runs in it. The hash of a file is that of
    its content: `isolate download -f HASH DEST` brings it back. Nothing is sent that the server has already.

    Of a PATH everything is stored; a directory that a .isolate selects goes without its *.pyc, *.swp, .git and .svn.
    """
    config, paths = given.pop("config"), given.pop("paths")
    if isolate_file is None and isolated is None:
        if not files:
            raise click.UsageError("Nothing to archive: name directories or files, or a .isolate with -i")
        _store(console, {name: name for name in files}, "  ", leave_out_junk=False, **given)
        return
    if isolate_file is None or isolated is None or files:
        raise click.UsageError("-i FILE.isolate and -s FILE.isolated go together, and with no PATH")
    if isolated.suffix != ".isolated":
        raise click.UsageError("--isolated value must end with '.isolated'")
    selection = _select(isolate_file, config, paths)
    archived = _store(console, {isolated.stem: selection}, "  ", leave_out_junk=True, **given)
    _write(isolated, archived[isolated.stem].manifest)


@isolate.command("check", cls=flags.CommandWithVariables, epilog=EXIT_HELP)
@flags.selecting
@flags.scanning
@verbose_option
@version_option
def check_command(
    isolate_file: Path | None,
    config: dict[str, str],
    paths: dict[str, str],
    denied: Sequence[str],
    *,
    skip_broken: bool,
) -> None:
    """Look whether everything a .isolate selects is there; prints nothing when it is."""
    from isolate.denylist import denylist
    from isolate.scan import ScanRules

    if isolate_file is None:
        raise click.UsageError("--isolate is required")
    selection = _select(isolate_file, config, paths)
    monitor = TerminalMonitor("isolate")
    try:
        broken = monitor.problem if skip_broken else None
        for _ in selection.entries(ScanRules(is_denied=denylist(denied), broken=broken)):
            pass
    except errors.InvalidInput as error:
        raise errors.IsolateError(f"Failed to find an input file: {error}") from error


@isolate.command("download", epilog=EXIT_HELP)
@flags.fetching
@verbose_option
@version_option
@click.pass_obj
def download_command(console: Console, /, **given: Any) -> None:
    """Bring a tree or single files back."""
    _fetch(console, **given)


@click.group("isolateserver", cls=CommandGroup, epilog=EXIT_HELP)
@verbose_option
@version_option
def isolateserver() -> None:
    """Store files and bring them back, as its namesake of 2020."""


@isolateserver.command("archive", epilog=EXIT_HELP)
@flags.storing
@verbose_option
@version_option
@click.argument("files", nargs=-1, metavar="PATH... | -")
@click.pass_obj
def archive_paths_command(console: Console, /, files: tuple[str, ...], **given: Any) -> None:
    """Store files and directories and print `HASH PATH` for each; `-` reads the paths from stdin, one per line."""
    if files == ("-",):
        files = tuple(line for line in map(os.fsdecode, sys.stdin.buffer.read().splitlines()) if line)
    elif not files:
        raise click.UsageError("Nothing to upload")
    _store(console, {name: name for name in files}, " ", leave_out_junk=True, **given)


@isolateserver.command("download", epilog=EXIT_HELP)
@flags.fetching
@verbose_option
@version_option
@click.pass_obj
def download_paths_command(console: Console, /, target: Path, **given: Any) -> None:
    """Bring a tree or single files back; prints how to run the command of a tree."""
    command, relative_cwd = _fetch(console, target=target, **given)
    if command:
        click.echo(f"To run this test please run from the directory {target / relative_cwd}:")
        click.echo(f"  {' '.join(command)}")


def _select(isolate_file: Path, config: dict[str, str], paths: dict[str, str]) -> Selection:
    from isolate.selection import select

    return select(isolate_file, config, paths, Path.cwd())


def _run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    import asyncio

    return asyncio.run(coroutine)


def _required(server: str | None) -> str:
    if not server:
        raise click.UsageError("--isolate-server is required (or set ISOLATE_SERVER)")
    return server


def _store(
    console: Console,
    things: dict[str, str | Selection],
    separator: str,
    *,
    server: str | None,
    namespace: str,
    denied: Sequence[str],
    leave_out_junk: bool,
    skip_broken: bool,
    no_stat_cache: bool,
    dump_json: Path | None,
) -> dict[str, Archived]:
    """Archive `things` by name, printing a line for each when it is stored."""
    from isolate import config
    from isolate.archive import ArchiveOptions, Remote
    from isolate.cas.digest import Namespace
    from isolate.denylist import denylist

    target = Remote(_required(server), Namespace.parse(namespace), USER_AGENT)
    for name, thing in things.items():
        if isinstance(thing, str) and not (os.path.isdir(thing) or os.path.isfile(thing)):
            raise errors.InvalidInput(f"{name} is neither a file nor a directory")
    options = ArchiveOptions(
        is_denied=denylist(denied, defaults=leave_out_junk),
        skip_broken=skip_broken,
        stat_cache=None if no_stat_cache else config.load().stat_cache,
    )
    done: dict[str, Archived] = {}

    async def store_all(monitor: TerminalMonitor) -> None:
        for name, thing in things.items():
            done[name] = await _archive(thing, target, options, monitor)
            click.echo(os.fsencode(f"{done[name].hash}{separator}{name}"))
            console.note(f"{name}: {_summary(done[name])}")

    with console.watch() as monitor, _upload_errors():
        _run(store_all(monitor))
    counted = monitor.snapshot()
    console.note(
        f"{counted.get('hashed_files', 0)} files read, {counted.get('cached_files', 0)} unchanged since last time"
    )
    if dump_json is not None:
        hashes = {name: archived.hash for name, archived in done.items()}
        _write(dump_json, json.dumps(hashes, indent=2, sort_keys=True).encode() + b"\n")
    return done


async def _archive(
    thing: str | Selection, target: Remote, options: ArchiveOptions, monitor: TerminalMonitor
) -> Archived:
    from isolate.archive import archive_file, archive_files, archive_tree

    if not isinstance(thing, str):
        return await archive_files(thing, target, options, monitor)
    archive = archive_tree if os.path.isdir(thing) else archive_file
    return await archive(Path(thing), target, options, monitor)


def _summary(archived: Archived) -> str:
    uploaded = f"{archived.uploaded_blobs} uploaded ({archived.uploaded_bytes} bytes)"
    return f"{archived.files} files of {archived.size_bytes} bytes; {uploaded}"


@contextmanager
def _upload_errors() -> Iterator[None]:
    try:
        yield
    except _UPLOAD_ERRORS as error:
        raise errors.UploadFailed(str(error)) from error


def _write(path: Path, content: bytes) -> None:
    from isolate.cas.files import write_atomic

    write_atomic(path, content)


def _fetch(
    console: Console,
    *,
    isolated: str | None,
    files: Sequence[tuple[str, str]],
    target: Path,
    server: str | None,
    namespace: str | None,
    cache: Path | None,
) -> tuple[tuple[str, ...], str]:
    """Bring a tree or files to `target`; returns command and directory of a tree."""
    from isolate import config
    from isolate.cas.digest import DEFAULT_NAMESPACE, Namespace
    from isolate.download import download_files
    from isolate.hands import Remote

    if (isolated is None) == (not files):
        raise click.UsageError("Use one of -s HASH and -f HASH DEST")
    url = _required(server)
    content = Path(isolated).read_bytes() if isolated is not None and os.path.isfile(isolated) else None
    if namespace is None:
        space = Namespace.parse(DEFAULT_NAMESPACE) if content else Namespace.of_hash(isolated or files[0][0])
    else:
        space = Namespace.parse(namespace)
    source = Remote(url, space, USER_AGENT)
    with console.watch() as monitor:
        if isolated is None:
            wanted = {target / destination: space.algorithm.parse_hex(digest) for digest, destination in files}
            _run(download_files(source, wanted, monitor))
            return (), ""
        root = isolated if content is None else space.blob(content).digest.hex()
        folder = cache or config.load().blob_cache
        return _run(_download_tree(source, root, content, target, folder, monitor))


async def _download_tree(
    source: Remote, root: str, content: bytes | None, target: Path, folder: Path, monitor: TerminalMonitor
) -> tuple[tuple[str, ...], str]:
    from isolate.cas.cache import CachePolicy, LocalCache
    from isolate.clock import SystemClock
    from isolate.fetch import fetch
    from isolate.hands import open_target
    from run_isolated.mapper import How, apply, plan

    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise errors.InvalidInput(f"{str(target)!r} exists and is not an empty directory")
    clock = SystemClock()
    policy = CachePolicy(
        max_bytes=MAX_CACHE_BYTES, max_items=MAX_CACHE_ITEMS, min_free_bytes=MIN_FREE_BYTES, max_age_s=MAX_CACHE_AGE_S
    )
    async with open_target(source, clock, monitor) as store:
        with LocalCache.open(folder, source.namespace, policy, clock, monitor) as cache:
            if content is not None:
                cache.add([(source.namespace.blob(content), content)])
            fetched = await fetch(store, cache, root, monitor)
            target.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as beside, fetched.pin:
                # Nothing is visible before it is whole; taking the place of an empty directory is one step, too.
                apply(plan(fetched.manifest), cache, Path(beside, "tree"), How.COPY)
                os.rename(Path(beside, "tree"), target)
            cache.trim()
    return fetched.manifest.command, fetched.manifest.relative_cwd or "."
