"""The commands of `isolate` that look at a tree by its hash, or at the text of a .isolate: `download ls cat diff fmt`.

A root beside `cli`, which adds them to its group. Everything heavy is imported inside functions.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isolate import flags
from isolate.commands import Command
from isolate.errors import InvalidIsolateFile
from isolate.progress import counted_text
from isolate.sources import fetch, run, source_of
from isolate.streams import read_stdin, write_nowhere
from isolate.terminal import EXIT_FAILED, EXIT_HELP, Console, is_terminal, log_options, summary_option, version_option

if TYPE_CHECKING:
    from isolate.parts import Tree
    from isolate.remote_tree import Change

common = flags.all_of(summary_option, log_options, version_option)


@click.command("download", cls=Command, epilog=EXIT_HELP)
@flags.fetching
@common
@click.pass_obj
def download_command(console: Console, /, **given: Any) -> None:
    """Bring a tree or single files back."""
    fetch(console, **given)


@click.command("ls", cls=Command, epilog=EXIT_HELP)
@click.option("-l", "--long", is_flag=True, help="Show mode and size, too.")
@flags.naming
@summary_option
@version_option
@click.argument("tree", metavar="HASH")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.pass_obj
def ls_command(console: Console, /, tree: str, paths: tuple[str, ...], *, long: bool, **given: Any) -> None:
    """List the paths of a tree, all or those at and below PATH; no content is fetched.

    HASH is that of a tree, or a local .isolated.
    """
    from isolate.remote_tree import Shown, below, long_line, shown

    told = Shown()
    entries = told.passing(below(_opened(console, tree, **given), paths))
    _print(map(long_line, entries) if long else (shown(entry.path) for entry in entries))
    if text := told.tars_text():
        console.warn(text)
    console.note(f"{counted_text(told.entries, 'entry', 'entries')} of {counted_text(told.size_bytes, 'byte')}")


@click.command("cat", cls=Command, epilog=EXIT_HELP)
@flags.naming
@common
@click.argument("tree", metavar="HASH")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.pass_obj
def cat_command(console: Console, /, tree: str, paths: tuple[str, ...], **given: Any) -> None:
    """Print files of a tree, links followed."""
    from isolate.remote_tree import RemoteTree, Shown, client_for, find

    source, root, content = source_of(tree, **given)

    async def copy() -> None:
        with console.watch() as monitor:
            async with client_for(source, monitor) as client:
                tree, told = RemoteTree(client, source.namespace), Shown()
                await tree.open(root, content)
                if is_terminal(sys.stdout):
                    monitor.leave_terminal()  # contents are no lines that bars could stay below
                for path in paths:
                    for entry in told.passing([find(tree.tree, path)]):
                        await tree.write_file(entry, sys.stdout.buffer.write)
                if text := told.tars_text():
                    console.warn(text)

    try:
        run(copy())
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        write_nowhere()


@click.command("diff", cls=Command, epilog=EXIT_HELP)
@click.option("--exit-code", is_flag=True, help="End with 1 when the trees differ.")
@flags.naming
@common
@click.argument("before", metavar="HASH")
@click.argument("after", metavar="HASH")
@click.pass_obj
def diff_command(console: Console, /, before: str, after: str, *, exit_code: bool, **given: Any) -> int:
    """Tell what the second tree has added (A), deleted (D) or changed (M); no content is fetched."""
    from isolate.remote_tree import differences

    one, other = (_opened(console, tree, **given) for tree in (before, after))
    if one.algorithm is not other.algorithm:
        raise click.UsageError(f"Hashes of {one.algorithm.name} and {other.algorithm.name} cannot be compared")
    numbers = itertools.count()
    changes = (_change_line(change) for change, _ in zip(differences(one, other), numbers, strict=False))
    _print(changes)
    differing = next(numbers)
    console.note(f"{counted_text(differing, 'path')} {'differs' if differing == 1 else 'differ'}")
    return EXIT_FAILED if differing and exit_code else 0


@click.command("fmt", cls=Command, epilog=EXIT_HELP)
@click.option("--check", is_flag=True, help="Name the files that are not in this form, and end with 1.")
@click.option("-w", "--write", is_flag=True, help="Rewrite the files instead of printing them.")
@summary_option
@version_option
@click.argument("files", nargs=-1, required=True, metavar="FILE... | -")
def fmt_command(files: tuple[str, ...], *, check: bool, write: bool) -> int:
    """Print .isolate files in their canonical form, comments kept; `-` is stdin."""
    from isolate.isolateformat import format_isolate
    from isolate.places import decoded

    if check and write:
        raise click.UsageError("Use one of --check and -w")
    differ = False
    for name in files:
        content = _read(name)
        formatted = format_isolate(decoded(content, name), name).encode("utf-8")
        if check and formatted != content:
            click.echo(os.fsencode(name))
            differ = True
        elif write and name != "-":
            if formatted != content:
                _rewrite(Path(name), formatted)
        elif not check:
            click.echo(formatted, nl=False)
    return EXIT_FAILED if differ else 0


ALL = (download_command, ls_command, cat_command, diff_command, fmt_command)


def _read(name: str) -> bytes:
    from isolate.places import MAX_BYTES

    if name == "-":
        return read_stdin(MAX_BYTES + 1, "the text")
    if os.path.exists(name) and not os.path.isfile(name):  # a pipe would be waited for
        raise InvalidIsolateFile(f"Cannot read {name!r}: it is not a file (hint: `-` is stdin)")
    with open(name, "rb") as file:
        return file.read(MAX_BYTES + 1)


def _rewrite(path: Path, content: bytes) -> None:
    """Replace a file, keeping its mode; of a link, the file it leads to."""
    from isolate.cas.files import atomic_file

    path = Path(os.path.realpath(path))
    with atomic_file(path, mode=path.stat().st_mode & 0o777) as file:
        file.write(content)


def _opened(console: Console, tree: str, **given: Any) -> Tree:
    """Return a tree with its manifest read."""
    from isolate.remote_tree import RemoteTree, client_for

    source, root, content = source_of(tree, **given)

    async def load() -> Tree:
        with console.watch() as monitor:
            async with client_for(source, monitor) as client:
                return await RemoteTree(client, source.namespace).open(root, content)

    return run(load())


def _change_line(change: Change) -> str:
    from isolate.remote_tree import shown

    letter = "A" if change.before is None else "D" if change.after is None else "M"
    return f"{letter} {shown(change.path)}"


def _print(lines: Iterable[str]) -> None:
    """Print lines to stdout, which may stop listening."""
    try:
        for line in lines:
            sys.stdout.buffer.write(os.fsencode(line) + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        write_nowhere()
