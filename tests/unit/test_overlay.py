"""A tree mounted for one command: what it writes, what it cannot reach, and what is left, which is nothing."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from isolate.clock import SystemClock
from run_isolated.command_group import MARK
from run_isolated.process import Launcher
from run_isolated.request import Request
from tests.trees import Tree, read_tree, write_tree

NOBODY = 65534
TREE: Tree = {"f": b"lower", "d": {"g": b"deep"}, "gone": b"soon"}
# `user` changes who we are before: a process that did so may say what its users are called only as one that may be
# looked into (PR_SET_DUMPABLE).
ENTER = """
import ctypes, encodings.ascii, os, sys  # nobody may not import from root's folder
from run_isolated import overlay
user, paths, script = int(sys.argv[1]), [os.fsencode(path) for path in sys.argv[2:-1]], sys.argv[-1]
if user != os.geteuid():
    os.setgroups([]); os.setgid(user); os.setuid(user)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
tried = overlay.trial(paths[:1] + [path + b"-trial" for path in paths[1:3]] + paths[3:])
problem = overlay.enter(*paths)
assert tried == problem, (tried, problem)
if problem:
    sys.exit(f"refused: {problem}")
os.chdir(paths[3])
os.execvp("sh", ["sh", "-c", script])
"""


@dataclass
class Place:
    """Directories for one mount, and whose they are."""

    path: Path
    user: int

    def __post_init__(self) -> None:
        write_tree(self.path / "cache/lower", TREE)
        for name in ("upper", "upper-trial", "work", "work-trial", "at"):
            (self.path / name).mkdir()
        if self.user != os.geteuid():
            for path in [self.path, *self.path.rglob("*")]:
                os.chown(path, self.user, self.user)

    @property
    def overlay(self) -> list[str]:
        # Relative, because nobody else may come through pytest's folder.
        return ["cache/lower", "upper", "work", "at", "cache"]

    def call(self, script: str, **changes: str) -> subprocess.CompletedProcess[str]:
        paths = [changes.get(name, path) for name, path in zip(("lower", "upper"), self.overlay, strict=False)]
        argv = [sys.executable, "-c", ENTER, str(self.user), *paths, *self.overlay[2:], script]
        return subprocess.run(argv, capture_output=True, text=True, cwd=self.path, stdin=subprocess.DEVNULL)

    def run(self, script: str) -> str:
        done = self.call(script)
        if done.stderr.startswith("refused"):
            pytest.skip(f"overlays are not allowed here: {done.stderr.strip()}")
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


@pytest.fixture(params=["ourselves", "nobody"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "nobody" and os.geteuid():
        pytest.skip("only root can become somebody else")
    return Place(tmp_path / "place", NOBODY if request.param == "nobody" else os.geteuid())


def test_what_a_command_does_to_the_tree_is_done_above_it(place: Place) -> None:
    script = """
        cat f; rm gone; rm -r d; mkdir d; echo new > d/h; chmod u+w f; echo more >> f; ln f hard; cat f hard; ls . d
        ln -s f link; mv hard harder; id -u
    """
    said = place.run(script)
    assert said.splitlines() == ["lowerlowermore", "lowermore", ".:", "d", "f", "hard", "", "d:", "h", str(place.user)]
    assert read_tree(place.path / "cache/lower") == TREE
    assert (place.path / "upper/d/h").read_text() == "new\n"
    assert os.listdir(place.path / "at") == []


def test_a_command_cannot_reach_the_lower_tree(place: Place) -> None:
    script = """
        ls -A ../cache | wc -l; touch ../cache/x; umount ../cache; umount -l .
        unshare -rm sh -c 'umount ../cache; ls -A ../cache | wc -l; mkdir ../b; mount --bind .. ../b; ls -A ../b/cache'
        for outside in $PPID $(ps -o ppid= -p $PPID); do ls /proc/$outside/root/; echo > /proc/$outside/cwd/f; done
        grep -c cache/lower /proc/self/mountinfo || true
    """
    said = place.run(f"exec 2> /dev/null; {script}")
    assert said.split() == ["0", "0", "0"]
    assert read_tree(place.path / "cache/lower") == TREE
    assert not (place.path / "f").exists()


def test_users_keep_their_names(tmp_path: Path) -> None:
    place = Place(tmp_path / "place", os.geteuid())
    if os.geteuid():
        pytest.skip("only root can give files away")
    assert place.run("chown 1234:2345 f; stat -c %u:%g f d").split() == ["1234:2345", "0:0"]
    assert os.stat(place.path / "upper/f").st_uid == 1234


def test_nothing_is_mounted_for_anybody_else(place: Place) -> None:
    assert str(place.path) in place.run("cat /proc/self/mountinfo")
    assert str(place.path) not in Path("/proc/self/mountinfo").read_text()


def test_what_cannot_be_mounted_is_refused_with_the_reason(place: Place) -> None:
    place.run("true")
    assert place.call("true", lower="absent").stderr == "refused: an overlay: No such file or directory\n"
    (place.path / "link").symlink_to("cache/lower")
    assert place.call("true", lower="link").stderr == "refused: an overlay: Not a directory\n"


def test_without_user_namespaces_there_is_a_reason(tmp_path: Path) -> None:
    place = Place(tmp_path / "place", os.geteuid())
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    argv = ["unshare", "-Ur", "sh", "-c", forbid, "sh", sys.executable, "-c", ENTER, "0", *place.overlay, "true"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=place.path)
    if "refused" not in done.stderr:
        pytest.skip(f"user namespaces cannot be limited here: {done.stderr.strip()}")
    assert done.stderr.startswith("refused: a user namespace: this machine allows no more namespaces, see /proc/sys")
    assert os.listdir(place.path / "at") == []


def test_a_file_system_that_cannot_be_above_is_a_reason(tmp_path: Path) -> None:
    place = Place(tmp_path / "place", os.geteuid())
    inner = Place(place.path / "cache/lower/inner", os.geteuid())
    nested = [sys.executable, "-c", ENTER, str(os.geteuid()), *inner.overlay, "true"]
    said = place.run(f"cd inner; {shlex.join(nested)} 2>&1 || true")
    assert said in {"", "refused: an overlay: Invalid argument\n"}  # newer kernels can do it
    assert read_tree(inner.path / "cache/lower") == TREE


async def test_a_launcher_tries_before_it_mounts(tmp_path: Path) -> None:
    place = Place(tmp_path / "place", os.geteuid())
    lower, upper, work, at, cache = (str(place.path / name) for name in place.overlay)
    told = os.open(tmp_path / "told", os.O_RDWR | os.O_CREAT)
    try:
        async with Launcher.started(told) as launcher:
            refusal = await launcher.mounts([f"{lower}/absent", f"{upper}-trial", f"{work}-trial", at, cache])
            assert "No such file" in refusal or "not permitted" in refusal
            problem = await launcher.mounts([lower, f"{upper}-trial", f"{work}-trial", at, cache])
            if problem:
                pytest.skip(f"overlays are not allowed here: {problem}")
            ended = await launcher.run(
                ["/bin/sh", "-c", "cat f; rm f"],
                Path(at),
                {MARK: str(tmp_path)},
                hard_timeout_s=None,
                grace_period_s=None,
                stop=asyncio.Event(),
                clock=SystemClock(),
                overlay=[lower, upper, work, at, cache],
            )
    finally:
        os.close(told)
    assert ended.exit_code == 0
    assert (tmp_path / "told").read_text() == "lower"
    assert read_tree(place.path / "cache/lower") == TREE


async def test_no_namespace_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    code = (
        "import sys; sys.platform = 'sunos'\n"
        "from run_isolated import overlay\n"
        "assert overlay.trial([b'a', b'b', b'c', b'd']) == 'overlays need Linux'"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0


def test_requests_carry_an_overlay() -> None:
    request = Request.of(["/x", ""], "/", {"A": "b"}, overlay=["/a", "/with,comma", "/\udcff"])
    assert request.overlay == (b"/a", b"/with,comma", b"/\xff")
    decoded = Request.decode(request.encode()[8:])
    assert (decoded.overlay, decoded.argv, decoded.env) == (request.overlay, request.argv, request.env)
