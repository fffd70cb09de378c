"""A tree of files from a seed: always the same bytes, shaped like a source checkout.

Sizes follow what real trees have: most files are a few kilobytes, some are megabytes; a fifth are copies of others;
text shrinks to about a third.
"""

from __future__ import annotations

import random
from pathlib import Path

WORDS_SEED = 20_240_101
COPIES = 0.2
FILES_PER_FOLDER = 40


def generate(root: Path, files: int, seed: int = 1) -> None:
    """Fill `root` with `files` files; the same arguments always give the same tree."""
    draw = random.Random(seed)
    vocabulary = [bytes(draw.choices(range(97, 123), k=draw.randint(2, 9))) for _ in range(4000)]
    contents: list[bytes] = []
    for number in range(files):
        folder = root / f"d{number // (FILES_PER_FOLDER * 40):03}" / f"e{number // FILES_PER_FOLDER:04}"
        if number % FILES_PER_FOLDER == 0:
            folder.mkdir(parents=True, exist_ok=True)
        if contents and draw.random() < COPIES:
            content = draw.choice(contents)
        else:
            size_bytes = min(2_000_000, int(draw.lognormvariate(8.3, 1.5)) + 1)
            content = b" ".join(draw.choices(vocabulary, k=size_bytes // 6 + 1))
            if len(contents) < 200:
                contents.append(content)
        path = folder / f"f{number:06}.txt"
        path.write_bytes(content)
        if number % 50 == 0:
            path.chmod(0o755)
