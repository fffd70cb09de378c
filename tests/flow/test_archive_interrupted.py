"""A server that dies in the middle of an archive: the archive says so, and the next one sends only what is missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from server.stores.blobs import GROUP_BYTES
from tests.flow.servers import ServerProcess, running_server
from tests.processes import wait_until
from tests.trees import Tree, read_tree, write_tree

ISOLATE = str(Path(sys.executable).parent / "isolate")
FILES = 3_000


def archive(server: ServerProcess, root: Path, *arguments: str) -> list[str]:
    return [ISOLATE, "archive", "-I", server.url, "--no-stat-cache", *arguments, str(root)]


def stored_bytes(data_dir: Path) -> int:
    return sum(path.stat().st_size for path in data_dir.rglob("*.pack"))


@pytest.mark.slow
def test_the_next_archive_sends_what_is_missing(tmp_path: Path) -> None:
    tree: Tree = {
        f"d{number:02}": {f"{index:03}": os.urandom(20_000) for index in range(FILES // 30)} for number in range(30)
    }
    root = write_tree(tmp_path / "tree", tree)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with running_server(tmp_path / "data") as server:
        with subprocess.Popen(archive(server, root), stdout=PIPE, stderr=PIPE, text=True) as first:
            # More than one group of commits: what is behind it in the file is not yet promised to anybody.
            assert wait_until(lambda: stored_bytes(server.data_dir) > GROUP_BYTES + 1_000_000)
            server.kill()
            out, err = first.communicate(timeout=120)
        assert (first.returncode, out) == (101, "")
        progress = r"(isolate: uploading [^\n]*\n)*"  # where it takes long
        assert re.fullmatch(progress + r"isolate: error: [^\n]*127\.0\.0\.1[^\n]*\n", err)
        kept_bytes = stored_bytes(server.data_dir)
    with running_server(tmp_path / "data") as server:
        second = subprocess.run(archive(server, root, "-v"), capture_output=True, text=True, timeout=120)
        assert second.returncode == 0
        uploaded = re.search(r"; ([\d,]+) uploaded", second.stderr)
        assert uploaded is not None
        assert 0 < int(uploaded[1].replace(",", "")) < FILES
        assert kept_bytes < stored_bytes(server.data_dir) < 1.2 * FILES * 20_000
        digest = second.stdout.split()[0]
        fetched = subprocess.run(
            [ISOLATE, "download", "-I", server.url, "-s", digest, "-t", str(tmp_path / "back")],
            env=environment,
            timeout=120,
        )
        assert fetched.returncode == 0
    assert read_tree(tmp_path / "back") == tree
