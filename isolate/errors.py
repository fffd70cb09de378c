"""Every public exception, grouped by the decision its catcher makes.

Knows no transport and no command line: a boundary translates what it met into one of these, once. A message starts with
a capital, names the thing that was wrong and has no full stop, so that it can be shown to a user as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isolate.cas.digest import Blob


class IsolateError(Exception):
    """Something foreseeable went wrong; the message is fit for a user."""


# The caller must ask for something else: exit status 2 on a command line (1 where a file has to be mended), 400 from a
# server.


class InvalidInput(IsolateError):
    """What was asked for makes no sense as written."""


class Rejected(InvalidInput):
    """The other side says so, with 400: whether the input or the other side is wrong, only the caller knows."""


class InvalidPath(InvalidInput):
    """A path that is absolute, leaves its root or cannot exist."""


class InvalidDigest(InvalidInput):
    """Not a digest of the algorithm in use."""


class InvalidNamespace(InvalidInput):
    """Not the name of a namespace."""


class InvalidManifest(InvalidInput):
    """A `.isolated` that breaks a rule of its format."""


class InvalidIsolateFile(InvalidInput):
    """A `.isolate` that breaks a rule of its language."""


class InvalidRecord(InvalidInput):
    """Bytes that are no record of the block format, or one that breaks a limit."""


class InvalidTask(InvalidInput):
    """A task request that breaks a rule; the message is the REST API's."""


class TooLarge(InvalidInput):
    """A blob, batch or body past a stated limit."""


# Bytes are not what their digest says. Whose fault it is decides the answer.


class BlobCorrupt(IsolateError):
    """Content does not match its digest."""

    def __init__(self, blob: Blob, found: bytes, where: str = "") -> None:
        place = f" in {where}" if where else ""
        content = found.hex() or "of another size"
        super().__init__(f"Blob {blob.digest.hex()} of {blob.size} bytes has content {content}{place}")
        self.blob, self.found = blob, found


class UploadCorrupt(BlobCorrupt):
    """The uploader sent the wrong bytes: its mistake, 400."""


class StoredCorrupt(BlobCorrupt):
    """The store kept the wrong bytes: our mistake; quarantined and treated as absent."""


# Something is not there.


class NotFound(IsolateError):
    """A thing that was named does not exist: 404."""


class BlobsMissing(NotFound):
    """Blobs that were needed are in no store we can reach."""

    def __init__(self, digests: Sequence[bytes], where: str = "the store") -> None:
        more = f" and {len(digests) - 1} more" if len(digests) > 1 else ""
        super().__init__(f"Blob {digests[0].hex()}{more} not found in {where}")
        self.digests = tuple(digests)


class LostFromCache(BlobsMissing):
    """Files went out of the local cache while they were needed; the store may have them: fetch them again."""


class ChunksMissing(BlobsMissing):
    """A large blob cannot be composed yet: some of its chunks were never stored."""


class OutputLost(IsolateError):
    """What a task printed was damaged on the disk of the server; all else about the task is there: 410."""


# The world moved: start over with fresh facts.


class FileChanged(IsolateError):
    """A file changed between being hashed and being uploaded."""

    def __init__(self, path: str) -> None:
        super().__init__(f"File {path!r} changed while it was being archived")
        self.path = path


class Unreadable(IsolateError):
    """A file or directory to be archived cannot be read."""


class Stale(IsolateError):
    """Another writer was faster; read again and retry the decision."""


class LeaseLost(IsolateError):
    """The attempt belongs to somebody else by now: stop working on it."""


# Wait, or go elsewhere.


class Unavailable(IsolateError):
    """The other side cannot answer now; the same call may succeed later.

    With `retry_after_s` it is there, and asks to come again; `waited_s` is how long who gave up has done so.
    """

    def __init__(self, message: str, retry_after_s: float | None = None, waited_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s, self.waited_s = retry_after_s, waited_s


class NoSpace(IsolateError):
    """A disk or a configured limit is full: 507."""


# Give up.


class Refused(IsolateError):
    """The other side understood and said no."""

    def __init__(self, message: str, status: int = 403) -> None:
        super().__init__(message)
        self.status = status


class Busy(IsolateError):
    """A resource that has one owner is owned by another process."""


class FormatTooNew(IsolateError):
    """Data written by a newer version of this program."""


class IndexCorrupt(IsolateError):
    """A database file is damaged; what it indexed is still there."""


class UploadFailed(IsolateError):
    """Blobs could not be stored: exit status 101, as the tools of 2020 have it."""


class InternalFailure(IsolateError):
    """A run failed for a reason that is not the command's own."""


def is_transient(error: BaseException) -> bool:
    """Say whether the same call may succeed later: the one predicate for "retry"."""
    return isinstance(error, (Unavailable, ConnectionError, TimeoutError))


def lacking(error: BaseException) -> str:
    """Return what the system let nobody have, in words for a user; "" for every other error."""
    cause = first_cause(error)
    if isinstance(cause, MemoryError):
        return "Not enough memory: see the limit on it (ulimit -v)"
    if isinstance(cause, RuntimeError) and "new thread" in str(cause):
        return "No thread can be started: see the limits on processes and memory (ulimit -u, ulimit -v)"
    return ""


def first_cause(error: BaseException) -> BaseException:
    """Return what a task group failed of: the first foreseeable error in it, else its first error."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [first_cause(inner) for inner in error.exceptions]
    return next((cause for cause in causes if isinstance(cause, IsolateError)), causes[0])
