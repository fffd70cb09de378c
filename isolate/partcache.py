"""Parts of a manifest that were made before: what the scan found in each -> its digest and those of its files.

Knows no store and no manifest; only saves time. The invariants are those of `statcache`: a part is given only for
entries that are, with all their stamps, what it was made from; each file was settled when it was read, and no ctime is
ahead of the clock; a damaged, foreign or unreadable memory is an empty one, reported and never raised. Whether what it
names is still in the store is for the caller to ask.

One file for each archived tree, read as a stream beside the scan, one part at a time. Its first frame names format,
algorithm and tree; each later one is `proof 32 · entries 4 · newest ctime 8 · size of its manifest 8 · its digest
· bytes of the first path 4 · first path · digests of the files`. The proof is the BLAKE3 of the entries as found.
"""

from __future__ import annotations

import itertools
import marshal
import os
import struct
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from isolate.cas.digest import BLAKE3, Algorithm, Blob, fast_blob
from isolate.clock import Clock
from isolate.frames import UNFINISHED, open_frames, read_frame, write_frame
from isolate.monitor import Monitor
from isolate.scan import Found
from isolate.scanned import Run

FORMAT = b"isolate part cache 1"
SUFFIX = "-parts"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a manifest that was made before."""

    number: int  # of its frame
    first: str  # path
    proof: bytes
    entries: int
    newest_ns: int
    manifest: Blob
    digests: bytes  # of its files in their order, one behind the other


def path_of(folder: Path, tree: str, algorithm: Algorithm) -> Path:
    """Return where the parts of `tree` are remembered; nothing is there unless it had some."""
    return folder / (BLAKE3.digest(_head_of(tree, algorithm)).hex()[:32] + SUFFIX)


def _head_of(tree: str, algorithm: Algorithm) -> bytes:
    return b"\0".join((FORMAT, algorithm.name.encode(), os.fsencode(tree)))


def proof_of(entries: Sequence[Found]) -> bytes:
    """Return what no other entries have."""
    if isinstance(entries, Run) and entries.proof is not None:
        return entries.proof
    # Nobody reads it again: all that counts is that `marshal` is fast, and as version 2 writes equal values alike.
    paths, _, modes, stamps, sources, targets = zip(*entries, strict=True)
    return BLAKE3.digest(marshal.dumps((paths, modes, stamps, sources, targets), 2))


def beginnings(folder: Path, tree: str, algorithm: Algorithm) -> list[tuple[str, int]]:
    """Return where the parts of `tree` begin that are remembered, and how many entries each has: for a scanner.

    What cannot be read is left out.
    """
    found: list[tuple[str, int]] = []
    with suppress(OSError, ValueError, struct.error):
        parts = _parts_at(path_of(folder, tree, algorithm), _head_of(tree, algorithm), algorithm)
        found.extend((part.first, part.entries) for part in parts)  # what came before the damage stays
    return found


def _parts_at(path: Path, head: bytes, algorithm: Algorithm) -> Generator[Part, None, None]:
    """Yield what is remembered; raises OSError, ValueError, struct.error where it is damaged or absent."""
    fixed = _fixed_of(algorithm)
    with open_frames(path) as file:
        if read_frame(file) != head:
            raise ValueError("it begins with something else")
        for number in itertools.count():
            payload = read_frame(file)
            if payload is None:
                return
            proof, entries, newest_ns, size, digest, path_bytes = fixed.unpack_from(payload)
            digests_at = fixed.size + path_bytes
            first = os.fsdecode(payload[fixed.size : digests_at])
            yield Part(number, first, proof, entries, newest_ns, Blob(digest, size), payload[digests_at:])


def _fixed_of(algorithm: Algorithm) -> struct.Struct:
    return struct.Struct(f"<32sIqQ{algorithm.digest_bytes}sI")


class PartCache:
    """The parts of one tree; a context manager that replaces what is remembered when its body ended well."""

    def __init__(
        self, folder: Path, tree: str, algorithm: Algorithm, clock: Clock, monitor: Monitor, *, trusted: bool = True
    ) -> None:
        """What is remembered is not looked at unless it is `trusted`, and replaced."""
        self._clock, self._monitor, self._folder = clock, monitor, folder
        self._head = _head_of(tree, algorithm)
        self._path = path_of(folder, tree, algorithm)
        self._fixed = _fixed_of(algorithm)
        self._algorithm = algorithm
        self._now_ns = int(clock.now() * 1e9)
        self._is_damaged = False
        self._parts = self._read()
        self._next = next(self._parts, None) if trusted else None
        self._given: list[int] = []  # numbers of parts that were found again
        self._file: BinaryIO | None = None
        self._name = ""
        self._is_off = False
        # Of the parts that are being made: what was found, and up to which entry a file was not settled.
        self._found: list[Found] = []
        self._digests: list[bytes] = []
        self._unsettled = 0
        self._proofs: dict[str, tuple[int, bytes]] = {}  # by the path of the first entry, until they are a part

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and not self._is_off:
                self._finish()
        except OSError as problem:
            self._give_up(problem)
        finally:
            self._parts.close()
            if self._file is not None:
                self._file.close()
                os.unlink(self._name)

    @property
    def is_empty(self) -> bool:
        """Whether there is no part to be found from here on."""
        return self._next is None

    # What was made before. Called in the order of paths, perhaps by another thread than the rest.

    def at(self, path: str) -> Part | None:
        """Return the part that began with `path`."""
        while self._next is not None and self._next.first < path:
            self._next = next(self._parts, None)
        return self._next if self._next is not None and self._next.first == path else None

    def blobs(self, part: Part, entries: Sequence[Found]) -> list[Blob | None] | None:
        """Return the blob of each of `entries`, None unless `part` is what they became before."""
        if len(entries) != part.entries or part.newest_ns >= self._now_ns:
            return None
        proof = proof_of(entries)
        if proof != part.proof:
            # Most often it is files of the part that changed, and the same entries become one again.
            self._proofs[entries[0].path] = len(entries), proof
            return None
        width = self._algorithm.digest_bytes
        digests = [part.digests[at : at + width] for at in range(0, len(part.digests), width)]
        all_sizes = entries.sizes() if isinstance(entries, Run) else [one[3] and one[3][0] for one in entries]
        sizes = [size for size in all_sizes if size is not None]
        blobs = map(fast_blob, zip(digests, sizes, strict=True))
        return (
            list(blobs) if len(sizes) == len(entries) else [None if one is None else next(blobs) for one in all_sizes]
        )

    # What is being made. Called in the order of paths.

    def again(self, part: Part) -> None:
        """Remember a part that was found as it was."""
        self._given.append(part.number)
        if self._file is not None:
            self._write(part)

    def take(self, entries: Sequence[Found], blobs: Sequence[Blob | None], *, settled: bool) -> None:
        """Hear what the next parts are made of, and whether all of it is settled as `statcache` says."""
        if self._is_off:
            return
        self._found += entries
        self._digests += [b"" if blob is None else blob.digest for blob in blobs]
        if not settled:
            self._unsettled = len(self._found)

    def made(self, entries: int, manifest: Blob) -> None:
        """Remember that so many entries became the part `manifest`."""
        found, self._found = self._found[:entries], self._found[entries:]
        digests, self._digests = self._digests[:entries], self._digests[entries:]
        settled, self._unsettled = not self._unsettled, max(0, self._unsettled - entries)
        if self._is_off:
            return
        proven, proof = self._proofs.pop(found[0].path, (0, b""))
        if not settled:
            return
        newest_ns = max([entry[3][2] for entry in found if entry[3] is not None], default=0)
        proof = proof if proven == entries else proof_of(found)
        part = Part(0, found[0].path, proof, entries, newest_ns, manifest, b"".join(digests))
        try:
            if self._file is None:
                self._begin()
            self._write(part)
        except OSError as error:
            self._give_up(error)

    def _begin(self) -> None:
        import tempfile  # a tenth of the start of a command that has nothing to write

        descriptor, self._name = tempfile.mkstemp(prefix=UNFINISHED, dir=self._folder)
        self._file = os.fdopen(descriptor, "wb")
        write_frame(self._file, self._head)
        given = set(self._given)
        for part in self._read() if given else ():
            if part.number in given:
                self._write(part)

    def _write(self, part: Part) -> None:
        assert self._file is not None
        first = os.fsencode(part.first)
        fixed = (part.proof, part.entries, part.newest_ns, part.manifest.size, part.manifest.digest, len(first))
        write_frame(self._file, self._fixed.pack(*fixed) + first + part.digests)

    def _finish(self) -> None:
        if self._file is None and self._is_damaged:
            self._begin()
        if self._file is not None:
            self._file.close()
            os.replace(self._name, self._path)
            self._file = None
        if self._path.exists():
            now_s = self._clock.now()
            os.utime(self._path, (now_s, now_s))

    def _give_up(self, error: OSError) -> None:
        self._monitor.problem(f"Parts of an unchanged tree are not remembered: {error}")
        self._is_off = True
        self._found, self._digests = [], []

    def _read(self) -> Generator[Part, None, None]:
        """Yield what is remembered; ends early, with a report, where it is damaged."""
        try:
            yield from _parts_at(self._path, self._head, self._algorithm)
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError, struct.error) as error:
            if not self._is_damaged:
                self._monitor.problem(f"Memory of parts {str(self._path)!r} is damaged and will be replaced: {error}")
            self._is_damaged = True
