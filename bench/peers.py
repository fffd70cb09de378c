"""What a user would pick instead, with settings that compare: local repositories, fast zstd where there is a choice.

Nothing here measures; each function returns the command, its environment, or both. A peer that is not installed is left
out by `installed`, and `versions` says so.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from bench.measure import Contestant, Sample, run
from bench.place import Place

# What is asked for its version, and how; the name of the program comes first.
PROGRAMS: dict[str, tuple[str, ...]] = {
    "restic": ("restic", "version"),
    "borg": ("borg", "--version"),
    "ostree": ("ostree", "--version"),
    "casync": ("casync", "--version"),
    "rclone": ("rclone", "version"),
    "cp": ("cp", "--version"),
    "tar": ("tar", "--version"),
    "sha256sum": ("sha256sum", "--version"),
    "cc": ("cc", "--version"),
}


def versions() -> dict[str, str]:
    """Return the version of each peer, or that it is absent."""
    return {name: _version(command) if shutil.which(name) else "absent" for name, command in PROGRAMS.items()}


def _version(command: Sequence[str]) -> str:
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    found = re.search(r"\d+\.[\w.+-]*", "\n".join(lines)) or re.search(r"\b\d+\b", "\n".join(lines))
    return "unknown" if found is None else found[0]


def installed(contestants: Sequence[Contestant]) -> list[Contestant]:
    """Leave out those whose program is not there, but for ours."""
    return [one for one in contestants if not absent([one.name])]


def absent(names: Iterable[str]) -> tuple[str, ...]:
    """Return those whose program is not there, but for ours."""
    return tuple(name for name in names if not name.startswith("isolate") and not has(name))


def has(name: str) -> bool:
    """Whether the program of a contestant is there: it is the first word of its name."""
    return shutil.which(name.split(maxsplit=1)[0]) is not None


class Restic:
    """A restic repository; its server-side counterpart is nobody, it works on files."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.repository, self._cache = place.fresh("restic"), place.fresh("restic-cache")
        self.env = {**os.environ, "RESTIC_REPOSITORY": str(self.repository), "RESTIC_PASSWORD": "bench",
                    "RESTIC_CACHE_DIR": str(self._cache), "RESTIC_COMPRESSION": "auto"}  # fmt: skip
        run(["restic", "-q", "init"], self.env)

    def backup(self, tree: Path) -> Sample:
        return run(["restic", "-q", "backup", str(tree)], self.env)

    def restore(self, target: Path) -> Sample:
        return run(["restic", "-q", "restore", "latest", "--target", str(target)], self.env)

    def remove(self) -> None:
        self._place.drop(self.repository)
        self._place.drop(self._cache)


class Borg:
    """A borg repository without encryption."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.repository, self._base = place.fresh("borg"), place.fresh("borg-base")
        self._archives = 0
        self.env = {**os.environ, "BORG_REPO": str(self.repository), "BORG_BASE_DIR": str(self._base)}
        run(["borg", "init", "--encryption", "none"], self.env)

    def backup(self, tree: Path) -> Sample:
        self._archives += 1
        argv = ["borg", "create", "--compression", "zstd,1", f"::{self._archives}", str(tree)]
        return run(argv, self.env)

    def restore(self, target: Path) -> Sample:
        target.mkdir(parents=True)
        return run(["borg", "extract", f"::{self._archives}"], self.env, target)

    def remove(self) -> None:
        self._place.drop(self.repository)
        self._place.drop(self._base)


class Ostree:
    """An ostree repository: `bare-user` keeps files as they are, `archive` compresses each, as fast as it can."""

    def __init__(self, place: Place, mode: str) -> None:
        self._place, self.repository = place, place.fresh("ostree")
        self._repo = f"--repo={self.repository}"
        run(["ostree", self._repo, "init", f"--mode={mode}"], dict(os.environ))
        run(["ostree", self._repo, "config", "set", "archive.zlib-level", "1"], dict(os.environ))

    def backup(self, tree: Path) -> Sample:
        return run(["ostree", self._repo, "commit", "-b", "main", f"--tree=dir={tree}"], dict(os.environ))

    def restore(self, target: Path) -> Sample:
        """Copy out, without what ostree would otherwise keep of it to make links to the next time."""
        return self._checkout(target, "--disable-cache")

    def link(self, target: Path) -> Sample:
        return self._checkout(target, "-H")

    def _checkout(self, target: Path, how: str) -> Sample:
        return run(["ostree", self._repo, "checkout", "-U", how, "main", str(target)], dict(os.environ))

    def remove(self) -> None:
        self._place.drop(self.repository)


class Casync:
    """A casync chunk store; it does not sync what it writes."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.repository, self._index = (
            place.fresh("store").with_suffix(".castr"),
            place.fresh("tree").with_suffix(".caidx"),
        )

    def backup(self, tree: Path) -> Sample:
        argv = ["casync", "make", f"--store={self.repository}", str(self._index), str(tree)]
        return run(argv, dict(os.environ))

    def restore(self, target: Path) -> Sample:
        argv = ["casync", "extract", f"--store={self.repository}", str(self._index), str(target)]
        return run(argv, dict(os.environ))

    def remove(self) -> None:
        self._place.drop(self.repository)
        self._index.unlink(missing_ok=True)


Keeper = Restic | Borg | Ostree | Casync
# Repositories by the name of their contestant; its first word is the program.
KEEPERS: dict[str, Callable[[Place], Keeper]] = {
    "restic": Restic,
    "borg": Borg,
    "ostree": partial(Ostree, mode="bare-user"),
    "ostree archive": partial(Ostree, mode="archive"),
    "casync": Casync,
}
