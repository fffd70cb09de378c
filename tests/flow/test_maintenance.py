"""The maintenance commands on what a real server left, and packs that somebody deleted."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flow.servers import COMMAND, running_server

ISOLATE = str(Path(sys.executable).parent / "isolate")


def ran(*command: str | Path) -> tuple[int, str, str]:
    """Run a command; returns its exit status and what it said."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def archive(url: str, tree: Path) -> str:
    status, said, error = ran(ISOLATE, "archive", "-I", url, tree)
    assert (status, error) == (0, "")
    return said.split()[0]


def download(url: str, root: str, tmp_path: Path) -> None:
    """Fetch into `back`, through a cache of the test's own."""
    status, _, error = ran(
        ISOLATE, "download", "-I", url, "-s", root, "-t", tmp_path / "back", "--cache", tmp_path / "cache"
    )
    assert (status, error) == (0, "")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(20):
        (tree / f"{number}.txt").write_text(f"file {number}\n" * 50)
    return tree


def test_commands_wait_for_the_server_to_stop_and_then_agree(tmp_path: Path, tree: Path) -> None:
    data = tmp_path / "data"
    with running_server(data) as server:
        root = archive(server.url, tree)
        for command in ("stats", "check", "gc"):
            status, said, error = ran(COMMAND, command, "--data", data)
            assert (status, said) == (1, "")
            assert error == f"swarming-server: error: A server is running on {data}: stop it first\n"
        assert server.stop() == 0
    status, said, error = ran(COMMAND, "stats", "--json", "--data", data)
    found = json.loads(said)
    assert (status, error, [entry["blobs"] for entry in found["namespaces"]]) == (0, "", [21])
    assert found["live_bytes"] == found["pack_bytes"] > 0
    assert "blake3-zstd: 21 blobs" in ran(COMMAND, "stats", "--data", data)[1]
    assert ran(COMMAND, "check", "--read-data", "--data", data)[0] == 0
    status, said, _ = ran(COMMAND, "check", "--rebuild-index", "--data", data)
    assert status == 0
    assert said.splitlines()[0].endswith("21 blobs, 0 bad ranges")
    with running_server(data) as server:
        assert archive(server.url, tree) == root
        download(server.url, root, tmp_path)
    assert (tmp_path / "back" / "7.txt").read_text() == (tree / "7.txt").read_text()


def test_after_a_kill_gc_evicts_nothing_and_says_why(tmp_path: Path, tree: Path) -> None:
    data = tmp_path / "data"
    with running_server(data, "--keep", "1h") as server:
        archive(server.url, tree)
        server.kill()
    status, said, _ = ran(COMMAND, "gc", "--data", data, "--max-size", "1")
    assert status == 0
    first, *others = said.splitlines()
    assert first.startswith("Evicted 0 blocks (0 B); compacted 0 packs: 0 B gained; still ")
    assert first.endswith(" KiB above the limits")
    assert others == [
        "Nothing is evicted: the last server was killed. Let one run for 6 hours first",
    ]
    assert ran(COMMAND, "gc", "--data", data, "--dry-run")[0] == 0


def test_a_full_disk_is_looked_at_and_served(disk: Path, tmp_path: Path, tree: Path) -> None:
    data = disk / "data"
    with running_server(data, "--min-free", "0") as server:
        root = archive(server.url, tree)
        assert server.stop() == 0
    filled = subprocess.run(["dd", "if=/dev/zero", f"of={disk / 'filling'}", "bs=1024"], capture_output=True)
    assert b"No space left" in filled.stderr
    for command in (("check", "--read-data"), ("gc", "--dry-run")):
        status, said, error = ran(COMMAND, *command, "--data", data)
        assert (status, error, "1 pack, " in said or said.startswith(("Would", "Evicted"))) == (0, "", True)
    with running_server(data) as server:
        download(server.url, root, tmp_path)
        assert server.stop() == 0
    assert (tmp_path / "back" / "7.txt").read_text() == (tree / "7.txt").read_text()


def test_check_finds_a_flipped_bit(tmp_path: Path, tree: Path) -> None:
    data = tmp_path / "data"
    with running_server(data) as server:
        archive(server.url, tree)
        assert server.stop() == 0
    (pack,) = data.rglob("*.pack")
    content = bytearray(pack.read_bytes())
    content[-20] ^= 1
    pack.write_bytes(bytes(content))
    status, said, error = ran(COMMAND, "check", "--read-data", "--data", data)
    assert (status, error) == (1, "")
    assert "is bad: Record is damaged: its check differs" in said
    assert said.splitlines()[-1].endswith("1 bad record quarantined")
    assert ran(COMMAND, "check", "--read-data", "--data", data)[0] == 0
    status, said, _ = ran(COMMAND, "check", "--read-data=1%", "--seed", "7", "--data", data)
    assert (status, "in 1 of them (--seed=7 chooses the same)" in said) == (0, True)
    status, said, _ = ran(COMMAND, "check", "--rebuild-index", "--data", data)
    assert (status, said.splitlines()[-1].endswith("0 B read: 1 bad range set aside")) == (1, True)
    assert {path.stat().st_mode & 0o777 for path in data.glob("*.sqlite*")} == {0o600}


def test_check_says_each_time_that_output_of_tasks_is_gone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_server(data) as server:
        assert server.stop() == 0
    with sqlite3.connect(data / "tasks.sqlite") as connection:
        connection.execute("INSERT INTO outputs VALUES (1048577, 1, zeroblob(32), 5)")
    connection.close()
    for _ in range(2):
        status, said, error = ran(COMMAND, "check", "--data", data)
        assert (status, error) == (1, "")
        first, last = said.splitlines()
        assert first.startswith("What run ")
        assert last.endswith("1 output of tasks gone")


def test_packs_that_were_deleted_are_archived_again_and_fetched(tmp_path: Path, tree: Path) -> None:
    data = tmp_path / "data"
    with running_server(data) as server:
        root = archive(server.url, tree)
        assert server.stop() == 0
    for pack in data.rglob("*.pack"):
        pack.unlink()
    with running_server(data) as server:
        assert archive(server.url, tree) == root
        download(server.url, root, tmp_path)
    assert {path.name: path.read_text() for path in (tmp_path / "back").iterdir()} == {
        path.name: path.read_text() for path in tree.iterdir()
    }


def test_a_garbled_index_is_made_anew_from_the_packs(tmp_path: Path, tree: Path) -> None:
    data = tmp_path / "data"
    with running_server(data) as server:
        root = archive(server.url, tree)
        assert server.stop() == 0
    (data / "blobs.sqlite").write_bytes(b"garbage " * 10_000)
    advice = "blobs.sqlite is damaged: file is not a database (swarming-server check --rebuild-index makes it anew"
    for command in (("stats",), ("gc",), ("check",), ("serve", "--port", "0")):
        status, said, error = ran(COMMAND, *command, "--data", data)
        assert (status, said, error.count("\n")) == (1, "", 1)
        assert advice in error
    assert ran(COMMAND, "check", "--rebuild-index", "--read-data", "--data", data)[0] == 0
    with running_server(data) as server:
        download(server.url, root, tmp_path)


def test_what_is_promised_stays_and_an_upload_that_does_not_fit_is_told_why(tmp_path: Path) -> None:
    data, first, second = tmp_path / "data", tmp_path / "first", tmp_path / "second"
    for number, folder in enumerate((first, second)):
        folder.mkdir()
        (folder / "large").write_bytes(random.Random(number).randbytes(700_000))
    with running_server(data, "--max-size", "1M") as server:
        root = archive(server.url, first)
        status, said, error = ran(ISOLATE, "archive", "-I", server.url, second)
        assert (status, said, error.count("\n")) == (101, "", 1)
        assert "more do not fit, and what was asked for within 6 hours stays" in error
        download(server.url, root, tmp_path)
        assert server.stop() == 0
    with sqlite3.connect(data / "blobs.sqlite") as connection:
        connection.execute("UPDATE block SET touched_h = touched_h - 9")
    connection.close()
    with running_server(data, "--max-size", "1M") as server:
        archive(server.url, second)
    assert sum(pack.stat().st_size for pack in data.rglob("*.pack")) < 1 << 20  # the first had to go


@pytest.mark.parametrize("command", ["check", "gc", "stats"])
def test_a_directory_of_nobody_is_refused_and_not_made(tmp_path: Path, command: str) -> None:
    status, said, error = ran(COMMAND, command, "--data", tmp_path / "absent")
    assert (status, said) == (2, "")
    assert error == f"swarming-server: error: {tmp_path}/absent is not the data directory of a server\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("serve", "--keep", "10m"), "--keep 10m: blobs are kept for at least an hour"),
        (("serve", "--max-size", "lots"), "'lots' is not a size"),
        (("gc", "--min-free", "-5"), "'-5' is not a size"),
        (("check", "--read-data=101%"), "'101%' is not a percentage"),
    ],
)
def test_limits_that_make_no_sense(tmp_path: Path, arguments: tuple[str, ...], reason: str) -> None:
    status, said, error = ran(COMMAND, *arguments, "--data", tmp_path / "data")
    assert (status, said, error.count("\n")) == (2, "", 1)
    assert reason in error
