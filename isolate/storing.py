"""Several things to archive, one after the other: directories, files and selections.

Knows no terminal. The invariant: what is reported as stored is in the store as a whole.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from isolate.archive import ArchiveOptions, archive_file, archive_tree
from isolate.archived import Archived
from isolate.errors import (
    InvalidInput,
    NoSpace,
    NotFound,
    Refused,
    Rejected,
    Unavailable,
    Unreadable,
    UploadCorrupt,
    UploadFailed,
)
from isolate.hands import Target
from isolate.monitor import Monitor
from isolate.progress import counted_text, ratio_text

# What only the server or the way to it can be blamed for.
_UPLOAD_ERRORS = (Unavailable, Refused, Rejected, NoSpace, NotFound, UploadCorrupt)


async def store_paths(
    paths: Sequence[str],
    target: Target,
    options: ArchiveOptions,
    monitor: Monitor,
    stored: Callable[[str, Archived], object],
) -> None:
    """Archive each path and tell `stored`; all of them are looked at before the first is archived."""
    for path in paths:
        if not _is_directory(path) and options.subdir:
            raise InvalidInput(f"--subdir keeps a part of a directory, and {path} is a file")
    for path in paths:
        archive = archive_tree if os.path.isdir(path) else archive_file
        archived = await archive(Path(path), target, options, monitor)
        if options.subdir and not archived.files:
            monitor.problem(f"Nothing in {path} begins with {options.subdir!r}")
        stored(path, archived)


def _is_directory(path: str) -> bool:
    """Say whether `path` is a directory or else a file; raises InvalidInput for what is neither, Unreadable."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        mode = 0
    except OSError as error:
        raise Unreadable(f"Cannot read {path!r}: {error.strerror}") from error
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise InvalidInput(f"{path or repr(path)} is neither a file nor a directory")
    return stat.S_ISDIR(mode)


@contextmanager
def upload_errors() -> Iterator[None]:
    """Let what the server is to blame for end as a failed upload."""
    try:
        yield
    except _UPLOAD_ERRORS as error:
        raise UploadFailed(str(error)) from error


def summary(archived: Archived) -> str:
    """Return in a few words what archiving something took."""
    content_bytes = archived.uploaded_bytes - archived.uploaded_manifest_bytes
    whole = f"{counted_text(archived.files, 'file')} of {counted_text(archived.size_bytes, 'byte')}"
    contents = archived.uploaded_blobs - archived.uploaded_manifests
    uploaded = f"{contents:,} uploaded ({counted_text(content_bytes, 'byte')})"
    manifest = f"; manifest of {counted_text(archived.uploaded_manifest_bytes, 'byte')}"
    told = f"{whole}; {uploaded}, dedup {ratio_text(archived.size_bytes, content_bytes)}"
    return told + manifest if archived.uploaded_manifests else told
