"""Who is measured, row by row: our commands, and what a user would pick instead.

Each row returns its contestants, ours first; a peer that is not installed is left out and reported by the caller.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.measure import Sample, run

BIN = Path(sys.executable).parent
OURS = "isolate"


@dataclass
class Place:
    """Where a benchmark works: a scratch folder, the tree it measures, and the servers it started."""

    scratch: Path
    tree: Path
    stack: contextlib.ExitStack
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def fresh(self, name: str) -> Path:
        """Return a path that nothing has used yet."""
        return self.scratch / f"{name}-{next(self.numbers)}"

    def env(self, cache: Path) -> dict[str, str]:
        """Return the environment of a command that keeps its caches in `cache`."""
        return {**os.environ, "XDG_CACHE_HOME": str(cache), "PATH": f"{BIN}:{os.environ['PATH']}"}

    def server(self) -> str:
        """Start a server on an empty data directory; returns its address. It ends with the benchmark."""
        argv = [str(BIN / "swarming-server"), "serve", "--data", str(self.fresh("server")), "--port", "0"]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.stack.callback(stop, process)
        assert process.stdout is not None, "it was asked for"
        return process.stdout.readline().split()[1].rstrip("/")


def stop(process: subprocess.Popen[str]) -> None:
    """End a server."""
    process.terminate()
    process.wait()
    if process.stdout:
        process.stdout.close()


Contestants = dict[str, Callable[[], Sample]]


def archive_cold(place: Place) -> Contestants:
    """Row 1: nothing is known to anybody; durable at the end."""

    def ours() -> Sample:
        return run(["isolate", "archive", "-I", place.server(), str(place.tree)], place.env(place.fresh("cache")))

    def restic() -> Sample:
        repository = _restic(place)
        return run(["restic", "-q", "backup", str(place.tree)], repository)

    def borg() -> Sample:
        env = _borg(place)
        return run(["borg", "create", "--compression", "zstd,1", "::one", str(place.tree)], env)

    return _installed({OURS: ours, "restic": restic, "borg": borg})


def archive_again(place: Place) -> Contestants:
    """Row 2: the same tree, unchanged."""
    url, env = place.server(), place.env(place.fresh("cache"))
    archive = ["isolate", "archive", "-I", url, str(place.tree)]
    run(archive, env)
    contestants: Contestants = {
        OURS: lambda: run(archive, env),
        "isolate --no-stat-cache": lambda: run([*archive, "--no-stat-cache"], env),
    }
    if shutil.which("restic"):
        repository = _restic(place)
        contestants["restic"] = lambda: run(["restic", "-q", "backup", str(place.tree)], repository)
    if shutil.which("borg"):
        borg_env = _borg(place)
        contestants["borg"] = lambda: run(
            ["borg", "create", "--compression", "zstd,1", f"::{place.fresh('a').name}", str(place.tree)], borg_env
        )
    return contestants


def fetch_cold(place: Place) -> Contestants:
    """Row 4: into an empty cache, and mapped; the removal of the mapped tree is included."""
    url = place.server()
    archived = run(["isolate", "archive", "-I", url, str(place.tree)], place.env(place.fresh("cache")))
    digest = archived.stdout.split()[0]

    def ours() -> Sample:
        return _run_isolated(place, url, digest, place.fresh("blobs"))

    contestants: Contestants = {OURS: ours}
    if shutil.which("restic"):
        repository = _restic(place)
        run(["restic", "-q", "backup", str(place.tree)], repository)
        contestants["restic"] = lambda: run(
            ["restic", "-q", "restore", "latest", "--target", str(place.fresh("restored"))], repository
        )
    return contestants


def map_warm(place: Place) -> Contestants:
    """Row 5: everything is in the cache; run a command that does nothing, and remove the tree again."""
    url = place.server()
    archived = run(["isolate", "archive", "-I", url, str(place.tree)], place.env(place.fresh("cache")))
    digest, cache = archived.stdout.split()[0], place.fresh("blobs")

    def copy_links() -> Sample:
        target = place.fresh("copy")
        linked = run(["cp", "-al", str(place.tree), str(target)], dict(os.environ))
        removed = run(["rm", "-rf", str(target)], dict(os.environ))
        return Sample(linked.wall_s + removed.wall_s, linked.cpu_s + removed.cpu_s)

    return {OURS: lambda: _run_isolated(place, url, digest, cache), "cp -al, rm -rf": copy_links}


def hash_tree(place: Place) -> Contestants:
    """Row 7: read and hash every file, page cache warm."""
    names = place.fresh("names")
    names.parent.mkdir(parents=True, exist_ok=True)
    names.write_bytes(b"\0".join(os.fsencode(path) for path in place.tree.rglob("*") if path.is_file()))
    hashes = [sys.executable, "-m", "bench.hash_tree", str(place.tree)]
    sums = ["xargs", "-0", "-a", str(names), "-P", str(os.cpu_count()), "-n", "500", "sha256sum"]
    env = dict(os.environ)
    return {OURS: lambda: run(hashes, env), "xargs -P sha256sum": lambda: run(sums, env)}


def small_tree(place: Place) -> Contestants:
    """Row 9: ten files, all present: what starting up costs."""
    tree = place.fresh("ten")
    tree.mkdir(parents=True)
    for number in range(10):
        (tree / f"{number}.txt").write_text(f"file {number}\n")
    url, env = place.server(), place.env(place.fresh("cache"))
    archive = ["isolate", "archive", "-I", url, str(tree)]
    return {OURS: lambda: run(archive, env), "isolate --help": lambda: run(["isolate", "--help"], env)}


def large_file(place: Place) -> Contestants:
    """Row 8: one file of 1 GiB, half of which shrinks."""
    tree = place.fresh("large")
    tree.mkdir(parents=True)
    with (tree / "blob.bin").open("wb") as file:
        for _ in range(512):
            file.write(os.urandom(1 << 20))
            file.write(b"0123456789abcdef" * (1 << 16))

    def ours() -> Sample:
        return run(["isolate", "archive", "-I", place.server(), str(tree)], place.env(place.fresh("cache")))

    def restic() -> Sample:
        return run(["restic", "-q", "backup", str(tree)], _restic(place))

    return _installed({OURS: ours, "restic": restic})


def _run_isolated(place: Place, url: str, digest: str, cache: Path) -> Sample:
    argv = ["run_isolated", "-I", url, "-s", digest, "--cache", str(cache), "--root-dir", str(place.scratch)]
    return run([*argv, "--raw-cmd", "--", "true"], place.env(place.fresh("cache")))


def _restic(place: Place) -> dict[str, str]:
    repository = place.fresh("restic")
    env = {**os.environ, "RESTIC_REPOSITORY": str(repository), "RESTIC_PASSWORD": "bench",
           "RESTIC_CACHE_DIR": str(place.fresh("restic-cache")), "RESTIC_COMPRESSION": "auto"}  # fmt: skip
    run(["restic", "-q", "init"], env)
    return env


def _borg(place: Place) -> dict[str, str]:
    env = {**os.environ, "BORG_REPO": str(place.fresh("borg")), "BORG_BASE_DIR": str(place.fresh("borg-base"))}
    run(["borg", "init", "--encryption", "none"], env)
    return env


def _installed(contestants: Contestants) -> Contestants:
    return {name: once for name, once in contestants.items() if name == OURS or shutil.which(name)}


ROWS: dict[str, Callable[[Place], Contestants]] = {
    "1 archive cold": archive_cold,
    "2 archive again": archive_again,
    "4 fetch cold, map": fetch_cold,
    "5 map warm": map_warm,
    "7 hash tree": hash_tree,
    "8 large file": large_file,
    "9 ten files": small_tree,
}
PEERS = ("restic", "borg")
