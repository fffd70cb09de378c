"""A scan in a process of its own, `python -m isolate.scanner`, for a parent that has other things to do meanwhile.

Knows no digests. Entries go to stdout in batches, `head · modes · stamps · names`, the last of which is empty; both
ends are one version of one program. The invariants: what cannot be told as entries is not told; a scanner does not
outlive its parent by more than a batch, because then nobody reads.
"""

from __future__ import annotations

import os
import queue
import signal
import struct
import sys
import threading
from collections.abc import Sequence
from itertools import islice, starmap

from isolate.denylist import denylist
from isolate.entries import Kind
from isolate.errors import IsolateError
from isolate.scan import Found, ScanRules, found_of, scan

BATCH_ENTRIES = 2_048
HELD_BATCHES = 64  # 20 MB, for a parent that is not there yet
WITH_DEFAULTS, WITHOUT_DEFAULTS = "defaults", "none"

HEAD = struct.Struct("<II")  # entries, bytes of the names
_MODE = struct.Struct("<I")  # 0 for what is no file
_STAMP = struct.Struct("<QqqQQ")
ENTRY_BYTES = _MODE.size + _STAMP.size
_NO_STAMP = (0, 0, 0, 0, 0)


def pack(batch: Sequence[Found]) -> bytes:
    """Return entries as they are sent."""
    paths, _, modes, stamps, sources, targets = zip(*batch, strict=True) if batch else ((),) * 6
    names = os.fsencode("\0".join([*paths, *sources, *[target or "" for target in targets]]))
    return b"".join(
        [
            HEAD.pack(len(batch), len(names)),
            b"".join(map(_MODE.pack, modes)),
            b"".join(starmap(_STAMP.pack, [stamp or _NO_STAMP for stamp in stamps])),
            names,
        ]
    )


def unpack(entries: int, data: bytes) -> list[Found]:
    """Return the entries of a batch without its head; raises ValueError, struct.error for nonsense."""
    stamps_at, names_at = entries * _MODE.size, entries * ENTRY_BYTES
    names = os.fsdecode(data[names_at:]).split("\0")
    view = memoryview(data)
    file, link, directory = Kind.FILE, Kind.LINK, Kind.DIR
    return [
        found_of((path, file, mode, stamp, source, None))
        if mode
        else found_of((path, link if target else directory, 0, None, "", target or None))
        for path, (mode,), stamp, source, target in zip(
            names[:entries],
            _MODE.iter_unpack(view[:stamps_at]),
            _STAMP.iter_unpack(view[stamps_at:names_at]),
            names[entries : 2 * entries],
            names[2 * entries :],
            strict=True,
        )
    ]


def main(arguments: Sequence[str]) -> int:
    """Scan the directory `arguments[0]`, leaving out the defaults or not, and what matches the others."""
    # Ctrl-C reaches the whole group; the parent decides. It started us with SIGINT blocked.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    root, defaults, *patterns = arguments
    batches: queue.Queue[bytes] = queue.Queue(HELD_BATCHES)
    threading.Thread(target=_write, args=(batches,), daemon=True).start()
    rules = ScanRules(is_denied=denylist(patterns, defaults=defaults == WITH_DEFAULTS))
    try:
        entries = scan(root, rules)
        while batch := list(islice(entries, BATCH_ENTRIES)):
            batches.put(pack(batch))
    except IsolateError:
        return 1  # whoever meets it at the same place can tell it better
    batches.put(pack(()))
    batches.put(b"")
    batches.join()
    return 0


def _write(batches: queue.Queue[bytes]) -> None:
    try:
        while batch := batches.get():
            data = memoryview(batch)
            while data:
                data = data[os.write(sys.stdout.fileno(), data) :]
            batches.task_done()
    except OSError:  # nobody reads any more
        os._exit(1)
    batches.task_done()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
