"""What an archiving process and its workers say to each other.

MessagePack behind its length in 4 bytes, both ways. Paths are bytes, because a name need not be text. Knows nothing of
how a job is done; never carries the content of a file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence

import msgspec

from isolate import errors
from isolate.cas.digest import Blob, fast_blob
from isolate.cas.store import Written
from isolate.errors import InternalFailure, IsolateError
from isolate.hashing import Hashed, fast_hashed
from isolate.large import Stored
from isolate.scan import Stamp

MAX_MESSAGE_BYTES = 64 << 20  # a batch of paths is below 3 MB; more means that the two sides disagree
_LENGTH_BYTES = 4


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """An `IsolateError` on its way between processes; texts are bytes, because they may name files."""

    name: str
    message: bytes
    details: dict[str, bytes | int | float | None]


class Setup(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The first message: for whom to work."""

    url: str
    namespace: str
    user_agent: str
    kept_bytes: int  # this and the next: as `Room` has them
    uploading: int


class HashJob(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Hash these files; the paths are joined by NUL, which none of them can hold. Stamps: as `FileReader.hash`."""

    number: int
    paths: bytes
    stamps: list[Stamp] = []


class LargeJob(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Send this large file while it is read."""

    number: int
    path: bytes


class UploadJob(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Upload these files: the paths as in a HashJob, and the blob of each."""

    number: int
    paths: bytes
    blobs: list[Blob]


class HashDone(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The answer to a HashJob: the digests of files with the stamps that it named, in its order, and the others.

    These are named by their place in the job.
    """

    number: int
    digests: bytes
    others: list[tuple[int, Hashed]]
    failures: list[tuple[int, Failure]]


class LargeGoesOn(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """What comes before the answer to a LargeJob: how many bytes more were read, and how many of them are sent."""

    number: int
    read_bytes: int
    sent_bytes: int


class LargeDone(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The answer to a LargeJob."""

    number: int
    stored: Stored


class UploadDone(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The answer to an UploadJob: the store has acknowledged everything."""

    number: int
    written: Written


class JobFailed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The answer to a job that could not be done."""

    number: int
    failure: Failure


Job = HashJob | LargeJob | UploadJob
Request = Setup | Job
Reply = HashDone | LargeGoesOn | LargeDone | UploadDone | JobFailed

encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Request).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode


def unframed(received: bytearray) -> Iterator[bytes]:
    """Yield the whole messages at the start of `received` and remove them; raises InternalFailure."""
    while len(received) >= _LENGTH_BYTES:
        end = _LENGTH_BYTES + int.from_bytes(received[:_LENGTH_BYTES], "little")
        if end > MAX_MESSAGE_BYTES:
            raise InternalFailure(f"A message of {end} bytes between processes")
        if len(received) < end:
            return
        message = bytes(received[_LENGTH_BYTES:end])
        del received[:end]
        yield message


def framed(message: Request | Reply) -> bytes:
    """Return `message` as it travels."""
    body = encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body


def pack_error(error: IsolateError) -> Failure:
    """Return `error` without its cause, and of its attributes the simple ones."""
    details = {
        name: os.fsencode(value) if isinstance(value, str) else value
        for name, value in vars(error).items()
        if isinstance(value, (str, int, float, type(None)))
    }
    return Failure(type(error).__name__, os.fsencode(str(error)), details)


def unpack_error(failure: Failure) -> IsolateError:
    """Return an error of the same class, message and simple attributes."""
    kind = getattr(errors, failure.name, None)
    if not (isinstance(kind, type) and issubclass(kind, IsolateError)):
        kind = InternalFailure
    error: IsolateError = kind.__new__(kind)
    error.args = (os.fsdecode(failure.message),)
    for name, value in failure.details.items():
        setattr(error, name, os.fsdecode(value) if isinstance(value, bytes) else value)
    return error


def pack_paths(paths: Sequence[str]) -> bytes:
    return os.fsencode("\0".join(paths))


def unpack_paths(packed: bytes) -> list[str]:
    return os.fsdecode(packed).split("\0") if packed else []


def hash_done(number: int, results: Sequence[Hashed | IsolateError], stamps: Sequence[Stamp]) -> HashDone:
    digests: list[bytes] = []
    others: list[tuple[int, Hashed]] = []
    failures: list[tuple[int, Failure]] = []
    for at, result in enumerate(results):
        if isinstance(result, IsolateError):
            failures.append((at, pack_error(result)))
        elif stamps and result.stamp is stamps[at]:
            digests.append(result.blob.digest)
        else:
            others.append((at, result))
    return HashDone(number, b"".join(digests), others, failures)


def hashed(done: HashDone, stamps: Sequence[Stamp]) -> list[Hashed | IsolateError]:
    """Return the results of a HashJob with these `stamps` as they were before they travelled."""
    unusual: dict[int, Hashed | IsolateError] = dict(done.others)
    unusual.update((at, unpack_error(failure)) for at, failure in done.failures)
    usual = [stamp for at, stamp in enumerate(stamps) if at not in unusual] if unusual else stamps
    digest_bytes = len(done.digests) // len(usual) if usual else 0
    found: list[Hashed | IsolateError] = [
        fast_hashed((fast_blob((digest, stamp[0])), stamp))
        for (digest,), stamp in zip(struct.iter_unpack(f"{digest_bytes}s", done.digests), usual, strict=True)
    ] if usual else []  # fmt: skip
    for at in sorted(unusual):
        found.insert(at, unusual[at])
    return found
