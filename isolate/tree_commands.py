"""The commands of `isolate` that look at a tree by its hash, or at the text of a .isolate: `download ls cat diff fmt`.

A root beside `cli`, which adds them to its group. Everything heavy is imported inside functions.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from isolate import __version__, errors, flags
from isolate.commands import Command
from isolate.terminal import EXIT_FAILED, EXIT_HELP, Console, log_options, summary_option, version_option

if TYPE_CHECKING:
    from isolate.hands import Remote
    from isolate.isolated import Manifest
    from isolate.remote_tree import Change

Result = TypeVar("Result")

USER_AGENT = f"isolate/{__version__}"
MAX_CACHE_AGE_S = 21 * 86_400  # of the cache that `download` fills; as in 2020

common = flags.all_of(summary_option, log_options, version_option)


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run what needs an event loop."""
    import asyncio

    return asyncio.run(coroutine)


def required(server: str | None) -> str:
    """Return the server; raises UsageError when none is given."""
    if not server:
        raise click.UsageError("--isolate-server is required (or set ISOLATE_SERVER)")
    return server


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
    from isolate.remote_tree import below, long_line, shown

    entries = below(_manifest(console, tree, **given), paths)
    _print(map(long_line, entries) if long else (shown(entry.path) for entry in entries))
    console.note(f"{len(entries)} entries of {sum(entry.blob.size for entry in entries if entry.blob)} bytes")


@click.command("cat", cls=Command, epilog=EXIT_HELP)
@flags.naming
@common
@click.argument("tree", metavar="HASH")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.pass_obj
def cat_command(console: Console, /, tree: str, paths: tuple[str, ...], **given: Any) -> None:
    """Print files of a tree, links followed."""
    from isolate.remote_tree import RemoteTree, client_for

    source, root, content = _source(tree, **given)

    async def copy() -> None:
        with console.watch() as monitor:
            async with client_for(source, monitor) as client:
                tree = RemoteTree(client, source.namespace)
                await tree.open(root, content)
                for path in paths:
                    await tree.write_file(path, sys.stdout.buffer.write)

    try:
        run(copy())
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        _close_stdout()


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

    one, other = (_manifest(console, tree, **given) for tree in (before, after))
    if one.algorithm is not other.algorithm:
        raise click.UsageError(f"Hashes of {one.algorithm.name} and {other.algorithm.name} cannot be compared")
    changes = list(differences(one, other))
    _print(map(_change_line, changes))
    console.note(f"{len(changes)} paths differ")
    return EXIT_FAILED if changes and exit_code else 0


@click.command("fmt", cls=Command, epilog=EXIT_HELP)
@click.option("--check", is_flag=True, help="Name the files that are not in this form, and end with 1.")
@click.option("-w", "--write", is_flag=True, help="Rewrite the files instead of printing them.")
@summary_option
@version_option
@click.argument("files", nargs=-1, required=True, metavar="FILE... | -")
def fmt_command(files: tuple[str, ...], *, check: bool, write: bool) -> int:
    """Print .isolate files in their canonical form, comments kept; `-` is stdin."""
    from isolate.isolateformat import format_isolate

    if check and write:
        raise click.UsageError("Use one of --check and -w")
    differ = False
    for name in files:
        content = _read(name)
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise errors.InvalidIsolateFile(f"{name}: not UTF-8 text") from error
        formatted = format_isolate(text, name).encode("utf-8")
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
    from isolate.isolatesyntax import MAX_TEXT

    if name == "-":
        return sys.stdin.buffer.read(MAX_TEXT + 1)
    with open(name, "rb") as file:
        return file.read(MAX_TEXT + 1)


def _rewrite(path: Path, content: bytes) -> None:
    """Replace a file, keeping its mode; of a link, the file it leads to."""
    from isolate.cas.files import atomic_file

    path = path.resolve()
    with atomic_file(path, mode=path.stat().st_mode & 0o777) as file:
        file.write(content)


def _source(tree: str, *, server: str | None, namespace: str | None) -> tuple[Remote, bytes, bytes | None]:
    """Return where the tree is, its digest, and its manifest if `tree` is a local .isolated."""
    from isolate.cas.digest import DEFAULT_NAMESPACE, Namespace
    from isolate.hands import Remote
    from isolate.urls import normalize_url

    url = normalize_url(required(server))
    content = Path(tree).read_bytes() if os.path.isfile(tree) else None
    if namespace is not None:
        space = Namespace.named(namespace)
    elif content is None:
        space = Namespace.of_hash(tree)
    else:
        space = Namespace.parse(
            {"sha-1": "default-gzip", "sha-256": "sha256-deflate", "sha-512": "sha512-deflate"}.get(
                _algorithm_of(content), DEFAULT_NAMESPACE
            )
        )
    root = space.algorithm.parse_hex(tree.lower()) if content is None else space.blob(content).digest
    return Remote(url, space, USER_AGENT), root, content


def _algorithm_of(content: bytes) -> str:
    """Return what a manifest says of its hashes; a wrong one is found when it is loaded."""
    import json

    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    return str(record.get("algo", "sha-1")) if isinstance(record, dict) else ""


def _manifest(console: Console, tree: str, **given: Any) -> Manifest:
    """Return the manifest of a tree with its includes merged."""
    from isolate.remote_tree import RemoteTree, client_for

    source, root, content = _source(tree, **given)

    async def load() -> Manifest:
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
        _close_stdout()


def _close_stdout() -> None:
    # What is left in the buffer would fail once more when the interpreter ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fetch(
    console: Console,
    *,
    isolated: str | None,
    files: tuple[tuple[str, str], ...],
    target: Path,
    cache: str | None,
    max_bytes: int,
    min_free_bytes: int,
    max_items: int,
    use_symlinks: bool,
    **given: Any,
) -> Manifest | None:
    """Bring a tree or files to `target`; returns the manifest of a tree."""
    from tempfile import TemporaryDirectory

    from isolate import config
    from isolate.cas.cache import CachePolicy
    from isolate.checkout import download_tree
    from isolate.download import download_files
    from isolate.paths import RelPath

    if (isolated is None) == (not files):
        raise click.UsageError("Use one of -s HASH and -f HASH DEST")
    if use_symlinks and not cache:
        raise click.UsageError("--use-symlinks requires a --cache")
    source, root, content = _source(isolated or files[0][0], **given)
    if isolated is None:
        parse = source.namespace.algorithm.parse_hex
        wanted = {target / RelPath(destination): parse(digest) for digest, destination in files}
        with console.watch() as monitor:
            run(download_files(source, wanted, monitor))
        return None
    policy = CachePolicy(
        max_bytes=max_bytes, max_items=max_items, min_free_bytes=min_free_bytes, max_age_s=MAX_CACHE_AGE_S
    )
    with console.watch() as monitor, TemporaryDirectory(prefix="isolate-cache-") as none:
        folder = Path(none if cache == "" else cache or config.load().blob_cache)
        return run(download_tree(source, root.hex(), content, target, folder, policy, monitor))
