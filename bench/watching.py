"""What processes use while they run, read from /proc: memory, processor time, who descends from whom.

Knows no command. Memory always means RssAnon + RssShmem, summed over a process and all that descend from it: file
pages belong to the kernel, and shared pages are counted once more for each process, which errs on the safe side.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

KIB = 1024
SAMPLE_S = 0.05  # short peaks are missed; shorter, and sampling itself would be measured
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_FIELDS = ("RssAnon:", "RssShmem:")


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        try:
            for thread in os.listdir(f"/proc/{one}/task"):
                waiting += map(int, Path(f"/proc/{one}/task/{thread}/children").read_text().split())
        except OSError:
            continue  # it has just ended
    return found


def memory_bytes(pids: Iterable[int]) -> int:
    """Return what processes have of their own, together; nothing for those that are gone."""
    return sum(_memory_bytes(pid) for pid in pids)


def _memory_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * KIB for line in lines if line.startswith(_FIELDS))


def cpu_s(pid: int) -> float:
    """Return the processor time of a process, of its children that ended, and of those that live."""
    return sum(_cpu_s(one) for one in family(pid))


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS_PER_S


def elsewhere_cpu_s() -> float:
    """Return the processor time of the machine that neither this process nor its children had, until now."""
    user, nice, system, _, _, irq, soft, stolen = map(int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + irq + soft + stolen) / _TICKS_PER_S - cpu_s(os.getpid())


class Watch:
    """Samples the memory of a family of processes until the block ends; `peak_bytes` is what they had at most."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        look: Callable[[float], bool] = self._over.wait
        while True:
            self.peak_bytes = max(self.peak_bytes, memory_bytes(family(self._pid)))
            if look(SAMPLE_S):
                return
