"""Chaos for as long as you like: `python -m tests.soak [--rounds N] [--seed N] [--silence]`; prints what was wrong."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.flow import chaos


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="how many blows fall")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="what is drawn from")
    parser.add_argument("--silence", action="store_true", help="also stop bots until they are given up, 35 s each")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as place:
        world, wrong = asyncio.run(chaos.run(Path(place), flags.seed, flags.rounds, with_silence=flags.silence))
        sys.stdout.write(f"seed {flags.seed}: {chaos.summary(world)}\n{'; '.join(world.blows)}\n")
        sys.stdout.writelines(f"WRONG: {line}\n" for line in wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
