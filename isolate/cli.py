"""The `isolate` and `isolateserver` commands: parse, call one function, print its result.

A root. Everything heavy is imported inside functions, because `--help` has 150 ms. What the flags mean is in
`choosing`, `storing` and `checkout`; the commands that look at trees of a server are in `tree_commands`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isolate import errors, flags, tree_commands
from isolate.config import load_settings
from isolate.terminal import (
    EXIT_FAILED,
    EXIT_HELP,
    CommandGroup,
    Console,
    TerminalMonitor,
    log_options,
    run_command,
    summary_option,
    version_option,
)
from isolate.tree_commands import USER_AGENT, fetch, required, run

if TYPE_CHECKING:
    from isolate.archive import Archived, ArchiveOptions, Remote
    from isolate.choosing import Wish
    from isolate.scan import Found

common = flags.all_of(summary_option, log_options, version_option)


def main() -> int:
    """Run the `isolate` command line of this process."""
    return run_command("isolate", isolate, settings=load_settings)


def isolateserver_main() -> int:
    """Run the `isolateserver` command line of this process."""
    return run_command("isolateserver", isolateserver, settings=load_settings)


@click.group("isolate", cls=CommandGroup, epilog=EXIT_HELP)
@summary_option
@version_option
def isolate() -> None:
    """Turn files into a hash, and a hash back into files."""


for command in tree_commands.ALL:
    isolate.add_command(command)


@isolate.command("archive", cls=flags.CommandWithVariables, epilog=EXIT_HELP)
@flags.selecting
@flags.storing
@common
@click.argument("files", nargs=-1, metavar="[PATH]...")
@click.pass_obj
def archive_command(
    console: Console,
    /,
    files: tuple[str, ...],
    server: str | None,
    namespace: str,
    dump_json: Path | None,
    **given: Any,
) -> None:
    """Store directories, files or what a .isolate selects, and print `HASH  NAME` for each.

    The hash of a directory is that of its manifest: `run_isolated -s HASH` runs in it. The hash of a file is that of
    its content: `isolate download -f HASH DEST` brings it back. Nothing is sent that the server has already.

    Of a PATH everything is stored; a directory that a .isolate selects goes without its *.pyc, *.swp, .git and .svn.
    """
    wish = _wish(given)
    if wish.isolate_file is None and wish.isolated is None:
        if not files:
            raise click.UsageError("Nothing to archive: name directories or files, or a .isolate with -i")
        if wish.subdir or given["collapse"]:
            raise click.UsageError("--subdir and --collapse_symlinks go with -i FILE.isolate")
        target, options = _target(server, namespace), _options(given, leave_out_junk=False)
        hashes = _store_paths(console, files, target, options, "  ")
    else:
        if files or wish.isolated is None:
            raise click.UsageError("-i FILE.isolate and -s FILE.isolated go together, and with no PATH")
        target, options = _target(server, namespace), _options(given, leave_out_junk=True)
        with console.watch() as monitor:
            hashes = {wish.isolated.stem: _archive_selected(console, wish, target, options, monitor)}
        _tell_reads(console, monitor)
    if dump_json is not None:
        _dump(dump_json, hashes)


@isolate.command("batcharchive", epilog=EXIT_HELP)
@flags.storing
@common
@click.argument("orders", nargs=-1, metavar="GEN_JSON...", required=True)
@click.pass_obj
@click.pass_context
def batch_command(
    ctx: click.Context,
    console: Console,
    /,
    orders: tuple[str, ...],
    server: str | None,
    namespace: str,
    dump_json: Path | None,
    **given: Any,
) -> int:
    """Store several trees, each ordered by a file {"version": 1, "dir": DIR, "args": [flags of archive]}.

    Prints `HASH  NAME` for each. Good trees are stored also when others are broken; then the exit status is 1.
    """
    from isolate.batch import read_order

    target = _target(server, namespace)
    batch = []
    for order in map(read_order, orders):
        with _named(order.source):
            inner = archive_command.make_context("archive", list(order.args), parent=ctx).params
        wish = _wish(inner, order.directory)
        if wish.isolated is None or inner["files"]:
            raise click.UsageError(f"{order.source}: 'args' need -s FILE.isolated, and no PATH")
        inner["denied"] = (*given["denied"], *inner["denied"])
        inner["skip_broken"] |= given["skip_broken"]
        inner["no_stat_cache"] |= given["no_stat_cache"]
        batch.append((wish, wish.isolated.stem, _options(inner, leave_out_junk=True)))
    hashes: dict[str, str | None] = {}
    try:
        with console.watch() as monitor:
            for wish, name, options in batch:
                hashes[name] = None
                try:
                    hashes[name] = _archive_selected(console, wish, target, options, monitor)
                except errors.UploadFailed:
                    raise
                except errors.IsolateError as error:
                    console.error(f"{name}: {error}")
        _tell_reads(console, monitor)
    except errors.UploadFailed:
        hashes = {}
        raise
    finally:
        if dump_json is not None:
            _dump(dump_json, hashes)
    return EXIT_FAILED if None in hashes.values() else 0


@isolate.command("check", cls=flags.CommandWithVariables, epilog=EXIT_HELP)
@flags.selecting
@flags.scanning
@flags.hashing
@common
@click.pass_obj
def check_command(console: Console, /, **given: Any) -> None:
    """Look whether a .isolate is sound and everything it selects is there; prints nothing when it is.

    With -s the .isolated and its state are written, as `archive` would, and nothing is sent.
    """
    wish = _wish(given)
    if wish.isolate_file is None and wish.isolated is None:
        raise click.UsageError("--isolate is required (or --isolated with a state that remembers it)")
    _look(console, wish, given)


@isolate.command("remap", cls=flags.CommandWithVariables, epilog=EXIT_HELP)
@flags.selecting
@flags.scanning
@flags.hashing
@flags.recreating
@click.option("-o", "--outdir", metavar="DIR", required=True, help="Where to; new or empty.")
@common
@click.pass_obj
def remap_command(console: Console, /, outdir: str, **given: Any) -> None:
    """Make the tree that a .isolate selects in another directory: links where the disk has them, else copies."""
    from isolate.choosing import failures
    from isolate.recreate import empty_directory, recreate

    if "://" in outdir:
        raise click.UsageError("--outdir is a directory, not a URL")
    wish = _wish(given)
    with failures():
        root, entries, cwd, _, link = _recreated(console, wish, given)
        place = empty_directory(Path(outdir))
        click.echo(os.fsencode(f"Remapping into {place}"))
        recreate(entries, root, place, link=link)
        (place / cwd).mkdir(parents=True, exist_ok=True)
    _save_after(console, wish, given)


@isolate.command("run", cls=flags.CommandWithVariables, epilog=EXIT_HELP)
@flags.selecting
@flags.scanning
@flags.hashing
@flags.recreating
@common
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENT...]")
@click.pass_obj
def run_selected_command(console: Console, /, arguments: tuple[str, ...], **given: Any) -> int:
    """Run the command of a .isolate in a fresh copy of its tree; the exit status is the command's."""
    from isolate.checkout import run_selected
    from isolate.choosing import failures

    wish = _wish(given)
    with failures():
        root, entries, cwd, command, link = _recreated(console, wish, given)
        words = (*command, *arguments) if command else ()
        path = os.environ.get("PATH", os.defpath)
        status = run_selected(entries, root, cwd, words, link=link, day=_today(), path=path)
    _save_after(console, wish, given)
    return status


@click.group("isolateserver", cls=CommandGroup, epilog=EXIT_HELP)
@summary_option
@version_option
def isolateserver() -> None:
    """Store files and bring them back, as its namesake of 2020."""


@isolateserver.command("archive", epilog=EXIT_HELP)
@flags.storing
@common
@click.argument("files", nargs=-1, metavar="PATH... | -")
@click.pass_obj
def archive_paths_command(
    console: Console,
    /,
    files: tuple[str, ...],
    server: str | None,
    namespace: str,
    dump_json: Path | None,
    **given: Any,
) -> None:
    """Store files and directories and print `HASH PATH` for each; `-` reads the paths from stdin, one per line."""
    if files == ("-",):
        files = tuple(line for line in map(os.fsdecode, sys.stdin.buffer.read().splitlines()) if line)
        if not files:
            click.echo()  # as in 2020: no paths are an empty answer
            return
    elif not files:
        raise click.UsageError("Nothing to upload")
    target, options = _target(server, namespace), _options(given, leave_out_junk=True)
    hashes = _store_paths(console, files, target, options, " ")
    if dump_json is not None:
        _dump(dump_json, hashes)


@isolateserver.command("download", epilog=EXIT_HELP)
@flags.fetching
@common
@click.pass_obj
def download_paths_command(console: Console, /, target: Path, **given: Any) -> None:
    """Bring a tree or single files back; prints how to run the command of a tree."""
    manifest = fetch(console, target=target, **given)
    if manifest is not None and manifest.command:
        click.echo(f"To run this test please run from the directory {target / (manifest.relative_cwd or '.')}:")
        click.echo(f"  {' '.join(manifest.command)}")


def _wish(given: dict[str, Any], cwd: Path | None = None) -> Wish:
    """Return what the flags of `flags.selecting` ask for."""
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


def _target(server: str | None, namespace: str) -> Remote:
    from isolate.cas.digest import Namespace
    from isolate.hands import Remote
    from isolate.urls import normalize_url

    return Remote(normalize_url(required(server)), Namespace.named(namespace), USER_AGENT)


def _options(given: dict[str, Any], *, leave_out_junk: bool) -> ArchiveOptions:
    from isolate import config
    from isolate.archive import ArchiveOptions
    from isolate.denylist import denylist

    configured = config.load()
    return ArchiveOptions(
        is_denied=denylist(given["denied"], defaults=leave_out_junk),
        skip_broken=given["skip_broken"] or configured.skips_broken,
        stat_cache=None if given["no_stat_cache"] else configured.stat_cache,
        collapse_links=given.get("collapse", False),
    )


def _store_paths(
    console: Console, paths: Sequence[str], target: Remote, options: ArchiveOptions, separator: str
) -> dict[str, str | None]:
    """Archive each of `paths` once, printing a line for each when it is stored."""
    from isolate.storing import store_paths, summary, upload_errors

    hashes: dict[str, str | None] = {}

    def stored(name: str, archived: Archived) -> None:
        hashes[name] = archived.hash
        click.echo(os.fsencode(f"{archived.hash}{separator}{name}"))
        console.note(f"{name}: {summary(archived)}")

    with console.watch() as monitor, upload_errors():
        run(store_paths(list(dict.fromkeys(paths)), target, options, monitor, stored))
    _tell_reads(console, monitor)
    return hashes


def _archive_selected(
    console: Console, wish: Wish, target: Remote, options: ArchiveOptions, monitor: TerminalMonitor
) -> str:
    """Archive what `wish` selects and print its line; returns the hash."""
    from isolate.choosing import archive_choice, choose, failures
    from isolate.storing import summary, upload_errors

    assert wish.isolated is not None, "checked by the caller"
    with failures(), upload_errors():
        archived = run(archive_choice(choose(wish, console.warn), wish, target, options, monitor))
    name = wish.isolated.stem
    click.echo(os.fsencode(f"{archived.hash}  {name}"))
    console.note(f"{name}: {summary(archived)}")
    return archived.hash


def _tell_reads(console: Console, monitor: TerminalMonitor) -> None:
    counted = monitor.snapshot()
    read, unchanged = counted.get("hashed_files", 0), counted.get("cached_files", 0)
    console.note(f"{read} files read, {unchanged} unchanged since last time")


def _look(console: Console, wish: Wish, given: dict[str, Any]) -> None:
    """Look at what `wish` selects; hash it, too, when a .isolated is to be written."""
    from isolate.archive import rules_of
    from isolate.cas.digest import Namespace
    from isolate.choosing import archive_choice, choose, failures, look_at
    from isolate.nowhere import Nowhere

    namespace = Namespace.named(given["namespace"])
    options = _options(given, leave_out_junk=True)
    with failures(), console.watch() as monitor:
        choice = choose(wish, console.warn)
        if wish.isolated is None:
            files = look_at(choice.selection, rules_of(options, namespace, monitor))
        else:
            files = run(archive_choice(choice, wish, Nowhere(namespace), options, monitor)).files
    console.note(f"{files} files are there")


def _recreated(
    console: Console, wish: Wish, given: dict[str, Any]
) -> tuple[str, Iterator[Found], str, tuple[str, ...], bool]:
    """Return what is to be made again: root, entries, directory of the command, command, whether by links."""
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
    options = _options(given, leave_out_junk=True)
    rules = rules_of(options, Namespace.named(given["namespace"]), TerminalMonitor(console.program))
    link = not selection.said_read_only
    return selection.root, selection.entries(rules), selection.cwd, selection.command, link


def _save_after(console: Console, wish: Wish, given: dict[str, Any]) -> None:
    if wish.isolated is not None and not given["skip_refresh"]:
        _look(console, wish, given)


def _today() -> str:
    from datetime import datetime

    return datetime.now().astimezone().strftime("%Y-%m-%d")


def _dump(path: Path, hashes: dict[str, str | None]) -> None:
    import json

    from isolate.cas.files import write_atomic

    write_atomic(path, json.dumps(hashes, indent=2, sort_keys=True).encode() + b"\n")


@contextmanager
def _named(source: str) -> Iterator[None]:
    """Say which file holds the flags that are wrong."""
    try:
        yield
    except click.UsageError as error:
        raise click.UsageError(f"{source}: {error.format_message()}") from error
