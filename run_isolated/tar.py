"""Tar entries of manifests of 2020: many small files in one blob.

Knows no cache and no manifest. The invariant: only plain files are made, only below the directory given, and none in
the place of another; directories are made, links never, so no member can be written through one.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

from isolate.entries import MAX_PATH_BYTES, MAX_PATH_PARTS
from isolate.errors import InvalidManifest, InvalidPath
from isolate.paths import RelPath

_COPY_BYTES = 1 << 20
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def extract(archive: Path, root: Path, directory: str) -> int:
    """Extract the plain files of an uncompressed tar into `directory` of the tree at `root`; returns how many.

    `root` holds no links yet. Members that are no plain files are skipped, as 2020 does; one that would leave the
    directory is refused, as 2020 does not. Raises InvalidManifest.
    """
    extracted = 0
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if member.isreg() and not member.issparse():
                    _extract(tar, member, _place(root, directory, member.name))
                    extracted += 1
    except (tarfile.TarError, ValueError, EOFError, OverflowError) as error:
        raise InvalidManifest(f"Not a tar archive: {archive.name}: {error}") from error
    return extracted


def _place(root: Path, directory: str, name: str) -> str:
    path = name.replace("\\", "/")
    if len(path) > MAX_PATH_BYTES or path.count("/") >= MAX_PATH_PARTS:
        raise InvalidManifest(f"Tar member {name[:80]!r}… is too long or too deep")
    try:
        return os.path.join(root, directory, RelPath(path))
    except InvalidPath as error:
        raise InvalidManifest(f"Tar member would leave its directory: {error}") from error


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    content = tar.extractfile(member)
    assert content is not None  # it is a plain file
    descriptor = os.open(path, _CREATE, member.mode & 0o700)
    with content, os.fdopen(descriptor, "wb") as file:
        while piece := content.read(_COPY_BYTES):
            file.write(piece)
