"""The file `--task-summary-json`: written shard by shard while tasks end, put in order at the end.

Knows no server. The invariants: at most one shard is in memory, and the file appears whole or not at all.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from isolate.cas.files import atomic_file
from isolate.errors import IsolateError
from swarming import report
from swarming.collect import Shard


class Summary:
    """Collects shards for files; a context that owns a temporary file."""

    def __init__(self, paths: Sequence[Path], count: int, *, with_output: bool) -> None:
        self._paths, self._with_output = paths, with_output
        self._places: list[tuple[int, int] | None] = [None] * count
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._spool.close()

    def add(self, shard: Shard) -> None:
        """Remember what a shard came to."""
        if self._paths:
            text = _indented(report.summary_entry(shard, with_output=self._with_output)).encode()
            self._places[shard.index] = self._spool.tell(), len(text)
            self._spool.write(text)

    def write(self) -> None:
        """Write all files; raises IsolateError when one cannot be written there."""
        for path in self._paths:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_file(path) as file:
                    self._copy_to(file)
            except OSError as error:
                raise IsolateError(f"Cannot write {path}: {error.strerror}") from error
        self._spool.seek(0, 2)

    def _copy_to(self, file: Any) -> None:
        file.write(b'{\n  "shards": [')
        for number, place in enumerate(self._places):
            file.write(b",\n    " if number else b"\n    ")
            if place is None:
                file.write(b"null")
            else:
                self._spool.seek(place[0])
                file.write(self._spool.read(place[1]))
        file.write(b"\n  ]\n}\n" if self._places else b"]\n}\n")


def _indented(entry: object) -> str:
    return json.dumps(entry, indent=2, sort_keys=True).replace("\n", "\n    ")
