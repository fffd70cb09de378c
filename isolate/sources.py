"""Where a command finds its tree: the server, the namespace and the hash that its flags mean; and how it is fetched.

A root beside `tree_commands` and `steps`, which share it. Everything heavy is imported inside functions.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from isolate import __version__, ending
from isolate.bars import showing
from isolate.progress import fetched_line
from isolate.terminal import Console, TerminalMonitor

if TYPE_CHECKING:
    from isolate.hands import Remote
    from isolate.parts import Tree

Result = TypeVar("Result")

USER_AGENT = f"isolate/{__version__}"
MAX_CACHE_AGE_S = 21 * 86_400  # of the cache that `download` fills; as in 2020
REMAINING_S = 30.0  # between two lines that say how much is left, where no bar is drawn; as in 2020
_HASH = re.compile(r"(?:[0-9a-fA-F]{40}|[0-9a-fA-F]{64}|[0-9a-fA-F]{128})")


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run what needs an event loop."""
    with ending.put_off():
        import asyncio

    return asyncio.run(coroutine)


def required(server: str | None) -> str:
    """Return the server; raises UsageError when none is given."""
    if not server:
        raise click.UsageError("--isolate-server is required (or set ISOLATE_SERVER)")
    return server


def source_of(tree: str, *, server: str | None, namespace: str | None) -> tuple[Remote, bytes, bytes | None]:
    """Return where the tree is, its digest, and its manifest if `tree` is a local .isolated."""
    with ending.put_off():
        from isolate.cas.digest import DEFAULT_NAMESPACE, Namespace
        from isolate.hands import Remote
        from isolate.urls import normalize_url

    url = normalize_url(required(server))
    content = None if _is_hash(tree) or not os.path.isfile(tree) else Path(tree).read_bytes()
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
    with ending.put_off():
        import json

    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    return str(record.get("algo", "sha-1")) if isinstance(record, dict) else ""


def _is_hash(text: str) -> bool:
    """Say whether `text` is spelt as a hash is, which goes before any file of that name."""
    return _HASH.fullmatch(text) is not None


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
) -> Tree | None:
    """Bring a tree or files to `target`; returns the tree, if it is one."""
    with ending.put_off():
        from isolate.cas.cache import CachePolicy
        from isolate.checkout import download_tree
        from isolate.download import download_files
        from isolate.paths import RelPath

    if (isolated is None) == (not files):
        raise click.UsageError("Use one of -s HASH and -f HASH DEST")
    if use_symlinks and cache == "":
        raise click.UsageError("--use-symlinks requires a --cache that is kept")
    source, root, content = source_of(isolated or files[0][0], **given)
    if isolated is None:
        parse = source.namespace.algorithm.parse_hex
        wanted = {target / RelPath(destination): parse(digest) for digest, destination in files}
        with console.watch() as monitor, _remaining(console, monitor):
            run(download_files(source, wanted, monitor))
        return None
    policy = CachePolicy(
        max_bytes=max_bytes, max_items=max_items, min_free_bytes=min_free_bytes, max_age_s=MAX_CACHE_AGE_S
    )
    with console.watch() as monitor, _remaining(console, monitor), _cache_folder(cache, monitor) as folder:
        started_s = time.monotonic()
        tree = run(download_tree(source, root.hex(), content, target, folder, policy, monitor))
        console.note(fetched_line(monitor.snapshot(), time.monotonic() - started_s))
        return tree


@contextmanager
def _cache_folder(cache: str | None, monitor: TerminalMonitor) -> Iterator[Path]:
    """Give the folder that `--cache` means.

    One for `''` is made now and gone afterwards; if we are killed, with the next one.
    """
    with ending.put_off():
        from isolate import config

    if cache != "":
        yield Path(cache or config.load().blob_cache)
        return
    with ending.put_off():
        from tempfile import gettempdir

    with ending.put_off():
        from isolate.staging import staging

    with staging(Path(gettempdir()), "isolate-cache", monitor) as folder:
        yield folder


def _remaining(console: Console, monitor: TerminalMonitor) -> AbstractContextManager[None]:
    """Say how much is left in the words of 2020, where scripts of 2020 look for them."""
    return remaining(monitor) if console.program == "isolateserver" and not sys.stderr.isatty() else nullcontext()


@contextmanager
def remaining(monitor: TerminalMonitor, every_s: float = REMAINING_S) -> Iterator[None]:
    """Say on stderr how many files are left, from time to time."""
    over = threading.Event()

    def tell() -> None:
        while not over.wait(every_s):
            left = monitor.outlook().get("fetched_blobs", 0) - monitor.snapshot().get("fetched_blobs", 0)
            if left > 0:
                click.echo(f"{left} files remaining...", err=True)

    telling = showing(tell)
    try:
        yield
    finally:
        over.set()
        if telling is not None:
            telling.join()
