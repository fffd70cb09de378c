"""A scan in a process of its own, `python -m isolate.scanner`, for a parent that has other things to do meanwhile.

Knows no digests. Entries go to stdout as `scanned` packs them: what begins where a part of the manifest began before,
and is as long, in one run with its proof; all else as it comes. The invariants: what cannot be told as entries is not
told; a scanner does not outlive its parent by more than a piece, because then nobody reads.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence

from isolate.denylist import denylist
from isolate.entries import Kind
from isolate.errors import IsolateError
from isolate.partcache import proof_of
from isolate.scan import Found, ScanRules, place_of, scan
from isolate.scanned import UNPROVEN, pack, pack_end

BATCH_ENTRIES = 2_048
PIECE_BYTES = 256 << 10
HELD_PIECES = 40  # 10 MB, for a parent that is not there yet, or reads what is before
WITH_DEFAULTS, WITHOUT_DEFAULTS = "defaults", "none"


def runs_of(entries: Iterable[Found], known: Mapping[str, int]) -> Iterator[tuple[list[Found], bool]]:
    """Yield `entries` in batches, and whether it is one that is looked for: so many behind a path of `known`."""
    batch: list[Found] = []
    wanted, limit = 0, BATCH_ENTRIES
    for found in entries:
        begins = found[0] in known
        if begins or len(batch) == limit:
            if batch:
                yield batch, begins and len(batch) == wanted
                batch = []
            wanted = known[found[0]] if begins else 0
            limit = wanted or BATCH_ENTRIES
        batch.append(found)
    if batch:
        yield batch, len(batch) == wanted


def main(arguments: Sequence[str]) -> int:
    """Scan the directory `arguments[0]`, leaving out the defaults or not, from a path to another or "".

    Behind them are the number of known parts, for each its first path and its entries, and what else is left out.
    """
    # Ctrl-C reaches the whole group; the parent decides. It started us with SIGINT blocked.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    root, defaults, start, end, parts, *others = arguments
    told, patterns = others[: 2 * int(parts)], others[2 * int(parts) :]
    known = dict(zip(told[::2], map(int, told[1::2]), strict=True))
    pieces: queue.Queue[bytes] = queue.Queue(HELD_PIECES)
    threading.Thread(target=_write, args=(pieces,), daemon=True).start()
    rules = ScanRules(is_denied=denylist(patterns, defaults=defaults == WITH_DEFAULTS))
    behind: list[str] = []
    try:
        for batch, is_known in runs_of(_before(end, scan(root, rules, start), behind), known):
            _put(pieces, pack(batch, proof_of(batch) if is_known else UNPROVEN))
    except IsolateError:
        return 1  # whoever meets it at the same place can tell it better
    _put(pieces, pack_end("".join(behind)))
    pieces.put(b"")
    pieces.join()
    return 0


def _before(end: str, entries: Iterator[Found], behind: list[str]) -> Iterator[Found]:
    """Yield what is before the path `end`; the path of the first that is not becomes the only item of `behind`."""
    for found in entries:
        if end and (found[0] >= end or (found[1] is Kind.DIR and place_of(found) >= end)):
            behind.append(found[0])
            return
        yield found


def _put(pieces: queue.Queue[bytes], data: bytes) -> None:
    for at in range(0, len(data), PIECE_BYTES):
        pieces.put(data[at : at + PIECE_BYTES])


def _write(pieces: queue.Queue[bytes]) -> None:
    try:
        while piece := pieces.get():
            data = memoryview(piece)
            while data:
                data = data[os.write(sys.stdout.fileno(), data) :]
            pieces.task_done()
    except OSError:  # nobody reads any more
        os._exit(1)
    pieces.task_done()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
