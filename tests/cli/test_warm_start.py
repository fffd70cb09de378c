"""What `run_isolated` does until its command is on its way, when all it needs is in the cache: counted, not timed.

A hundred milliseconds are the target, and nearly all of them go into importing modules.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flow.servers import ServerProcess

# Whatever waits, and what each of these takes longer to import than the whole tree to map.
NOT_BEFORE_THE_COMMAND = {
    "aiofiles",
    "aiohttp",
    "asyncio",
    "concurrent.futures",
    "hashlib",
    "isolate.fetch",
    "isolate.http",
    "logging",
    "msgspec",
    "rich",
    "run_isolated.folders",
    "run_isolated.overlaid",
    "run_isolated.remapping",
    "run_isolated.run",
    "shutil",
    "ssl",
    "tempfile",
    "traceback",
    "zstandard",
}
MOST_MODULES_OF_OURS = 80  # 0.1 ms each, and a class of values in it 0.4: a few more are no harm, a family of them is
# Tells which modules there are when the launcher is started, and when the command is sent to it.
SPY = """
import json, os, sys
from isolate.entry import run_isolated
from run_isolated.starting import LauncherProcess

start, send, seen = LauncherProcess.start.__func__, LauncherProcess.send, {}

def spied_start(kind, stdout):
    seen["start"] = sorted(sys.modules)
    return start(kind, stdout)

def spied_send(self, request):
    seen["send"] = sorted(sys.modules)
    with open(os.environ["TOLD"], "w") as told:
        json.dump(seen, told)
    send(self, request)

LauncherProcess.start, LauncherProcess.send = classmethod(spied_start), spied_send
sys.exit(run_isolated())
"""
ENDED = """
from run_isolated.cli import main

status = main()
with open(os.environ["TOLD"], "w") as told:
    json.dump("started" if seen else "never", told)
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no child is left")
sys.exit(status)
"""
INTERRUPTED = """
import signal, sys
from isolate.entry import run_isolated
from run_isolated import attempt

swept = attempt.swept

def interrupted(*arguments):
    for _ in range({times}):
        signal.raise_signal(signal.{name})
    swept(*arguments)

attempt.swept = interrupted
sys.exit(run_isolated())
"""


@pytest.fixture(scope="module")
def tree(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> str:
    source = tmp_path_factory.mktemp("tree")
    for number in range(10):
        (source / f"file-{number}").write_text(f"{number}\n" * 100)
    command = [str(Path(sys.executable).parent / "isolate"), "archive", "-I", server.url, str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("caches")


def run(script: str, server: ServerProcess, caches: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    places = ["-I", server.url, "--cache", str(caches / "cache"), "--root-dir", str(caches / "work")]
    env = {"PATH": os.environ["PATH"], "TOLD": str(caches / "told"), "HOME": str(caches)}
    command = [sys.executable, "-c", script, *places, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=caches)


def test_nothing_that_waits_is_imported_before_the_command_is_sent(
    server: ServerProcess, tree: str, caches: Path
) -> None:
    told = str(caches / "result.json")
    for _ in range(2):  # the first one fetches
        done = run(SPY, server, caches, "--json", told, "-s", tree, "--raw-cmd", "--", "cat", "file-3")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("3\n3\n")
    seen = json.loads((caches / "told").read_text())
    ours = [name for name in seen["send"] if name.split(".")[0] in {"isolate", "run_isolated"}]
    assert NOT_BEFORE_THE_COMMAND.isdisjoint(seen["send"])
    assert len(ours) <= MOST_MODULES_OF_OURS, ours
    assert "Run " in (caches / "run_isolated.log").read_text()  # also a run that is logged needs no more


def test_the_launcher_is_started_before_the_rest_is_imported(server: ServerProcess, tree: str, caches: Path) -> None:
    assert run(SPY, server, caches, "-s", tree, "--raw-cmd", "--", "true").returncode == 0
    seen = json.loads((caches / "told").read_text())
    later = {"isolate.cas.cache", "run_isolated.arguments", "run_isolated.attempt", "run_isolated.inputs", "sqlite3"}
    assert later.isdisjoint(seen["start"])
    assert later <= set(seen["send"])


def test_a_launcher_of_a_run_that_does_not_come_to_be_is_gone(server: ServerProcess, caches: Path) -> None:
    script = SPY.replace("sys.exit(run_isolated())", ENDED)
    done = run(script, server, caches, "--no-log", "--env", "nonsense", "true")
    assert (done.returncode, done.stdout) == (2, "no child is left\n")
    assert done.stderr == "run_isolated: error: --env 'nonsense' is not KEY=VALUE\n"
    assert json.loads((caches / "told").read_text()) == "started"


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 1), ("SIGHUP", 1)])
def test_a_signal_before_the_command_is_one_line_and_leaves_nothing(
    server: ServerProcess, tree: str, caches: Path, name: str, status: int, times: int
) -> None:
    script = INTERRUPTED.format(name=name, times=times)
    done = run(script, server, caches, "--no-log", "-s", tree, "--raw-cmd", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("run_isolated: error: ")
    assert done.stderr.count("\n") == 1
    assert os.listdir(caches / "work") == []


def test_a_signal_before_a_command_without_a_tree_gives_it_its_grace(server: ServerProcess, caches: Path) -> None:
    script = INTERRUPTED.format(name="SIGTERM", times=1)
    told = caches / "result.json"
    done = run(script, server, caches, "--no-log", "--json", str(told), "sleep", "1000")
    result = json.loads(told.read_text())
    assert (done.returncode, result["exit_code"]) == (0, -signal.SIGTERM)
