"""A scan in a process of its own, for a parent that has other things to do meanwhile.

Knows no digests. Entries go to a pipe as `scanned` packs them: what begins where a part of the manifest began before,
and is as long, in one run with its proof; all else as it comes. The invariants: what cannot be told as entries is not
told; a scanner does not outlive its parent by more than a piece, because then nobody reads.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

from isolate.cycles import collect_seldom
from isolate.entries import Kind
from isolate.errors import IsolateError
from isolate.partcache import proof_of
from isolate.scan import Found, ScanRules, place_of, scan
from isolate.scanned import UNPROVEN, pack, pack_end

BATCH_ENTRIES = 2_048
PIECE_BYTES = 256 << 10
HELD_PIECES = 40  # 10 MB, for a parent that is not there yet, or reads what is before


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


@dataclass(frozen=True, slots=True)
class Order:
    """What to scan: what is below the directory `root`, by `rules`, from the path `start` to another, "" for all."""

    root: str
    rules: ScanRules
    start: str
    end: str
    known: Mapping[str, int]  # first paths of the parts there were, and how many entries they had


def tell(order: Order, descriptor: int) -> NoReturn:
    """Scan, tell what is found to `descriptor`, and end this process."""
    collect_seldom()
    pieces: queue.Queue[bytes] = queue.Queue(HELD_PIECES)
    threading.Thread(target=_write, args=(pieces, descriptor), daemon=True).start()
    behind: list[str] = []
    entries = _before(order.end, scan(order.root, order.rules, order.start), behind)
    try:
        for batch, is_known in runs_of(entries, order.known):
            _put(pieces, pack(batch, proof_of(batch) if is_known else UNPROVEN))
    except IsolateError:
        os._exit(1)  # whoever meets it at the same place can tell it better
    _put(pieces, pack_end("".join(behind)))
    pieces.put(b"")
    pieces.join()
    os._exit(0)


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


def _write(pieces: queue.Queue[bytes], descriptor: int) -> None:
    try:
        while piece := pieces.get():
            data = memoryview(piece)
            while data:
                data = data[os.write(descriptor, data) :]
            pieces.task_done()
    except OSError:  # nobody reads any more
        os._exit(1)
    pieces.task_done()
