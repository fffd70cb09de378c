"""Files on their way into a local cache: written, and handed to the shelf for listing.

Knows no policy but room: what is written was verified by the caller, or is while it is written. The invariant: when a
call returns, its files are listed; when it raises, nothing of it is left that is not.

A small file is written straight to where it belongs, since naming it twice costs as much as making it: nobody uses a
file that is not listed, so nobody sees a part of it. Where there is one already, it is staged and replaces that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from isolate.cas.cache_files import (
    BlobWriter,
    Content,
    FileWriter,
    Staged,
    create,
    discard,
    key_of,
    stage,
    stage_copy,
    translated,
)
from isolate.cas.cache_shelf import Shelf
from isolate.cas.digest import Algorithm, Blob
from isolate.cas.lru import Usage


class Filling:
    """What brings files into one cache."""

    def __init__(self, root: Path, shelf: Shelf, algorithm: Algorithm, temporary: Callable[[], str]) -> None:
        """`temporary` returns a path for a new file on the file system of the cache."""
        self._root, self._shelf, self._files = root, shelf, shelf.files
        self._algorithm, self._temporary = algorithm, temporary

    def add(self, contents: Sequence[tuple[Blob, Content]]) -> None:
        """Keep plain files, in one transaction as a rule; raises NoSpace."""
        wanted = {key_of(self._algorithm, blob.digest): content for blob, content in contents if blob.size}
        with translated(self._root):
            self._shelf.make_room(Usage(len(wanted), sum(len(content) for content in wanted.values())))
            if taken := self._create(wanted):
                self._replace(taken)

    def _create(self, contents: Mapping[bytes, Content]) -> dict[bytes, Content]:
        """Write files to their places; returns those whose place is taken, or that were swept away too early."""
        created: list[Staged] = []
        try:
            for key, content in contents.items():
                file = create(self._files.path(key), key, content)
                if file is not None:
                    created.append(file)
        except BaseException:
            self._shelf.abandon([file.key for file in created])
            raise
        listed = self._shelf.adopt(created)
        return {key: content for key, content in contents.items() if key not in listed}

    def _replace(self, contents: Mapping[bytes, Content]) -> None:
        staged: list[Staged] = []
        try:
            for key, content in contents.items():
                staged.append(stage(self._temporary(), key, content))
            self._shelf.place(staged)
        finally:
            for file in staged:
                discard(file.temporary)

    def writer(self, blob: Blob) -> BlobWriter:
        """Return a writer for one large blob; nothing is left of it unless it is committed."""
        with translated(self._root):
            self._shelf.make_room(Usage(1, blob.size))
            file = FileWriter(self._temporary(), key_of(self._algorithm, blob.digest), self._algorithm, blob)
        return BlobWriter(self._root, file, self._shelf.place)

    def copy_executable(self, blobs: Sequence[Blob]) -> None:
        """Make the executable variants of blobs from the plain ones, in one transaction, verifying them on the way.

        Raises FileNotFoundError and BlobCorrupt with what was wrong.
        """
        self._shelf.make_room(Usage(len(blobs), sum(blob.size for blob in blobs)))
        staged: list[Staged] = []
        try:
            for blob in blobs:
                plain = self._files.path(key_of(self._algorithm, blob.digest))
                key = key_of(self._algorithm, blob.digest, executable=True)
                staged.append(stage_copy(plain, self._temporary(), key, self._algorithm))
            self._shelf.place(staged)
        finally:
            for file in staged:
                discard(file.temporary)
