"""Dedup across trees, counted in bytes on the wire between the real command and a real server."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from bench.relay import Relay, Wire
from tests.flow.servers import ServerProcess, server

__all__ = ["server"]

ISOLATE = str(Path(sys.executable).parent / "isolate")
FILES, CHANGED, FILE_BYTES = 400, 20, 10_000
ENTRY_BYTES = 200  # of the manifest, for each file
REQUEST_BYTES = 2_000  # headers of all requests, digests that are asked about


def archive(server: ServerProcess, tree: Path) -> Wire:
    with Relay(server.port) as relay:
        command = [ISOLATE, "archive", "-I", f"http://127.0.0.1:{relay.port}", str(tree)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return relay.wire


def test_a_tree_that_is_95_percent_equal_costs_its_difference(tmp_path: Path, server: ServerProcess) -> None:
    source = random.Random(1)
    contents = [source.randbytes(FILE_BYTES) for _ in range(FILES)]
    first, second = tmp_path / "first", tmp_path / "second"
    for tree, prefix in ((first, "a"), (second, "b")):
        for number, content in enumerate(contents):
            place = tree / f"{number % 7}{prefix}" / f"{prefix}{number}"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        for number in range(CHANGED):  # other files each time
            contents[number * 20] = source.randbytes(FILE_BYTES)
    whole, difference = archive(server, first), archive(server, second)
    overhead = FILES * (ENTRY_BYTES + 32) + REQUEST_BYTES
    assert FILES * FILE_BYTES < whole.sent_bytes < FILES * FILE_BYTES + overhead
    assert CHANGED * FILE_BYTES < difference.sent_bytes < CHANGED * FILE_BYTES + overhead
    assert archive(server, second).sent_bytes < overhead
