"""What figures depend on: the machine, the disk, the versions."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from isolate import __version__

KIB = 1024


def machine(folder: Path) -> dict[str, object]:
    """Return what figures depend on; `folder` is where files are written."""
    return {
        "product": f"isolate {__version__} ({_commit()})",
        "cores": len(os.sched_getaffinity(0)),
        "processor": _first("/proc/cpuinfo", "model name"),
        "memory": f"{int(_first('/proc/meminfo', 'MemTotal').split()[0]) * KIB / 1e9:.0f} GB",
        "file system": _file_system(folder.resolve()),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _first(path: str, key: str) -> str:
    lines = Path(path).read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "0")


def _commit() -> str:
    argv = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip() or "no checkout"


def _file_system(folder: Path) -> str:
    """Return what kind of file system a folder is on."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    around = [(where, kind) for where, kind in mounts if folder.is_relative_to(where)]
    return max(around, key=lambda mount: len(mount[0]))[1]
