"""Trees as dict literals: write one to disk, read one back, compare with `==`.

`{"bin": {"x": Executable(b"...")}, "lnk": Link("bin/x"), "a.txt": b"hello", "empty": {}}`: bytes are a plain file, a
dict is a directory (also an empty one). Names may hold surrogate-escaped bytes. Of a file's mode only the executable
bit of its owner is kept, because that is what an archive promises.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, Union


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link and what it says, verbatim."""

    target: str


@dataclass(frozen=True, slots=True)
class Executable:
    """A file that may be executed."""

    content: bytes


Node: TypeAlias = Union[bytes, Link, Executable, "Tree"]
Tree: TypeAlias = dict[str, Node]


def write_tree(root: Path, tree: Tree) -> Path:
    """Create `tree` at `root`, which may exist; returns `root`."""
    root.mkdir(parents=True, exist_ok=True)
    for name, node in tree.items():
        path = root / name
        match node:
            case dict():
                write_tree(path, node)
            case Link(target):
                path.symlink_to(target)
            case Executable(content):
                path.write_bytes(content)
                path.chmod(0o755)
            case _:
                path.write_bytes(node)
    return root


def read_tree(root: Path) -> Tree:
    """Return what is at `root`, without following links."""
    return {entry.name: _node(Path(entry.path)) for entry in sorted(os.scandir(root), key=lambda entry: entry.name)}


def _node(path: Path) -> Node:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return Link(os.readlink(path))
    if stat.S_ISDIR(mode):
        return read_tree(path)
    assert stat.S_ISREG(mode), f"{path} is no file, directory or link"
    content = path.read_bytes()
    return Executable(content) if mode & stat.S_IXUSR else content


def flatten(tree: Tree, prefix: str = "") -> dict[str, bytes | Link | Executable]:
    """Return the files and links of `tree` by their path; empty directories contribute nothing."""
    flat: dict[str, bytes | Link | Executable] = {}
    for name, node in tree.items():
        if isinstance(node, dict):
            flat |= flatten(node, f"{prefix}{name}/")
        else:
            flat[prefix + name] = node
    return flat
