"""What is measured: trees, copied to the disk of the scratch folder, so that all read and write the same disk; a file.

The large file is random in every other MiB, and one line again and again in between.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.place import Size
from bench.tree import copy_of, generate
from isolate.errors import InvalidInput

MIB = 1 << 20
LARGE = "blob.bin"


@dataclass(frozen=True, slots=True)
class Subject:
    """A tree, or the folder that a row fills itself: then nothing is said about it."""

    name: str
    path: Path
    files: int = 0
    size_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.name}: {self.files:,} files, {self.size_bytes / 1e6:,.0f} MB" if self.files else self.name


def check_tree(tree: Path) -> None:
    """Raise InvalidInput if there is nothing in a tree that could be measured."""
    if not any(
        os.path.isfile(path) and not os.path.islink(path)
        for folder, _, names in os.walk(tree)
        for path in (os.path.join(folder, name) for name in names)
    ):
        raise InvalidInput(f"There is no file in {tree}: name a tree that has some")


def prepared(scratch: Path, trees: tuple[Path, ...], size: Size) -> Iterator[Subject]:
    """Yield the trees to measure; if none is named, a generated one and the library of this Python."""
    if not trees:
        path = scratch / "generated"
        generate(path, size.tree_files)
        yield _counted("generated", path)
    for number, tree in enumerate(trees or [Path(sysconfig.get_path("stdlib"))]):
        path = scratch / f"tree-{number}"
        copy_of(tree, path, leave_out=() if trees else ("site-packages",))
        yield _counted(str(tree) if trees else "library of Python", path)


def large_file(scratch: Path, size: Size) -> Path:
    """Return a folder with one file, made now."""
    folder = scratch / "large"
    folder.mkdir(parents=True)
    with (folder / LARGE).open("wb") as file:
        for _ in range(size.large_bytes // (2 * MIB)):
            file.write(os.urandom(MIB))
            file.write(b"0123456789abcdef" * (MIB // 16))
    return folder


def _counted(name: str, path: Path) -> Subject:
    files = [entry for entry in path.rglob("*") if entry.is_file() and not entry.is_symlink()]
    return Subject(name, path, len(files), sum(entry.stat().st_size for entry in files))
