"""What processes of this machine are doing, as the system tells."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from pathlib import Path

LIMIT_S = 30.0  # ends a test that is broken; a healthy one waits for milliseconds


def workers_of(parent: int) -> set[int]:
    """Return the worker processes that were started for process `parent`, whether it lives or not."""
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            words = _command_line(int(entry))
            if b"isolate.workers" in words and words[-1] == str(parent).encode():
                found.add(int(entry))
    return found


def is_running(pid: int) -> bool:
    """Whether a process does anything: one that waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def has_ended(pid: int) -> bool:
    """Wait for the end of a process; False when it does not come within LIMIT_S."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], LIMIT_S)[0])
    finally:
        os.close(descriptor)


def wait_until(condition: Callable[[], bool]) -> bool:
    """Look until `condition` holds; False when it does not within LIMIT_S."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return False


def _command_line(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return [b""]
