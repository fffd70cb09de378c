"""Several things to archive, one after the other: directories, files and selections.

Knows no terminal. The invariant: what is reported as stored is in the store as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from isolate.archive import Archived, ArchiveOptions, archive_file, archive_tree
from isolate.errors import (
    InvalidInput,
    NoSpace,
    NotFound,
    Refused,
    Unavailable,
    UploadCorrupt,
    UploadFailed,
)
from isolate.hands import Target
from isolate.monitor import Monitor
from isolate.progress import ratio_text

# What only the server or the way to it can be blamed for.
_UPLOAD_ERRORS = (Unavailable, Refused, NoSpace, NotFound, UploadCorrupt)


async def store_paths(
    paths: Sequence[str],
    target: Target,
    options: ArchiveOptions,
    monitor: Monitor,
    stored: Callable[[str, Archived], object],
) -> None:
    """Archive each path and tell `stored`; all of them are looked at before the first is archived."""
    for path in paths:
        if not (os.path.isdir(path) or os.path.isfile(path)):
            raise InvalidInput(f"{path} is neither a file nor a directory")
        if options.subdir and not os.path.isdir(path):
            raise InvalidInput(f"--subdir keeps a part of a directory, and {path} is a file")
    for path in paths:
        archive = archive_tree if os.path.isdir(path) else archive_file
        archived = await archive(Path(path), target, options, monitor)
        if options.subdir and not archived.files:
            monitor.problem(f"Nothing in {path} begins with {options.subdir!r}")
        stored(path, archived)


@contextmanager
def upload_errors() -> Iterator[None]:
    """Let what the server is to blame for end as a failed upload."""
    try:
        yield
    except _UPLOAD_ERRORS as error:
        raise UploadFailed(str(error)) from error


def summary(archived: Archived) -> str:
    """Return in a few words what archiving something took."""
    uploaded = f"{archived.uploaded_blobs} uploaded ({archived.uploaded_bytes} bytes)"
    dedup = ratio_text(archived.size_bytes, archived.uploaded_bytes)
    return f"{archived.files} files of {archived.size_bytes} bytes; {uploaded}, dedup {dedup}"
