"""The `run_isolated` command with a tree and a server: commands, parameters, outputs, the result file, the cache."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from isolate.cas.digest import Namespace
from isolate.entries import Entry, Kind
from isolate.isolated import Manifest
from tests.archived import OURS, archived, stored
from tests.flow.servers import ServerProcess
from tests.trees import Executable, Link, Tree

COMMAND = str(Path(sys.executable).parent / "run_isolated")
TELL = b"import json, os, sys; print(json.dumps([sys.argv, os.getcwd(), dict(os.environ), sorted(os.listdir('.'))]))"
TREE: Tree = {
    "data": {"tell.py": TELL, "in": b"input", "bin": {"x": Executable(b'#!/bin/sh\necho x "$@"\n')}},
    "cat": b"no program: it cannot be executed",
    "named": Executable(b"#!/bin/sh\necho own\n"),
    "link": Link("data/in"),
}


@dataclass
class Place:
    """A server with trees, and where runs keep their things."""

    server: ServerProcess
    root: Path
    namespace: Namespace = OURS

    def archive(self, tree: Tree, **what: Any) -> str:
        """Store `tree`, with a command or what else a manifest says; return its hash."""
        return asyncio.run(archived(self.server.url, self.root, tree, self.namespace, **what))

    def store(self, manifest: Manifest) -> str:
        return asyncio.run(stored(self.server.url, self.root, manifest, self.namespace))

    def call(
        self, *arguments: str | Path, disk: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run, and check that no work directory is left."""
        disk = disk or self.root
        places = ["-I", self.server.url, "--cache", disk / "cache", "--root-dir", disk / "work", "--no-log"]
        known = {"PATH": os.environ["PATH"], "HOME": str(self.root), **(env or {})}
        command = [COMMAND, *map(str, [*places, *arguments])]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.root, env=known)
        assert [name for name in os.listdir(disk / "work") if name.startswith("ir-")] == []
        return done

    def result(
        self, *arguments: str | Path, disk: Path | None = None
    ) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
        """Run with a result file; return what is in it, too."""
        told = self.root / "result.json"
        done = self.call("--json", told, *arguments, disk=disk)
        return json.loads(told.read_text()), done


@pytest.fixture
def place(server: ServerProcess, tmp_path: Path) -> Place:
    root = tmp_path / "place"
    root.mkdir()
    return Place(server, root)


def sizes(packed: str) -> list[int]:
    """Return the sizes in an `items_*`, as the format of 2020 has them."""
    found, value, delta, shift = [], 0, 0, 0
    for byte in zlib.decompress(base64.b64decode(packed)) if packed else b"":
        delta |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            value += delta
            found.append(value)
            delta = shift = 0
    return found


def test_command_of_the_tree_gets_more_arguments_parameters_and_its_directory(place: Place) -> None:
    root = place.archive(TREE, command=("tell.py", "${EXECUTABLE_SUFFIX}first"), relative_cwd="data")
    flags = ["--bot-file", "/bot.json", "--env", "OWN=${ISOLATED_OUTDIR}/${SWARMING_BOT_FILE}", "--env", "GONE="]
    flags += ["--env-prefix", "PREFIXED=./data", "--env-prefix", "PREFIXED=${ISOLATED_OUTDIR}"]
    words = ["a${ISOLATED_OUTDIR}/b", "${SWARMING_BOT_FILE}${SWARMING_BOT_FILE}", "--json"]
    inherited = {"GONE": "x", "KEPT": "${ISOLATED_OUTDIR}", "PREFIXED": "before"}
    done = place.call("-s", root, *flags, "--", *words, env=inherited)
    assert (done.returncode, done.stderr) == (0, "")
    argv, cwd, env, listed = json.loads(done.stdout)
    work = Path(cwd).parent.parent
    assert argv == ["tell.py", "first", f"a{work}/io/b", "/bot.json/bot.json", "--json"]
    assert (cwd, listed) == (f"{work}/ir/data", ["bin", "in", "tell.py"])
    assert env["OWN"] == f"{work}/io//bot.json"
    assert (env.get("GONE"), env["KEPT"], env["TMPDIR"]) == (None, "${ISOLATED_OUTDIR}", f"{work}/it")
    assert env["PREFIXED"] == f"{work}/ir/data:{work}/ir/${{ISOLATED_OUTDIR}}:before"


def test_raw_command_ignores_that_of_the_tree_and_its_directory(place: Place) -> None:
    root = place.archive(TREE, command=("tell.py",), relative_cwd="data")
    done = place.call("-s", root, "--raw-cmd", "--", "sh", "-c", "pwd; cat link")
    assert (done.returncode, done.stdout.endswith("/ir\ninput")) == (0, True)
    done = place.call("-s", root, "--raw-cmd", "--relative-cwd", "data/made", "--", "sh", "-c", "pwd; cat ../in")
    assert (done.returncode, done.stdout.endswith("/ir/data/made\ninput")) == (0, True)


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["cat", "link"], "input"),  # what cannot be executed is passed over in the search
        (["named"], "own\n"),  # the directory comes before PATH
        (["data/bin/x", "1"], "x 1\n"),
        (["data\\bin\\x"], "x\n"),  # written on Windows
        (["data/bin/x${EXECUTABLE_SUFFIX}", "2"], "x 2\n"),
    ],
)
def test_program_is_found(place: Place, words: list[str], printed: str) -> None:
    done = place.call("-s", place.archive(TREE), "--raw-cmd", "--", *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, "")


def test_parameter_in_the_name_of_a_program_is_not_searched_for(place: Place) -> None:
    done = place.call("-s", place.archive(TREE), "--raw-cmd", "--", "named${EXECUTABLE_SUFFIX}")
    assert (done.returncode, done.stdout) == (0, "own\n")  # it is what that means in the directory
    done = place.call("-s", place.archive(TREE), "--raw-cmd", "--", "true${EXECUTABLE_SUFFIX}")
    assert done.returncode == 1
    assert "/ir/true" in done.stderr.splitlines()[2]


def test_outputs_follow_links_and_keep_what_the_command_put_there(place: Place) -> None:
    code = (
        "mkdir -p d/empty e; ln -s ../data/in d/l; ln -s nowhere d/dangling; ln -s d alias; printf 1 > e/f\n"
        "printf own > ${ISOLATED_OUTDIR}/e; printf 2 > ${ISOLATED_OUTDIR}/g; test -d new/deep; chmod 755 d"
    )
    paths = [flag for path in ("d", "alias", "e", "link", "new/deep/absent") for flag in ("--output", path)]
    told, done = place.result("-s", place.archive(TREE), *paths, "--raw-cmd", "--", "sh", "-c", code)
    assert (done.returncode, done.stdout, told["exit_code"]) == (0, "", 0)
    warned = sorted(done.stderr.replace("run_isolated: warning: ", "").splitlines())
    assert warned == [
        "Output 'alias/dangling' does not exist; skipped",
        "Output 'd/dangling' does not exist; skipped",
        "Output 'e' is in the way of what the command wrote there itself; skipped",
        "Output 'new/deep/absent' does not exist; skipped",
    ]
    back = place.call("-s", told["outputs_ref"]["isolated"], "--raw-cmd", "--", "sh", "-c", "find . | sort; cat e */l")
    assert back.stdout.splitlines() == [
        *[".", "./alias", "./alias/empty", "./alias/l", "./d", "./d/empty", "./d/l", "./e", "./g", "./link"],
        "owninputinput",
    ]


def test_result_file_has_every_key(place: Place) -> None:
    root = place.archive(TREE)
    code = ["--raw-cmd", "--", "sh", "-c", "printf 12345 > ${ISOLATED_OUTDIR}/x; exit 3"]
    cold, _ = place.result("-s", root, *code)
    told, done = place.result("-s", root, *code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    text = (place.root / "result.json").read_text()
    assert text == json.dumps(told, sort_keys=True, separators=(",", ":"))
    assert (type(told.pop("duration")), told.pop("version")) == (float, 5)
    stats = told.pop("stats")["isolated"]
    outputs = told.pop("outputs_ref")
    assert told == {
        "exit_code": 3,
        "had_hard_timeout": False,
        "internal_failure": None,
        "cas_output_root": None,
    }
    assert outputs == {**outputs, "isolatedserver": place.server.url, "namespace": "blake3-zstd"}
    assert sorted(outputs) == ["isolated", "isolatedserver", "namespace"]
    assert sorted(stats) == ["download", "upload"]
    assert sorted(stats["download"]) == ["duration", "initial_number_items", "initial_size", "items_cold", "items_hot"]
    assert sorted(stats["upload"]) == ["duration", "items_cold", "items_hot"]
    assert (sizes(stats["download"]["items_cold"]), sizes(stats["upload"]["items_cold"])) == ([], [])
    assert 5 in sizes(stats["upload"]["items_hot"])
    first = cold["stats"]["isolated"]["download"]
    assert (first["initial_number_items"], first["initial_size"], sizes(first["items_hot"])) == (0, 0, [])
    assert sizes(first["items_cold"]) == sizes(stats["download"]["items_hot"])
    assert {5, len(TELL)} < set(sizes(first["items_cold"]))
    assert stats["download"]["initial_number_items"] == len(sizes(first["items_cold"])) + 2  # executable variants


def test_server_of_the_environment_and_a_run_without_outputs(place: Place) -> None:
    told, env = place.root / "json", {"ISOLATE_SERVER": place.server.url, "PATH": os.environ["PATH"]}
    flags = ["--no-log", "--root-dir", str(place.root / "w"), "--cache", str(place.root / "c")]
    words = ["-s", place.archive({"a": b"from there"}), "--json", str(told), "--raw-cmd", "--", "cat", "a"]
    done = subprocess.run([COMMAND, *flags, *words], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "from there", "")
    loaded = json.loads(told.read_text())
    assert (loaded["outputs_ref"], list(loaded["stats"]["isolated"])) == (None, ["download"])
    done = subprocess.run([COMMAND, *flags, "-v", "--clean"], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout) == (0, "")


def test_nothing_to_run_is_the_commands_own_failure(place: Place) -> None:
    told, done = place.result("-s", place.archive({"a": b""}))
    assert (done.returncode, done.stdout, told["exit_code"], told["internal_failure"]) == (0, "", 1, None)
    assert done.stderr.startswith("<No command was specified!>\n")
    outside = Entry("link", Kind.LINK, target=str(place.root))
    root = place.store(
        Manifest(algorithm=OURS.algorithm, entries=(outside,), command=("pwd",), relative_cwd="link/made")
    )
    done = place.call("-s", root)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "<Relative CWD is outside of run directory!>\n"
    assert not (place.root / "made").exists()


def test_failure_of_ours_is_the_status_when_the_command_has_none(place: Place) -> None:
    root = place.archive({"a": b"right"})
    harm = ["--map", "hardlink", "--raw-cmd", "--", "sh", "-c", "chmod u+w a; echo bad > a; exit $0"]
    assert [place.call("-s", root, *harm, code).returncode for code in ("0", "5")] == [1, 5]
    told, done = place.result("-s", root, *harm, "5")
    assert (done.returncode, told["exit_code"]) == (1, 5)
    assert "was overwritten" in told["internal_failure"]
    warning, error = done.stderr.splitlines()
    assert "is not as it was verified any more; dropped" in warning
    assert error == f"run_isolated: error: {told['internal_failure']}"
    assert place.call("-s", root, "--raw-cmd", "--", "cat", "a").stdout == "right"


def test_namespace_of_2020_by_name_and_outputs_in_it(place: Place) -> None:
    root = replace(place, namespace=Namespace.parse("default-gzip")).archive({"a": b"hello"})
    told, done = place.result("--namespace", "default-gzip", "-s", root, "--output", "a", "--raw-cmd", "--", "cat", "a")
    assert (done.returncode, done.stdout, told["outputs_ref"]["namespace"]) == (0, "hello", "default-gzip")
    assert len(told["outputs_ref"]["isolated"]) == 40


def test_cache_keeps_to_its_limits(place: Place) -> None:
    def count(root: str, *flags: str) -> tuple[int, int]:
        told, _ = place.result("-s", root, *flags, "--raw-cmd", "--", "true")
        before = told["stats"]["isolated"]["download"]
        return before["initial_number_items"], before["initial_size"]

    trees = [place.archive({f"{tree}-{name}": f"{tree} {name}".encode() * 500 for name in "abc"}) for tree in "xyz"]
    assert count(trees[0], "--max-items", "5") == (0, 0)
    assert count(trees[1], "--max-items", "5")[0] == 4  # three files and their manifest
    items, size_bytes = count(trees[2], "--max-cache-size", "4000")
    assert items <= 5
    assert size_bytes > 4000
    assert 0 < count(trees[2])[1] <= 4000
    flags = ["--cache", str(place.root / "cache"), "--root-dir", str(place.root / "work")]
    done = subprocess.run([COMMAND, *flags, "--clean", "--max-cache-size", "1", "-v"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert "items of" in done.stderr
    assert count(trees[0]) == (0, 0)


def test_many_runs_share_a_cache_that_is_too_small_for_them(place: Place) -> None:
    names = [f"f{number}" for number in range(12)]
    contents = {name: f"{name} ".encode() * 500 for name in names}
    trees = [names[first : first + 6] for first in range(7)]
    roots = [place.archive({name: contents[name] for name in tree}) for tree in trees]

    def use(number: int) -> str:
        """Everything is there and right while others evict; return what is wrong."""
        tree, root = trees[number % 7], roots[number % 7]
        apart = ["--root-dir", str(place.root / "work" / str(number)), "--max-items", "5"]
        done = place.call("-s", root, *apart, "--raw-cmd", "--", "sh", "-c", "cat *; ls | wc -l >&2")
        expected = (0, b"".join(contents[name] for name in sorted(tree)).decode(), "6\n")
        said = done.returncode, done.stdout, done.stderr
        return "" if said == expected else f"{number}: {said[0]} {said[2]}"

    with ThreadPoolExecutor(8) as threads:
        assert [problem for problem in threads.map(use, range(12)) if problem] == []
    told, _ = place.result("-s", roots[0], "--verify-inputs", "--raw-cmd", "--", "true")
    assert told["stats"]["isolated"]["download"]["initial_number_items"] <= 5
    assert os.listdir(place.root / "cache/sessions") == []


def test_hint_of_a_named_cache_makes_room_for_it(place: Place, disk: Path) -> None:
    places = {"--named-cache-root": "named", "--root-dir": "work", "--cache": "cache"}
    flags = [part for flag, name in places.items() for part in (flag, str(disk / name))]

    def run(name: str, hint: str, code: str) -> str:
        command = [
            COMMAND,
            *flags,
            "--no-log",
            "--min-free-space",
            "1000000",
            "--named-cache",
            name,
            "here",
            hint,
            "sh",
            "-c",
            code,
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=disk)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    fill = "head -c 4000000 /dev/zero > here/file"
    for name in ("older", "newer"):
        run(name, "-1", fill)
    run("older", "0", "touch here/used")  # now the other one is the oldest
    run("large", "6000000", "true")
    assert sorted(os.listdir(disk / "named/named")) == ["large", "older"]
    assert run("older", "0", "ls here") == "file\nused\n"


def test_full_disk_is_one_clear_line(place: Place, disk: Path) -> None:
    zero = disk / "zero"
    assert subprocess.run(["cp", "/dev/zero", zero], capture_output=True).returncode
    flags = ["--min-free-space", "0"]
    root = place.archive({"a": b"x" * 9000})
    told, done = place.result(*flags, "-s", root, "--raw-cmd", "--", "cat", "a", disk=disk)
    assert (done.returncode, done.stdout, told["exit_code"]) == (1, "", None)
    assert done.stderr.count("\n") == 1
    assert "space" in done.stderr.lower()
    log = subprocess.run(
        [COMMAND, "--root-dir", place.root / "work", "--json", disk / "json", "-l", disk / "log", "echo", "ran"],
        capture_output=True,
        text=True,
        cwd=place.root,
    )
    assert (log.returncode, log.stderr.count("\n")) == (1, 1)
    zero.unlink()
    assert place.call(*flags, "-s", root, "--raw-cmd", "--", "wc", "-c", "a", disk=disk).stdout == "9000 a\n"
