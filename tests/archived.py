"""Trees and manifests of a test, archived to a real server."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from isolate.archive import ArchiveOptions, Remote, archive_file, archive_tree
from isolate.cas.digest import Namespace
from isolate.isolated import Manifest, dumps, loads
from isolate.monitor import NullMonitor
from tests.trees import Tree, write_tree

OURS = Namespace.parse("blake3-zstd")


async def archived(url: str, root: Path, tree: Tree, namespace: Namespace = OURS, **what: Any) -> str:
    """Store `tree`, written below `root`, with a command or what else a manifest says; return its hash."""
    source = write_tree(_unused(root, "source"), tree)
    found = await archive_tree(source, Remote(url, namespace, "tests"), ArchiveOptions(), NullMonitor())
    return await stored(url, root, replace(loads(found.manifest, namespace), **what), namespace) if what else found.hash


async def stored(url: str, root: Path, manifest: Manifest, namespace: Namespace = OURS) -> str:
    """Store a manifest, written below `root`; return its hash."""
    path = _unused(root, "manifest")
    path.write_bytes(dumps(manifest))
    return (await archive_file(path, Remote(url, namespace, "tests"), ArchiveOptions(), NullMonitor())).hash


def _unused(root: Path, name: str) -> Path:
    return root / f"{name}-{len(os.listdir(root)) if root.exists() else 0}"
