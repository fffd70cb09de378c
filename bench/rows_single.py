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
from bench.peers import Restic, has, installed
from bench.place import Place, removed
from bench.rows_archive import archive_of, on_new_server
from bench.rows_fetch import TRUE, run_of

SUMS, READS, THREAD = "xargs -P sha256sum", "C: open, read, close", "isolate, one thread"
LIBRARY, HELP = "BLAKE3, 8 MiB reads", "isolate --help"
MIB = 1 << 20


def hash_tree(place: Place) -> Race:
    """Row 7: read and hash every file."""
    names = place.fresh("names")
    found = (os.path.join(folder, name) for folder, _, listed in os.walk(place.tree) for name in listed)
    files = [path for path in found if os.path.isfile(path) and not os.path.islink(path)]
    names.write_bytes(b"".join(os.fsencode(path) + b"\0" for path in files))
    env = dict(os.environ)
    ours = [sys.executable, "-m", "bench.hash_tree", str(place.tree)]
    sums = ["xargs", "-0", "-a", str(names), "-P", str(os.cpu_count()), "-n", "500", "sha256sum"]
    contestants = [
        Contestant(OURS, partial(_timed, ours, 2)),
        Contestant(THREAD, partial(_timed, [*ours, "--workers", "0"], 2)),
        Contestant(SUMS, partial(run, sums, env), is_peer=True),
    ]
    if has("cc"):
        program = place.fresh("read_all")
        subprocess.run(["cc", "-O2", "-o", program, Path(__file__).with_name("read_all.c")], check=True)
        contestants.append(Contestant(READS, partial(run, [str(program), str(names)], env)))
    return Race(contestants)


def large_archive(place: Place) -> Race:
    """Row 8: one file, half of which shrinks."""
    tree = _large(place)
    current: list[Restic] = []
    copied = place.fresh("copied")

    return Race(
        installed(
            [
                on_new_server(place, tree),
                Contestant(
                    "restic",
                    lambda: current[-1].backup(tree),
                    is_peer=True,
                    prepare=lambda: current.append(Restic(place)),
                    tidy=lambda: current.pop().remove(),
                ),
                Contestant("rclone copy", partial(_rclone, tree, copied), is_peer=True, tidy=partial(removed, copied)),
            ]
        )
    )


def large_fetch(place: Place) -> Race:
    """Row 8: the same file back."""
    tree = _large(place)
    server = place.server()
    digest = place.archive(server, tree)
    cache, root, target = place.fresh("blobs"), place.fresh("root"), place.fresh("restored")
    argv = [*run_of(digest, cache, root), "--leak-temp-dir", *TRUE]

    def tidy() -> None:
        removed(cache)
        removed(root)

    ours = Contestant(OURS, lambda: place.ours(OURS, argv, server, place.fresh("cache")), tidy=tidy)
    contestants = [ours]
    if has("restic"):
        restic = Restic(place)
        place.stack.callback(restic.remove)
        restic.backup(tree)
        back = partial(restic.restore, target)
        contestants.append(Contestant("restic", back, is_peer=True, tidy=partial(removed, target)))
    copy = partial(_rclone, tree, target)
    contestants.append(Contestant("rclone copy", copy, is_peer=True, tidy=partial(removed, target)))
    return Race(installed(contestants))


def large_hash(place: Place) -> Race:
    """Row 8: how fast it is hashed, beside the library that does it."""
    file = _large(place) / "blob.bin"
    argv = [sys.executable, "-m", "bench.hash_file", str(file)]
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


def _large(place: Place) -> Path:
    """Return a folder with one file, made once; it goes with all the scratch."""
    tree = place.scratch.parent / "large"
    if not tree.is_dir():
        tree.mkdir(parents=True)
        with (tree / "blob.bin").open("wb") as file:
            for _ in range(place.size.large_bytes // (2 * MIB)):
                file.write(os.urandom(MIB))
                file.write(b"0123456789abcdef" * (MIB // 16))
    return tree
