"""Where a run keeps things when nobody says so, also on a machine whose home is of no use.

Knows no flag and no run. The invariant: a directory for temporary files is taken only if it is ours alone, so nobody
else can have put anything into it, nor a link in its place.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from isolate.errors import InternalFailure

_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - what is made there is checked
_PRIVATE = 0o700


def usable(folder: Path, environment: Mapping[str, str]) -> tuple[Path, str]:
    """Return `folder` if it can be written to, else one for temporary files, and why; raises InternalFailure."""
    try:
        if not folder.is_absolute():
            raise FileNotFoundError(0, "There is no home")  # nor an entry of the user
        os.makedirs(folder, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder, ""
        reason = "Read-only"
    except OSError as error:
        reason = error.strerror or str(error)
    for parent in (environment.get("TMPDIR", ""), *_TEMPORARY):
        place = Path(parent, f"{folder.name}-{os.geteuid()}")
        if place.is_absolute() and _is_ours(place):
            return (
                place,
                f"Cannot write to {str(folder)!r} ({reason}): caches and work directories are in {str(place)!r}",
            )
    raise InternalFailure(f"Cannot make a work directory in {str(folder)!r} ({reason}), nor below TMPDIR: name one")


def _is_ours(place: Path) -> bool:
    """Make a directory, or see that the one which is there has always been ours alone."""
    try:
        with suppress(FileExistsError):
            os.mkdir(place, _PRIVATE)
        status = os.lstat(place)
    except OSError:
        return False
    mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return mine and stat.S_IMODE(status.st_mode) == _PRIVATE and os.access(place, os.W_OK | os.X_OK)
