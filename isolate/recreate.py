"""What a `.isolate` selects -> the same tree somewhere else on this disk, to look at it or to run its command there.

Knows no store and no digests: contents come from where they are. The invariant: nothing is written outside of the new
directory, and through no link in it.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from isolate.entries import Kind
from isolate.errors import InvalidInput, IsolateError, Unreadable
from isolate.paths import RelPath
from isolate.scan import Found


class Failure(IsolateError):
    """A tree cannot be recreated or its command not be run."""


def empty_directory(path: Path) -> Path:
    """Make the directory `path` unless it is there and empty; raises Failure."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise Failure("Execution failure: Can't remap in a non-empty directory")
    except OSError as error:
        raise Failure(f"Execution failure: Can't remap into {str(path)!r}: {error.strerror}") from error
    return path.absolute()


def saved_entries(root: str, files: Mapping[str, str | None]) -> Iterator[Found]:
    """Yield the entries that a state names; raises InvalidInput for a path that leads out, Failure for a lost file."""
    for path in sorted(files):
        RelPath(path)
        target, absolute = files[path], posixpath.join(root, path)
        if target is not None:
            yield Found(path, Kind.LINK, target=target)
            continue
        try:
            yield Found(path, Kind.FILE, os.stat(absolute).st_mode)
        except FileNotFoundError as error:
            raise Failure(f"{absolute} is missing") from error


def recreate(entries: Iterable[Found], root: str, outdir: Path, *, link: bool) -> int:
    """Make `entries`, relative to `root`, below `outdir`; by hard links if `link` and the disk allows it.

    Returns how many files there are. Raises InvalidInput, Unreadable.
    """
    files, links = 0, []
    made = {""}
    for entry in entries:
        if entry.kind is Kind.LINK:
            links.append(entry)
            continue
        destination = os.path.join(outdir, entry.path)
        folder = entry.path if entry.kind is Kind.DIR else posixpath.dirname(entry.path)
        if folder not in made:
            os.makedirs(os.path.join(outdir, folder), exist_ok=True)
            made.add(folder)
        if entry.kind is Kind.FILE:
            _place(entry.source or posixpath.join(root, entry.path), destination, entry.st_mode, link=link)
            files += 1
    # Links come last: by then nothing is written through one any more.
    names = {entry.path for entry in links}
    for entry in links:
        above = next((parent for parent in RelPath(entry.path).parents if parent in names), None)
        if above is not None:
            raise InvalidInput(f"{entry.path!r} lies below {above!r}, which is a link")
        assert entry.target is not None, "a link has a target"
        destination = os.path.join(outdir, entry.path)
        os.makedirs(os.path.dirname(destination), exist_ok=True)
        try:
            os.symlink(entry.target, destination)
        except FileExistsError as error:
            raise InvalidInput(f"{entry.path!r} is a link and a file") from error
    return files + len(links)


def _place(source: str, destination: str, st_mode: int, *, link: bool) -> None:
    if link:
        try:
            os.link(source, destination)
        except OSError:  # another disk, too many links, or not allowed: a copy does as well
            pass
        else:
            return
    try:
        shutil.copyfile(source, destination)
        os.chmod(destination, stat.S_IMODE(st_mode) | stat.S_IRUSR)
    except OSError as error:
        raise Unreadable(f"Cannot copy {source!r}: {error.strerror}") from error
