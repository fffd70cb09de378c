"""The folder that shows people where each named cache is: `named/<name>`, a link to it.

Knows no list and no lock: it is told what there is. A command that runs as our user can put anything there, or in the
place of the folder. The invariant: the folder is opened as what it is and never through a link, so nothing outside of
it is written, or deleted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from run_isolated.deletion import delete_tree
from run_isolated.moving import is_directory

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class NamedLinks:
    """The folder at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def show(self, name: str, directory: str) -> None:
        """Say where the cache `name` is; one whose name is longer than a file's may be is not shown."""
        with suppress(OSError):
            with suppress(FileExistsError):
                os.mkdir(self._path)
            if not is_directory(self._path):
                os.unlink(self._path)
                os.mkdir(self._path)
            with self._opened() as folder:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
                os.symlink(f"../{directory}", name, dir_fd=folder)

    def hide(self, name: str) -> None:
        """Remove the link of the cache `name`, if there is one."""
        with suppress(OSError), self._opened() as folder:
            os.unlink(name, dir_fd=folder)

    def prune(self, directories: Mapping[str, str]) -> None:
        """Delete all but right links to these `directories` of caches; raises OSError, InternalFailure."""
        if not is_directory(self._path):
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            return
        with self._opened() as folder:
            for name in os.listdir(folder):
                if name not in directories or not _leads(name, folder, f"../{directories[name]}"):
                    _delete(name, folder)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        folder = os.open(self._path, _FOLDER)
        try:
            yield folder
        finally:
            os.close(folder)


def _leads(name: str, folder: int, target: str) -> bool:
    try:
        return os.readlink(name, dir_fd=folder) == target
    except OSError:
        return False


def _delete(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):  # the second is what some systems say of directories
        delete_tree(Path(f"/proc/self/fd/{folder}", name))
