"""Trees on this disk for a while or for good: one of a server downloaded, a selected one run in a directory of its own.

Knows no command line. The invariants: a downloaded tree is seen whole or not at all; the directory of a run is gone
when the run is over.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp

from isolate.cas.cache import CachePolicy, LocalCache
from isolate.clock import SystemClock
from isolate.errors import InvalidInput, InvalidManifest
from isolate.fetch import fetch
from isolate.hands import Remote, open_target
from isolate.monitor import Monitor
from isolate.parts import Tree
from isolate.recreate import Failure, recreate
from isolate.scan import Found
from isolate.staging import staging
from run_isolated.command import absolute, resolve
from run_isolated.deletion import delete_tree
from run_isolated.mapper import How, apply
from run_isolated.plans import Plans

Telling = Callable[[Callable[[], None]], AbstractContextManager[None]]


async def download_tree(
    source: Remote, root: str, content: bytes | None, target: Path, folder: Path, policy: CachePolicy, monitor: Monitor
) -> Tree:
    """Bring the tree `root` to `target`, a directory that is new or empty; `content` is its manifest if known."""
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise InvalidInput(f"{str(target)!r} exists and is not an empty directory")
    clock = SystemClock()
    async with open_target(source, clock, monitor) as store:
        with LocalCache.open(folder, source.namespace, policy, clock, monitor) as cache:
            if content is not None:
                cache.add([(source.namespace.blob(content), content)])
            try:
                fetched = await fetch(store, cache, root, monitor)
            except InvalidManifest as error:
                raise InvalidManifest(f"{root} is not the hash of a tree: {error}") from error
            with fetched.pin, _beside(target, monitor) as beside:
                # Nothing is visible before it is whole; taking the place of an empty directory is one step, too.
                apply(Plans(fetched.tree), cache, beside / "tree", How.COPY)
                os.rename(beside / "tree", target)
            cache.trim()
    return fetched.tree


@contextmanager
def _beside(target: Path, monitor: Monitor) -> Iterator[Path]:
    """Give a directory beside `target`; raises Failure."""
    with ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = stack.enter_context(staging(target.parent, target.name, monitor))
        except OSError as error:
            raise Failure(f"Cannot write to {str(target)!r}: {error.strerror}") from error
        yield beside


def run_selected(
    entries: Iterable[Found],
    root: str,
    relative_cwd: str,
    command: Sequence[str],
    *,
    link: bool,
    day: str,
    path: str,
    telling: Telling,
) -> int:
    """Run `command` in a copy of the tree, made beside `root`; returns its exit status, negative for a signal.

    `path` is where programs are looked for; while the command runs, `telling` calls what it is given when we are to
    end, instead of interrupting us. Raises Failure.
    """
    if not command:
        raise Failure("Execution failure: No command to run.")
    outdir = Path(mkdtemp(prefix=f"isolate-{day}", dir=os.path.dirname(root.rstrip("/")) or "/"))
    try:
        recreate(entries, root, outdir, link=link)
        cwd = outdir / relative_cwd
        cwd.mkdir(parents=True, exist_ok=True)
        return _run(resolve(command, cwd, path), cwd, telling)
    finally:
        delete_tree(outdir)


def _run(argv: Sequence[str], cwd: Path, telling: Telling) -> int:
    program = absolute(argv[0], cwd)
    sys.stdout.flush()
    child: subprocess.Popen[bytes] | None = None
    is_ending = False

    def end() -> None:
        nonlocal is_ending
        is_ending = True
        if child is not None:
            child.terminate()

    with telling(end):
        try:
            child = subprocess.Popen(argv, cwd=cwd, executable=program)
        except OSError as error:
            raise Failure(f"Cannot run {program!r}: {error.strerror}") from error
        if is_ending:  # since before there was anybody to tell
            child.terminate()
        with child:
            return child.wait()
