"""Rows 7 to 9: hashing a tree, one large file, and a tree so small that starting up is all it costs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.goals import OURS
from bench.measure import Contestant, Race, Sample, run
from bench.peers import absent, has, installed
from bench.place import Place, removed
from bench.rows_archive import archive_of, on_new_repository, on_new_server
from bench.rows_fetch import TRUE, run_of
from bench.stores import Stores
from bench.subjects import LARGE

CC, RCLONE = "cc", "rclone copy"
SUMS, READS, THREAD = "xargs -P sha256sum", "C: open, read, close", "isolate, one thread"
LIBRARY, HELP = "BLAKE3, 8 MiB reads", "isolate --help"
BARE = "bare write and fsync (no store)"


def hash_tree(place: Place, stores: Stores) -> Race:
    """Row 7: read and hash every file."""
    names = place.fresh("names")
    found = (os.path.join(folder, name) for folder, _, listed in os.walk(stores.tree) for name in listed)
    files = [path for path in found if os.path.isfile(path) and not os.path.islink(path)]
    names.write_bytes(b"".join(os.fsencode(path) + b"\0" for path in files))
    env = dict(os.environ)
    ours = [sys.executable, "-m", "bench.hash_tree", str(stores.tree)]
    sums = ["xargs", "-0", "-a", str(names), "-P", str(os.cpu_count()), "-n", "500", "sha256sum"]
    contestants = [
        Contestant(OURS, partial(_timed, ours, 2)),
        Contestant(THREAD, partial(_timed, [*ours, "--workers", "0"], 2)),
        Contestant(SUMS, partial(run, sums, env), is_peer=True),
    ]
    if has(CC):
        program = place.fresh("read_all")
        subprocess.run(["cc", "-O2", "-o", program, Path(__file__).with_name("read_all.c")], check=True)
        contestants.append(Contestant(READS, partial(run, [str(program), str(names)], env)))
    return Race(contestants, absent=() if has(CC) else (READS,))


def large_archive(place: Place, stores: Stores) -> Race:
    """Row 8: one file, half of which shrinks. Beside it, what the disk needs for the other half alone."""
    copied, bare = place.fresh("copied"), place.fresh("bare")
    copy = partial(_rclone, stores.tree, copied)
    write = [sys.executable, "-m", "bench.write_bare", str(stores.tree / LARGE), str(bare)]
    contestants = [
        on_new_server(place, stores),
        on_new_repository(stores, "restic"),
        Contestant(RCLONE, copy, is_peer=True, tidy=partial(removed, copied)),
    ]
    scale = Contestant(BARE, partial(run, write, dict(os.environ)), tidy=bare.unlink)
    return Race([*installed(contestants), scale], absent=absent(one.name for one in contestants))


def large_fetch(place: Place, stores: Stores) -> Race:
    """Row 8: the same file back."""
    cache, root, target = place.fresh("blobs"), place.fresh("root"), place.fresh("restored")
    argv = [*run_of(stores.archived(), cache, root), "--leak-temp-dir", *TRUE]

    def tidy() -> None:
        removed(cache)
        removed(root)

    tidied = partial(removed, target)
    contestants = [Contestant(OURS, lambda: place.ours(OURS, argv, stores.server, place.fresh("cache")), tidy=tidy)]
    for name, keeper in stores.holders(("restic",)):
        contestants.append(Contestant(name, partial(keeper.restore, target), is_peer=True, tidy=tidied))
    copy = partial(_rclone, stores.tree, target)
    contestants.append(Contestant(RCLONE, copy, is_peer=True, tidy=tidied))
    return Race(installed(contestants), absent=absent(["restic", RCLONE]))


def large_hash(_place: Place, stores: Stores) -> Race:
    """Row 8: how fast it is hashed, beside the library that does it."""
    argv = [sys.executable, "-m", "bench.hash_file", str(stores.tree / LARGE)]
    return Race(
        [
            Contestant(OURS, partial(_timed, [*argv, "ours"], 0)),
            Contestant(LIBRARY, partial(_timed, [*argv, "blake3"], 0)),
        ]
    )


def small_tree(place: Place) -> Race:
    """Row 9: ten files, all present: what starting up costs."""
    tree = place.fresh("ten")
    tree.mkdir(parents=True)
    for number in range(10):
        (tree / f"{number}.txt").write_text(f"file {number}\n")
    server, cache = place.server(), place.fresh("cache")
    return Race(
        [
            Contestant(OURS, partial(place.ours, OURS, archive_of(tree), server, cache)),
            Contestant(HELP, partial(run, ["isolate", "--help"], place.env(cache))),
        ]
    )


def _timed(argv: Sequence[str], word: int) -> Sample:
    """Run a command that says in its word number `word` how long its work took."""
    sample = run(argv, dict(os.environ))
    return replace(sample, figures={"work_s": float(sample.stdout.split()[word])})


def _rclone(tree: Path, target: Path) -> Sample:
    """Copy without a store; rclone reads the copy again and compares it, and syncs nothing."""
    return run(["rclone", "--config", os.devnull, "copy", str(tree), str(target)], dict(os.environ))
