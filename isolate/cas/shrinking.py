"""Whether contents are worth compressing: a trial of a part, and the frame if it saves enough.

Pure: knows no record and no blob. The invariant: what comes compressed is smaller than it was by what a reader's time
is worth; everything else stays as it is.
"""

from __future__ import annotations

from isolate.cas.codec import zstd_compress
from isolate.cas.digest import Codec

TRIAL_BYTES, TRIAL_PIECES = 64 << 10, 4
WORTHWHILE = 0.97  # a frame that saves less than 3 % costs its reader more than it saves

Content = bytes | memoryview


def is_worth_trying(plain: Content, level: int) -> bool:
    """Say whether `plain` will probably shrink: what is small is tried as a whole."""
    if len(plain) <= TRIAL_BYTES:
        return True
    sample = _sample(plain)
    return len(zstd_compress(sample, level)) < WORTHWHILE * len(sample)


def shrunk(plain: Content, level: int) -> tuple[Codec, Content]:
    """Return `plain` as a frame, or as it is when it does not shrink enough."""
    frame = zstd_compress(plain, level)
    return (Codec.ZSTD, frame) if len(frame) < WORTHWHILE * len(plain) else (Codec.IDENTITY, plain)


def _sample(plain: Content) -> bytes:
    """Return TRIAL_BYTES from all over `plain`: the beginning of a file is often of another kind than the rest."""
    step = len(plain) // TRIAL_PIECES
    size = TRIAL_BYTES // TRIAL_PIECES
    with memoryview(plain) as view:
        return b"".join([view[start : start + size] for start in range(0, TRIAL_PIECES * step, step)])
