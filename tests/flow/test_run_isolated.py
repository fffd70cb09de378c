"""Runs against a real server: from a hash to outputs, whatever the command does."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.digest import Namespace
from isolate.cas.remote import HttpStore
from isolate.clock import Clock, SystemClock
from isolate.entries import Entry, Kind
from isolate.fetch import fetch
from isolate.http import HttpClient
from isolate.isolated import Manifest
from isolate.monitor import Monitor, NullMonitor, TallyMonitor
from run_isolated import attempt
from run_isolated.attempt import Attempt
from run_isolated.mapper import How, apply
from run_isolated.plans import Plans
from run_isolated.result import RunResult, Stopped
from run_isolated.run import RunSpec, finished, run
from run_isolated.stopping import Check
from tests.archived import OURS, archived, stored
from tests.flow.servers import ServerProcess
from tests.trees import Executable, Link, Tree, read_tree

COMMAND = str(Path(sys.executable).parent / "run_isolated")
TREE: Tree = {
    "bin": {"copy.sh": Executable(b'#!/bin/sh\ncp -R data "$1"\n')},
    "data": {"empty": b"", "big": bytes(range(256)) * 20_000, "dir": {}, "link": Link("big")},
}


@dataclass
class Place:
    """A server, and where runs on this machine keep their things."""

    server: ServerProcess
    root: Path

    async def archive(self, tree: Tree, namespace: Namespace = OURS, **what: Any) -> str:
        """Store `tree`, with a command or what else a manifest says; return its hash."""
        return await archived(self.server.url, self.root, tree, namespace, **what)

    async def store(self, manifest: Manifest, namespace: Namespace = OURS) -> str:
        """Store a manifest; return its hash."""
        return await stored(self.server.url, self.root, manifest, namespace)

    async def download(self, root: str) -> Tree:
        """Return the tree whose hash is `root`, fetched through a cache of its own."""
        clock, monitor, aside = SystemClock(), NullMonitor(), self.root / f"download-{root[:8]}"
        async with HttpClient(self.server.url, user_agent="tests") as client:
            with LocalCache.open(aside / "cache", OURS, CachePolicy(), clock, monitor) as cache:
                fetched = await fetch(HttpStore(client, OURS), cache, root, monitor)
                apply(Plans(fetched.tree), cache, aside / "tree", How.COPY)
                return read_tree(aside / "tree")

    def spec(self, *command: str, **fields: Any) -> RunSpec:
        spec = RunSpec(
            root_dir=self.root / "work",
            cache_dir=self.root / "cache",
            base_env={"PATH": os.environ["PATH"]},
            server=self.server.url,
            command=command,
        )
        return replace(spec, **fields)

    async def run(self, *command: str, **fields: Any) -> tuple[RunResult, str]:
        """Return the result of a run and what its command printed, having checked that it left nothing."""
        done = await execute(self.spec(*command, **fields))
        assert os.listdir(self.root / "work") == []
        return done

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        flags = ["-I", self.server.url, "--cache", str(self.root / "cache"), "--root-dir", str(self.root / "work")]
        done = subprocess.run([COMMAND, *flags, *arguments], capture_output=True, text=True, cwd=self.root)
        assert os.listdir(self.root / "work") == []
        return done


async def execute(spec: RunSpec, stop: asyncio.Event | None = None) -> tuple[RunResult, str]:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader:
        try:
            result = await run(
                spec, stdout=write, stop=stop or asyncio.Event(), monitor=TallyMonitor(), clock=SystemClock()
            )
        finally:
            os.close(write)
        return result, reader.read().decode()  # ends only when nobody can write any more


@pytest.fixture
def place(server: ServerProcess, tmp_path: Path) -> Place:
    root = tmp_path / "place"
    root.mkdir()
    return Place(server, root)


async def test_tree_is_mapped_its_command_run_and_its_outputs_are_uploaded(place: Place) -> None:
    root = await place.archive(TREE, command=("bin/copy.sh",), relative_cwd=".")
    result, printed = await place.run("${ISOLATED_OUTDIR}/copied", isolated=root)
    assert (result.exit_code, result.internal_failure, printed) == (0, None, "")
    assert result.outputs is not None
    assert (result.outputs.isolatedserver, result.outputs.namespace) == (place.server.url, "blake3-zstd")
    assert await place.download(result.outputs.isolated) == {"copied": TREE["data"]}


async def test_second_run_transfers_nothing(place: Place) -> None:
    root = await place.archive(TREE, command=("bin/copy.sh",))
    cold, _ = await place.run("${ISOLATED_OUTDIR}/x", isolated=root)
    warm, _ = await place.run("${ISOLATED_OUTDIR}/x", isolated=root)
    assert cold.stats.download is not None
    assert warm.stats.download is not None
    assert warm.stats.upload is not None
    assert sorted(warm.stats.download.items_hot) == sorted(cold.stats.download.items_cold)
    assert (list(warm.stats.download.items_cold), warm.stats.upload.items_cold) == ([], ())
    assert warm.stats.initial_number_items
    assert warm.outputs == cold.outputs


async def test_command_line_announces_the_outputs(place: Place) -> None:
    root = await place.archive({"a": b"hello"})
    done = place.call("-s", root, "--", "sh", "-c", "cat a; cp a ${ISOLATED_OUTDIR}/b; exit 7")
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout.startswith("hello[run_isolated_out_hack]{")
    told = json.loads(done.stdout.removeprefix("hello[run_isolated_out_hack]").split("[/run_isolated_out_hack]")[0])
    assert told == {"hash": told["hash"], "namespace": "blake3-zstd", "storage": place.server.url}
    assert done.stdout.endswith('"}[/run_isolated_out_hack]\n')
    assert await place.download(told["hash"]) == {"b": b"hello"}


async def test_nothing_is_said_when_there_are_no_outputs(place: Place, tmp_path: Path) -> None:
    root = await place.archive({"a": b""})
    assert place.call("-s", root, "true").stdout == ""
    done = place.call("-s", root, "--json", str(tmp_path / "json"), "true")
    assert (done.returncode, done.stdout) == (0, "")
    told = json.loads((tmp_path / "json").read_text())
    assert told["outputs_ref"] is None
    assert set(told["stats"]["isolated"]["download"]) == {
        "initial_number_items",
        "initial_size",
        "duration",
        "items_cold",
        "items_hot",
    }


async def test_hash_of_2020s_default_namespace_is_known_by_its_length(place: Place) -> None:
    root = await place.archive({"a": b"hello"}, Namespace.parse("default-gzip"))
    assert len(root) == 40
    assert place.call("-s", root, "cat", "a").stdout == "hello"


async def test_asked_for_outputs_are_uploaded_beside(place: Place) -> None:
    root = await place.archive({"in": b"input"})
    code = "mkdir -p d/e; echo 1 > d/e/f; echo own > ${ISOLATED_OUTDIR}/x; echo other > x; test -d later"
    result, printed = await place.run(
        "sh", "-c", code, isolated=root, outputs=["d", "in", "x", "later/file"], raw_command=True
    )
    assert result.exit_code == 0
    assert printed == "Output 'later/file' does not exist; skipped\n"
    assert result.outputs is not None
    assert await place.download(result.outputs.isolated) == {"d": {"e": {"f": b"1\n"}}, "in": b"input", "x": b"own\n"}


async def test_hostile_outputs_are_left_out_and_named(place: Place) -> None:
    code = (
        "cd ${ISOLATED_OUTDIR}; ln -s /etc/passwd p; mkfifo pipe; echo x > f; ln -s f l; mkdir .git; touch .git/a.pyc"
        f"; {sys.executable} -c \"import os\nfor _ in range(30): os.mkdir('d' * 200); os.chdir('d' * 200)\""
    )
    result, printed = await place.run("sh", "-c", code, raw_command=True)
    assert (result.exit_code, result.internal_failure) == (0, None)
    deep, *others = sorted(printed.splitlines())
    assert deep.startswith("Output 'dddd")
    assert deep.endswith("dddd' lies too deep; skipped")
    assert others == [
        "Output 'p' is a link to '/etc/passwd', outside; skipped",
        "Output 'pipe' is neither a file, a directory nor a link; skipped",
    ]
    assert result.outputs is not None
    stored = await place.download(result.outputs.isolated)
    assert stored.pop("d" * 200)  # as far as it can be named
    assert stored == {"f": b"x\n", "l": Link("f"), ".git": {"a.pyc": b""}}


@pytest.mark.parametrize("directory", ["${ISOLATED_OUTDIR}", "${ISOLATED_OUTDIR}/../ir"])
async def test_link_in_the_place_of_our_directories_is_not_followed(
    place: Place, tmp_path: Path, directory: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    for name in ("", "io", "ir"):
        (elsewhere / name).mkdir()
        (elsewhere / name / "secret").write_text("secret")
    code = f'cd /; d=$(realpath {directory}); mv "$d" "$d.away"; ln -s {elsewhere} "$d"'
    result, _ = await place.run("sh", "-c", code, raw_command=True, outputs=["secret"])
    assert (result.exit_code, result.outputs) == (0, None)
    assert "removed or replaced its own directories" in (result.internal_failure or "")
    assert sorted(os.listdir(elsewhere / "io")) == ["secret"]


async def test_only_hostile_outputs_are_no_outputs(place: Place) -> None:
    result, _ = await place.run("sh", "-c", "ln -s / ${ISOLATED_OUTDIR}/root", raw_command=True)
    assert (result.exit_code, result.outputs, result.internal_failure) == (0, None, None)


@pytest.mark.parametrize(
    "harm", ["chmod u+w a; echo bad > a", "chmod u+w a; printf bad >> a", "chmod u+w a; truncate -s 1 a"]
)
async def test_command_that_overwrites_an_input_fails_and_harms_nobody(place: Place, harm: str) -> None:
    root = await place.archive({"a": b"right", "b": b"other"})
    result, _ = await place.run("sh", "-c", harm, isolated=root, raw_command=True)
    assert result.exit_code == 0
    assert result.internal_failure is not None
    assert "was overwritten while the command ran" in result.internal_failure
    result, printed = await place.run("cat", "a", "b", isolated=root, raw_command=True)
    assert (result.exit_code, result.internal_failure, printed) == (0, None, "rightother")


async def test_command_may_replace_and_delete_its_inputs(place: Place) -> None:
    root = await place.archive({"a": b"right", "d": {"b": b"other"}})
    code = "rm a; echo mine > a; rm -r d; chmod 0 ."
    result, _ = await place.run("sh", "-c", code, isolated=root, raw_command=True)
    assert (result.exit_code, result.internal_failure) == (0, None)
    assert (await place.run("cat", "a", isolated=root, raw_command=True))[1] == "right"


async def test_command_that_deletes_its_work_directory_hurts_only_itself(place: Place) -> None:
    result, _ = await place.run("sh", "-c", 'd=$(dirname "$TMPDIR"); cd /; rm -rf "$d"', raw_command=True)
    assert result.exit_code == 0
    assert "removed or replaced its own directories" in (result.internal_failure or "")
    assert (await place.run("true", raw_command=True))[0].exit_code == 0


async def test_inputs_that_are_gone_are_told_apart(place: Place) -> None:
    result, _ = await place.run("true", isolated="a" * 64)
    assert (result.exit_code, result.inputs_missing) == (None, result.internal_failure)
    assert "a" * 64 in (result.inputs_missing or "")
    done = place.call("-s", "a" * 64, "true")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


async def test_tree_without_a_command_needs_one(place: Place) -> None:
    result, printed = await place.run(isolated=await place.archive({"a": b""}))
    assert (result.exit_code, result.internal_failure) == (1, None)
    assert printed.startswith("<No command was specified!>")


async def test_relative_directory_of_the_manifest_is_used_unless_the_command_is_raw(place: Place) -> None:
    root = await place.archive({"d": {"x.sh": Executable(b"#!/bin/sh\npwd\n")}}, command=("./x.sh",), relative_cwd="d")
    assert (await place.run(isolated=root))[1].endswith("/ir/d\n")
    assert (await place.run("pwd", isolated=root, raw_command=True))[1].endswith("/ir\n")


async def test_relative_directory_does_not_leave_through_a_link(place: Place, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    manifest = Manifest(
        algorithm=OURS.algorithm,
        entries=(Entry("link", Kind.LINK, target=str(outside)),),
        command=("pwd",),
        relative_cwd="link/made",
    )
    result, printed = await place.run(isolated=await place.store(manifest))
    assert (result.exit_code, printed) == (1, "<Relative CWD is outside of run directory!>\n")
    assert list(outside.iterdir()) == []


async def test_stopping_ends_the_command_and_keeps_its_outputs(place: Place) -> None:
    code = "trap 'exit 9' TERM; echo x > ${ISOLATED_OUTDIR}/x; echo > $1; while :; do sleep 0.01; done"
    ready, stop = place.root / "ready", asyncio.Event()
    os.mkfifo(ready)
    spec = place.spec("sh", "-c", code, "sh", str(ready), raw_command=True, grace_period_s=60)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(execute(spec, stop))
        await asyncio.to_thread(ready.read_bytes)
        stop.set()
    result, _ = running.result()
    assert (result.exit_code, result.stopped, result.had_hard_timeout) == (9, True, False)
    assert result.outputs is not None
    assert os.listdir(place.root / "work") == []


async def test_a_run_that_is_stopped_leaves_the_cache_to_be_trimmed_by_the_next(place: Place) -> None:
    stop = asyncio.Event()
    root = await place.archive({"a": b"x", "b": b"y"})
    ready = place.root / "ready"
    os.mkfifo(ready)
    spec = place.spec("sh", "-c", "echo > $1; sleep 1000", "sh", str(ready), isolated=root, max_cache_items=1)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(execute(spec, stop))
        await asyncio.to_thread(ready.read_bytes)
        stop.set()
    assert running.result()[0].stopped
    result, _ = await place.run("true", isolated=root, max_cache_items=1)
    assert result.stats.initial_number_items == 3  # with the manifest
    result, _ = await place.run("true", isolated=root, max_cache_items=1)
    assert result.stats.initial_number_items == 1


async def test_a_tree_that_is_half_mapped_when_a_run_is_stopped_is_left_to_the_next(place: Place) -> None:
    root = await place.archive({f"f{number}": b"x" for number in range(200)})
    spec = place.spec("true", isolated=root)
    assert (await execute(spec))[0].exit_code == 0
    trees, looks = place.root / "cache/trees", 0

    def is_stopped() -> bool:
        nonlocal looks
        looks += 1
        return looks >= 100

    stopped = Attempt(spec, None, is_stopped, SystemClock(), NullMonitor())
    result = await finished(stopped, asyncio.Event(), begin=True)
    assert (result.exit_code, result.stopped) == (None, True)
    assert os.listdir(place.root / "work") == []
    left = [len(list(path.iterdir())) for path in trees.glob("gone-*")]
    assert 50 < max(left) < 200
    assert (await execute(spec))[0].exit_code == 0
    assert list(trees.glob("gone-*")) == []


async def test_stopping_before_the_command_is_no_result_of_it(place: Place) -> None:
    stop = asyncio.Event()
    stop.set()
    root = await place.archive({"a": b"x"})
    result, printed = await execute(place.spec("echo", "never", isolated=root), stop)
    assert (result.exit_code, result.stopped, printed) == (None, True, "")
    assert result.internal_failure == "Stopped before the command was started"
    assert os.listdir(place.root / "work") == []


async def test_a_run_that_is_cancelled_before_its_command_hears_of_it_at_once_and_sends_none(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, heard = threading.Event(), threading.Event()

    def swept(spec: RunSpec, clock: Clock, monitor: Monitor, check: Check) -> None:
        begun.set()
        try:
            for _ in range(60_000):
                check()
                heard.wait(0.001)
        except Stopped:  # ignored, as by what is done already when it comes
            heard.set()

    monkeypatch.setattr(attempt, "swept", swept)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(execute(place.spec("sh", "-c", f"echo ran > {place.root}/ran")))
        await asyncio.to_thread(begun.wait)
        running.cancel()
    assert running.cancelled()
    assert heard.is_set()
    assert not (place.root / "ran").exists()
    assert os.listdir(place.root / "work") == []


async def test_cancelling_leaves_neither_process_nor_file(place: Place) -> None:
    ready = place.root / "ready"
    os.mkfifo(ready)
    code = 'trap "" TERM; setsid sleep 1000 & echo $! > $1; sleep 1000'
    spec = place.spec("sh", "-c", code, "sh", str(ready), raw_command=True)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(execute(spec))
        pid = int(await asyncio.to_thread(ready.read_text))
        running.cancel()
    assert running.cancelled()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert os.listdir(place.root / "work") == []


async def test_server_that_is_gone_when_outputs_are_ready_does_not_hide_the_exit_code(place: Place) -> None:
    code = f"kill -9 {place.server.pid}; echo x > ${{ISOLATED_OUTDIR}}/x; exit 3"
    result, _ = await place.run("sh", "-c", code, raw_command=True)
    assert (result.exit_code, result.outputs) == (3, None)
    assert "Cannot reach" in (result.internal_failure or "")
