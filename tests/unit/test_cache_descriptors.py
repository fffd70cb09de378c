"""The local cache where a process may open few files: nothing of it is taken for damaged."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.unit.caches import A, Opener, fill

SHORT_OF_DESCRIPTORS = """
import os, resource, sys
from pathlib import Path
from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.digest import Namespace
from isolate.clock import SystemClock
from isolate.errors import IsolateError
from isolate.monitor import TallyMonitor
namespace, monitor, failures = Namespace.parse("blake3-zstd"), TallyMonitor(), []
def cache():
    return LocalCache.open(Path(sys.argv[1]), namespace, CachePolicy(), SystemClock(), monitor, boot_id="boot")
cache().close()
free = os.dup(0)
os.close(free)
for left in range(12):
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + left, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        cache().close()
    except (IsolateError, OSError) as error:
        failures.append(str(error))
print(len(failures), all("Too many open files" in failure for failure in failures), monitor.problems)
"""


def test_a_lack_of_descriptors_is_no_damage(opener: Opener) -> None:
    with opener() as cache:
        fill(cache, A)
        index = os.stat(cache.root / "index.sqlite").st_ino
    command = [sys.executable, "-c", SHORT_OF_DESCRIPTORS, str(cache.root)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(maxsplit=2)
    assert 3 < int(told[0]) < 12
    assert told[1:] == ["True", "[]\n"]
    assert os.stat(cache.root / "index.sqlite").st_ino == index
    assert opener().absent([A]) == []
