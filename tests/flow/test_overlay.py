"""Trees mounted for one command, seen from outside: real runs, hostile, killed, and at the same time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.archived import archived
from tests.flow.servers import ServerProcess
from tests.trees import Executable, Tree

COMMAND = str(Path(sys.executable).parent / "run_isolated")
TREE: Tree = {
    "many": {f"f{number}": b"content %d" % number for number in range(300)},
    "bin": {"tool": Executable(b"#!/bin/sh\necho right\n")},
    "e": b"",
}
OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private")  # they end with the command
LOOK = "cat many/* | cksum; find . | sort | cksum; tool; pwd -P | sed 's:.*/work/[^/]*/::'"
# What the strongest write there is looks like: a stat shows what it did before. Then all else that comes to mind.
HARM = """
import contextlib, os, shutil, subprocess
with contextlib.suppress(OSError):
    os.link("many/f8", "../it/stash"); print("a name outside")
for name in ("bin/tool", "many/f7"):
    before = os.stat(name); os.chmod(name, 0o700)
    with open(name, "r+b") as file: file.write(b"X" * 4)
    os.chmod(name, before.st_mode & 0o777); os.utime(name, ns=(before.st_atime_ns, before.st_mtime_ns))
shutil.rmtree("many"); shutil.move("bin", "moved"); os.mkdir("bin")
os.chmod("e", 0o600); open("e", "w").write("not empty")
for call in (["umount", "."], ["umount", "-l", "."], ["mount", "-o", "remount,rw", "."]):
    subprocess.run(call, stderr=subprocess.DEVNULL)
shutil.rmtree("../overlay", ignore_errors=True); os.chmod("../overlay/..", 0)
"""


@dataclass
class Place:
    """A server with one tree, and a machine that runs commands over it."""

    server: ServerProcess
    root: Path
    hash: str = ""

    def start(
        self, *command: str, work: Path | None = None, flags: tuple[str, ...] = (), under: tuple[str, ...] = ()
    ) -> subprocess.Popen[str]:
        places = ["--cache", str(self.root / "cache"), "--root-dir", str(work or self.root / "work"), "--no-log"]
        about = ["-s", self.hash, "--map", "overlay", "--env-prefix", "PATH=./bin", "--json", str(self.told), *flags]
        arguments = [*under, COMMAND, "-I", self.server.url, *places, *about, "--raw-cmd", "--", *command]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.root)

    def call(self, *command: str, work: Path | None = None, flags: tuple[str, ...] = ()) -> tuple[str, dict[str, Any]]:
        with self.start(*command, work=work, flags=flags) as process:
            said, problems = process.communicate()
        result: dict[str, Any] = json.loads(self.told.read_text())
        mapped = result["stats"]["isolated"]["download"]["mapped"]
        if not flags and mapped != "overlay":
            pytest.skip(f"overlays are not allowed here: {problems}")
        return said, result

    @property
    def told(self) -> Path:
        return self.root / "result.json"

    @property
    def kept(self) -> list[str]:
        return [path.name for path in (self.root / "cache/trees").glob("*-*")]


@pytest.fixture
async def place(server: ServerProcess, tmp_path: Path) -> Place:
    place = Place(server, tmp_path / "place")
    place.hash = await archived(server.url, place.root, TREE)
    return place


def test_whatever_a_command_does_the_next_one_finds_the_same_tree(place: Place) -> None:
    found, _ = place.call("sh", "-c", LOOK)
    assert found.splitlines()[2:] == ["right", "ir"]
    kept = place.kept
    said, result = place.call(sys.executable, "-c", HARM)
    assert (said, result["exit_code"], result["internal_failure"]) == ("", 0, None)
    assert place.call("sh", "-c", LOOK)[0] == found
    assert place.kept == kept, "one tree, and nobody had to correct it"
    assert os.listdir(place.root / "work") == []


def test_runs_at_the_same_time_share_one_tree_and_a_killed_one_leaves_nothing(place: Place) -> None:
    found, _ = place.call("sh", "-c", LOOK)
    script = f"{LOOK}; rm -r many; echo ready; exec sleep 1000"
    with place.start("sh", "-c", script) as one, place.start("sh", "-c", script) as other:
        for process in (one, other):
            assert process.stdout is not None
            assert "".join(iter(process.stdout.readline, "ready\n")) == found
        assert len(place.kept) == 1
        one.kill()
        other.kill()
    assert str(place.root) not in Path("/proc/self/mountinfo").read_text()
    assert place.call("sh", "-c", LOOK)[0] == found
    assert (os.listdir(place.root / "work"), len(place.kept)) == ([], 1)


def test_cache_that_is_mounted_twice_cannot_be_hidden_and_the_tree_has_links(place: Place) -> None:
    if subprocess.run([*OWN_MOUNTS, "true"], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here, or not to us")
    said, _ = place.call("sh", "-c", LOOK)
    other = place.root / "other"
    other.mkdir()
    mount = f'mount --bind {place.root / "cache"} {other} && exec "$@"'
    with place.start("sh", "-c", LOOK, under=(*OWN_MOUNTS, "sh", "-c", mount, "sh")) as process:
        assert process.communicate()[0] == said
    mapped = json.loads(place.told.read_text())["stats"]["isolated"]["download"]["mapped"]
    assert mapped.startswith("auto: the cache, which the command must not see, is mounted elsewhere")
    assert os.listdir(other) == []


def test_outputs_are_taken_and_where_the_tree_is_needed_for_them_it_has_links(place: Place) -> None:
    script = "echo out > ${ISOLATED_OUTDIR}/o; pwd -P; ../../bin/tool"
    said, result = place.call("sh", "-c", script, flags=("--relative-cwd", "new/dir"))
    assert said.splitlines()[1] == "right"
    assert said.splitlines()[0].endswith("/ir/new/dir")
    assert result["outputs_ref"] is not None
    _, result = place.call("sh", "-c", "echo out > e2", flags=("--output", "e2"))
    assert result["stats"]["isolated"]["download"]["mapped"].startswith("auto: outputs are taken")
    assert result["outputs_ref"] is not None


def test_the_work_directory_may_be_on_another_disk_than_the_cache(place: Place, disk: Path) -> None:
    script = f"{LOOK}; echo x > new"
    found, _ = place.call("sh", "-c", script, work=disk / "work")
    assert found.splitlines()[2:] == ["right", "ir"]
    assert place.call("sh", "-c", script, work=disk / "work")[0] == found
    assert os.listdir(disk / "work") == []
