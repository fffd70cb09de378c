"""Trees of files from a seed: always the same bytes, shaped like a source checkout; and changes to a few of them.

Sizes follow what real trees have: most files are a few kilobytes, some are megabytes; a fifth are copies of others;
text shrinks to about a third.
"""

from __future__ import annotations

import os
import random
import stat
import subprocess
from pathlib import Path

from bench.measure import Failed

COPIES = 0.2
FILES_PER_FOLDER = 40
CORPUS_BYTES = 32 << 20
MAX_BYTES = 2_000_000
WORDS = 4_000


def generate(root: Path, files: int, seed: int = 1, mean_bytes: int | None = None) -> None:
    """Fill `root` with `files` files, of various sizes or of about `mean_bytes`; arguments decide every byte."""
    draw = random.Random(seed)
    text = corpus(draw)
    kept: list[bytes] = []
    for number in range(files):
        folder = root / f"d{number // (FILES_PER_FOLDER * 40):03}" / f"e{number // FILES_PER_FOLDER:04}"
        if number % FILES_PER_FOLDER == 0:
            folder.mkdir(parents=True, exist_ok=True)
        if kept and mean_bytes is None and draw.random() < COPIES:
            content = draw.choice(kept)
        else:
            content = piece(draw, text, number, mean_bytes)
            if len(kept) < 200:
                kept.append(content)
        path = folder / f"f{number:06}.txt"
        path.write_bytes(content)
        if number % 50 == 0:
            path.chmod(0o755)


def corpus(draw: random.Random) -> bytes:
    """Return text to cut files from: words of a vocabulary, which shrink to about a third."""
    vocabulary = [bytes(draw.choices(range(97, 123), k=draw.randint(2, 9))) for _ in range(WORDS)]
    return b" ".join(draw.choices(vocabulary, k=CORPUS_BYTES // 7))


def piece(draw: random.Random, text: bytes, number: int, mean_bytes: int | None) -> bytes:
    """Return a content that no other number gets."""
    if mean_bytes is None:
        size_bytes = min(MAX_BYTES, int(draw.lognormvariate(8.3, 1.5)) + 1)
    else:
        size_bytes = draw.randint(mean_bytes // 2, mean_bytes * 3 // 2)
    start = draw.randrange(len(text) - size_bytes)
    return b"%d " % number + text[start : start + size_bytes]


class Changer:
    """Changes a share of the regular files of a tree, others each time, always to something new."""

    def __init__(self, root: Path, share: float, seed: int = 7) -> None:
        self._draw = random.Random(seed)
        self._files = sorted(os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names)
        self._files = [path for path in self._files if stat.S_ISREG(os.lstat(path).st_mode)]
        self._count = max(1, int(len(self._files) * share))
        self._generation = 0

    def change(self) -> None:
        """Put some new bytes into the middle of some files."""
        self._generation += 1
        for path in self._draw.sample(self._files, self._count):
            with open(path, "rb") as file:
                content = file.read()
            middle = len(content) // 2
            new = content[:middle] + b"%d %d" % (self._generation, self._draw.getrandbits(64)) + content[middle + 16 :]
            mode = stat.S_IMODE(os.stat(path).st_mode)
            os.unlink(path)  # it may have other names, or be read-only
            with open(path, "wb") as file:
                file.write(new)
            os.chmod(path, mode)


def copy_of(tree: Path, target: Path, leave_out: tuple[str, ...] = ()) -> None:
    """Copy a tree as it is, apart from top-level folders that are left out."""
    target.mkdir(parents=True)
    names = [entry.path for entry in os.scandir(tree) if entry.name not in leave_out]
    done = subprocess.run(["cp", "-a", "--target-directory", str(target), *names], check=False, capture_output=True)
    if done.returncode:
        raise Failed(f"{tree} cannot be copied to be measured: {os.fsdecode(done.stderr).partition(chr(10))[0]}")
