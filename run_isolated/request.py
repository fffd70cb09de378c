"""What a launcher is asked to start, and how that is written.

Knows no process. Imports little, because the launcher pays for it with every run. The invariant: what is decoded is
what was encoded, whatever bytes are in it but NUL, which no system call can pass on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

LOWER_PRIORITY, NO_NETWORK, LIMITED = b"p", b"n", b"l"
TRIAL, AHEAD = b"t", b"a"
HEADER_BYTES = 8  # length of a request, big-endian


class Request:
    """What to start: `argv[0]` is a path, all texts are in the file system's encoding.

    `wishes` are of LOWER_PRIORITY, NO_NETWORK, LIMITED: not without the group, TRIAL: only see if it mounts,
    AHEAD: only be ready for a command in the group. `group` is the control group to run in, if there is one, `overlay`
    what to mount first, see overlay.py.
    """

    __slots__ = ("argv", "cwd", "env", "group", "overlay", "wishes")

    def __init__(
        self,
        cwd: bytes,
        argv: list[bytes],
        env: dict[bytes, bytes],
        wishes: bytes = b"",
        group: bytes = b"",
        overlay: tuple[bytes, ...] = (),
    ) -> None:
        self.cwd, self.argv, self.env = cwd, argv, env
        self.wishes, self.group, self.overlay = wishes, group, overlay

    @classmethod
    def of(
        cls,
        argv: Sequence[str],
        cwd: str,
        env: Mapping[str, str],
        wishes: bytes = b"",
        group: str = "",
        overlay: Sequence[str] = (),
    ) -> Request:
        """Return the request for texts; raises ValueError for one with a NUL, which no system call can pass on."""
        if any("\0" in text for text in (cwd, *argv, *env, *env.values())):
            raise ValueError("embedded null byte")
        encode = os.fsencode
        variables = {encode(key): encode(value) for key, value in env.items()}
        mounted = tuple(map(encode, overlay))
        return cls(encode(cwd), [encode(part) for part in argv], variables, wishes, encode(group), mounted)

    def encode(self) -> bytes:
        variables = [key + b"=" + value for key, value in self.env.items()]
        counts = [str(len(texts)).encode() for texts in (self.overlay, self.argv)]
        body = b"\0".join([self.wishes, self.group, self.cwd, *counts, *self.overlay, *self.argv, *variables])
        return len(body).to_bytes(HEADER_BYTES) + body

    @classmethod
    def decode(cls, body: bytes) -> Request:
        wishes, group, cwd, mounted, count, *rest = body.split(b"\0")
        overlay, rest = tuple(rest[: int(mounted)]), rest[int(mounted) :]
        variables = (text.partition(b"=") for text in rest[int(count) :])
        return cls(cwd, rest[: int(count)], {key: value for key, _, value in variables}, wishes, group, overlay)
