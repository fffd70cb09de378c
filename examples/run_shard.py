"""Run one shard of the unit tests; the shard comes from GTEST_SHARD_INDEX and GTEST_TOTAL_SHARDS.

Usage: run_shard.py OUTPUT_DIR. Leaves `junit.xml` in OUTPUT_DIR and exits as pytest does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def main(output: Path) -> int:
    """Run every n-th test file of `tests/unit`, so that shards are about equal and stable."""
    index = int(os.environ.get("GTEST_SHARD_INDEX", "0"))
    shards = int(os.environ.get("GTEST_TOTAL_SHARDS", "1"))
    files = sorted(str(path) for path in (ROOT / "tests/unit").glob("test_*.py"))[index::shards]
    print(f"Shard {index + 1} of {shards}: {len(files)} test files", flush=True)
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    sys.dont_write_bytecode = True
    options = ["-q", "--no-header", "-p", "no:cacheprovider", f"--junitxml={output / 'junit.xml'}"]
    return int(pytest.main([*options, *files]))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
