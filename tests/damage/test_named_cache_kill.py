"""A run that is killed anywhere between borrowing a named cache and bringing it back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_killed_run_loses_no_named_cache(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.damage.named_cache_user", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    for two_disks in (False, True):
        steps = [told for told in seen if told["two_disks"] == two_disks]
        assert [told["killed"] for told in steps] == [True] * (len(steps) - 1) + [False]
        assert len(steps) > 8  # two lists, a link, and a directory that moves, each on the way there and back
        for told in steps:
            assert told["files"] in [{"d/file": text, "other": "whole"} for text in ("first", "second")], told
            assert (told["entries"], told["problems"]) == (1, []), told
        assert steps[-1]["files"]["d/file"] == "second"
