"""Processes that are killed while they share a cache: nobody sees a wrong or missing file, and nothing is left."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from isolate.monitor import TallyMonitor
from tests.damage.cache_user import MAX_ITEMS, opened, use

KILLS = 12
USERS = 8  # several times the cores of a small machine


def start(stack: ExitStack, root: Path, seed: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.damage.cache_user", str(root), str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stack.enter_context(process)
    stack.callback(process.kill)
    return process


def test_killed_users_harm_nobody(tmp_path: Path) -> None:
    source = random.Random(7)
    with ExitStack() as stack:
        users = [start(stack, tmp_path, seed) for seed in range(USERS)]
        for kill in range(KILLS):
            user = users[kill % USERS]
            assert user.stdout is not None
            for _ in range(source.randrange(1, 12)):
                assert user.stdout.readline() == b"round\n", user.stderr and user.stderr.read()
            user.kill()
            user.wait()
            users[kill % USERS] = start(stack, tmp_path, USERS + kill)
        for user in users:
            assert user.stdout is not None
            assert user.stdout.readline() == b"round\n", user.stderr and user.stderr.read()
    monitor = TallyMonitor()
    with opened(tmp_path, monitor) as cache:
        cache.trim()
        assert len(os.listdir(tmp_path / "sessions")) == 1
        files = sum(len(names) for _, _, names in os.walk(tmp_path / "files"))
        assert cache.usage().items == files <= MAX_ITEMS
        for first in range(0, 60, 8):
            use(cache, list(range(first, min(first + 8, 60))))
    assert monitor.problems == []
