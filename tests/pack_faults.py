"""Files of packs that fail as a disk would, at one chosen system call, and remember what was asked of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from server.stores.pack_files import PackFiles


class FaultyFiles(PackFiles):
    """`fail(method, code, call)` lets the call-th next call of `method` fail with that errno, after half of its work.

    `fail_any(code, call)` counts the calls of all methods together. `calls` lists what happened, by method name.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failed = ""  # the method that failed last
        self._plans: dict[str, tuple[int, int]] = {}

    def fail(self, method: str, code: int = errno.EIO, call: int = 1) -> None:
        self._plans[method] = (call, code)

    def fail_any(self, code: int, call: int) -> None:
        self._plans["*"] = (call, code)

    @property
    def is_armed(self) -> bool:
        """Whether a failure is still to come."""
        return bool(self._plans)

    def create(self, path: Path) -> None:
        self._count("create")
        super().create(path)

    def open_end(self, path: Path) -> tuple[int, int]:
        self._count("open_end")
        return super().open_end(path)

    def write(self, descriptor: int, pieces: Sequence[bytes]) -> None:
        try:
            self._count("write")
        except OSError:
            data = b"".join(pieces)
            super().write(descriptor, [data[: len(data) // 2]])
            raise
        super().write(descriptor, pieces)

    def sync(self, descriptor: int) -> None:
        self._count("sync")
        super().sync(descriptor)

    def truncate(self, path: Path, length_bytes: int) -> None:
        self._count("truncate")
        super().truncate(path, length_bytes)

    def read(self, path: Path, places: Sequence[tuple[int, int]]) -> list[bytes]:
        self._count("read")
        return super().read(path, places)

    def length(self, path: Path) -> int:
        self._count("length")
        return super().length(path)

    def unlink(self, path: Path) -> None:
        self._count("unlink")
        super().unlink(path)

    def save(self, path: Path, content: bytes) -> None:
        self._count("save")
        super().save(path, content)

    def free_bytes(self, path: Path) -> int:
        self._count("free_bytes")
        return super().free_bytes(path)

    def sync_directory(self, path: Path) -> None:
        self._count("sync_directory")
        super().sync_directory(path)

    def _count(self, method: str) -> None:
        self.calls.append(method)
        for key in (method, "*"):
            if key in self._plans:
                left, code = self._plans.pop(key)
                if left == 1:
                    self.failed = method
                    raise OSError(code, os.strerror(code))
                self._plans[key] = (left - 1, code)
