"""The `isolate` and `isolateserver` commands: parse, call one function, print its result.

A root. Everything heavy is imported inside functions, because `--help` has 150 ms. What the flags mean is in
`choosing`, `storing` and `checkout`; the commands that look at trees of a server are in `tree_commands`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isolate import ending, errors, flags, tree_commands
from isolate.config import load_settings
from isolate.sources import fetch
from isolate.steps import (
    archive_selected,
    dump,
    look,
    named,
    options_of,
    recreated,
    save_after,
    scanned_ahead,
    store_each,
    target_of,
    tell_reads,
    today,
    wish_of,
)
from isolate.streams import has_stdout, read_stdin
from isolate.terminal import (
    EXIT_FAILED,
    EXIT_HELP,
    CommandGroup,
    Console,
    log_options,
    run_command,
    summary_option,
    version_option,
)

if TYPE_CHECKING:
    from isolate.archive import ArchiveOptions
    from isolate.choosing import Wish

MAX_LIST_BYTES = 64 << 20  # of paths on stdin: a million or so

common = flags.all_of(summary_option, log_options, version_option)


def main() -> int:
    """Run the `isolate` command line of this process."""
    return run_command("isolate", isolate, settings=load_settings) if has_stdout("isolate") else EXIT_FAILED


def isolateserver_main() -> int:
    """Run the `isolateserver` command line of this process."""
    if not has_stdout("isolateserver"):
        return EXIT_FAILED
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
@flags.storing("blake3-zstd")
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
    if given["isolate_file"] is None and given["isolated"] is None:
        if not files:
            raise click.UsageError("Nothing to archive: name directories or files, or a .isolate with -i")
        with scanned_ahead(files, namespace, given) as ahead:
            target, options = target_of(server, namespace), options_of(given, leave_out_junk=False, ahead=ahead)
            hashes = store_each(console, files, target, options, "  ")
    else:
        wish = wish_of(given)
        if files or wish.isolated is None:
            raise click.UsageError("-i FILE.isolate and -s FILE.isolated go together, and with no PATH")
        target, options = target_of(server, namespace), options_of(given, leave_out_junk=True)
        with console.watch() as monitor:
            hashes = {wish.isolated.stem: archive_selected(console, wish, target, options, monitor)}
        tell_reads(console, monitor)
    if dump_json is not None:
        dump(dump_json, hashes)


@isolate.command("batcharchive", epilog=EXIT_HELP)
@flags.storing("blake3-zstd")
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
    target = target_of(server, namespace)
    batch = [_ordered(ctx, order, given) for order in orders]
    hashes: dict[str, str | None] = {}
    try:
        with console.watch() as monitor:
            for wish, name, options in batch:
                hashes[name] = None
                try:
                    hashes[name] = archive_selected(console, wish, target, options, monitor)
                except errors.UploadFailed:
                    raise
                except errors.IsolateError as error:
                    console.error(f"{name}: {error}")
        tell_reads(console, monitor)
    except errors.UploadFailed:
        hashes = {}
        raise
    finally:
        if dump_json is not None:
            dump(dump_json, hashes)
    return EXIT_FAILED if None in hashes.values() else 0


def _ordered(ctx: click.Context, path: str, given: dict[str, Any]) -> tuple[Wish, str, ArchiveOptions]:
    """Return what the order in the file `path` asks for, the name of its hash, and how to go about it."""
    from isolate.batch import read_order

    order = read_order(path)
    with named(order.source), flags.nothing_but_work():
        inner = archive_command.make_context("archive", list(order.args), parent=ctx).params
    wish = wish_of(inner, order.directory)
    if wish.isolated is None or inner["files"]:
        raise click.UsageError(f"{order.source}: 'args' need -s FILE.isolated, and no PATH")
    inner["denied"] = (*given["denied"], *inner["denied"])
    inner["skip_broken"] |= given["skip_broken"]
    inner["no_stat_cache"] |= given["no_stat_cache"]
    return wish, wish.isolated.stem, options_of(inner, leave_out_junk=True)


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
    wish = wish_of(given)
    if wish.isolate_file is None and wish.isolated is None:
        raise click.UsageError("--isolate is required (or --isolated with a state that remembers it)")
    look(console, wish, given)


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
    wish = wish_of(given)
    with failures():
        root, found, cwd, _, link = recreated(console, wish, given)
        entries = list(found)  # what is lost is known before anything is made
        place = empty_directory(Path(outdir))
        click.echo(os.fsencode(f"Remapping into {place}"))
        recreate(entries, root, place, link=link)
        (place / cwd).mkdir(parents=True, exist_ok=True)
    save_after(console, wish, given)


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

    wish = wish_of(given)
    with failures():
        root, entries, cwd, command, link = recreated(console, wish, given)
        words = (*command, *arguments) if command else ()
        path = os.environ.get("PATH", os.defpath)
        status = run_selected(entries, root, cwd, words, link=link, day=today(), path=path, telling=ending.passed_on)
    save_after(console, wish, given)
    return status


@click.group("isolateserver", cls=CommandGroup, epilog=EXIT_HELP)
@summary_option
@version_option
def isolateserver() -> None:
    """Store files and bring them back, as its namesake of 2020."""


@isolateserver.command("archive", epilog=EXIT_HELP)
@flags.storing("default-gzip")
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
        listed = read_stdin(MAX_LIST_BYTES + 1, "the list of paths")
        if len(listed) > MAX_LIST_BYTES:
            raise click.UsageError(f"stdin has more than {MAX_LIST_BYTES} bytes of paths: name their directory instead")
        files = tuple(line for line in map(os.fsdecode, listed.splitlines()) if line)
        if not files:
            click.echo()  # as in 2020: no paths are an empty answer
            return
    elif not files:
        raise click.UsageError("Nothing to upload")
    target, options = target_of(server, namespace), options_of(given, leave_out_junk=True)
    hashes = store_each(console, files, target, options, " ")
    if dump_json is not None:
        dump(dump_json, hashes)


@isolateserver.command("download", epilog=EXIT_HELP)
@flags.fetching
@common
@click.pass_obj
def download_paths_command(console: Console, /, target: Path, **given: Any) -> None:
    """Bring a tree or single files back; prints how to run the command of a tree."""
    tree = fetch(console, target=target, **given)
    if tree is not None and tree.command:
        click.echo(f"To run this test please run from the directory {target / (tree.relative_cwd or '.')}:")
        click.echo(f"  {' '.join(tree.command)}")
