"""Tasks that mean harm, as real runs: the cache stays intact, nothing is left, the result is true."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.digest import Namespace
from isolate.clock import SystemClock
from isolate.monitor import NullMonitor
from tests.archived import archived
from tests.flow.servers import ServerProcess
from tests.trees import Executable, Tree, read_tree

COMMAND = str(Path(sys.executable).parent / "run_isolated")
NS = Namespace.parse("blake3-zstd")
TREE: Tree = {"a": b"right", "d": {"x": Executable(b"#!/bin/sh\necho right\n")}, "big": bytes(range(256)) * 100}
READ = "cat a; d/x; sha256sum big"
OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private")  # they end with the command, whoever kills us
NO_SPACE = ("--min-free-space", "0")
# The strongest there is: what a stat shows is as it was.
OVERWRITE = """
import os
for name in ("a", "d/x", "big"):
    before = os.stat(name); os.chmod(name, 0o700)
    with open(name, "r+b") as file: file.write(b"X" * 4)
    os.chmod(name, before.st_mode & 0o777); os.utime(name, ns=(before.st_atime_ns, before.st_mtime_ns))
"""
DAEMONS = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_IGN)
for _ in range(10):
    if os.fork() == 0:
        os.setsid()
        if os.fork(): os._exit(0)
        os.chdir("/"); os.environ.clear(); sys.stdout.write("held"); signal.pause()
"""


@dataclass
class Place:
    """A server with one tree, and where runs keep their things."""

    server: ServerProcess
    root: Path
    tree: str = ""
    tag: str = field(default_factory=lambda: uuid.uuid4().hex)

    async def archive(self, tree: Tree) -> str:
        return await archived(self.server.url, self.root, tree)

    def call(
        self,
        *command: str,
        flags: tuple[str, ...] = (),
        tree: str = "",
        disk: Path | None = None,
        under: tuple[str, ...] = (),
    ) -> tuple[dict[str, Any], str]:
        """Run, by the command `under`; return the result and what was printed; checks that no process is left."""
        disk = disk or self.root
        told = self.root / "result.json"
        told.unlink(missing_ok=True)
        places = ("-I", self.server.url, "--cache", str(disk / "cache"), "--root-dir", str(disk / "work"), "--no-log")
        about = ("-s", tree or self.tree, "--json", str(told), "--env", f"TAG={self.tag}", "--raw-cmd")
        arguments = [*under, COMMAND, *places, *about, *flags, "--", *command]
        done = subprocess.run(arguments, capture_output=True, text=True, cwd=self.root, timeout=120)
        assert self.processes() == []
        result = json.loads(told.read_text())
        assert done.returncode in {1 if result["internal_failure"] else 0, -9}
        return result, done.stdout

    def python(self, code: str, **kwargs: Any) -> tuple[dict[str, Any], str]:
        return self.call(sys.executable, "-c", code, **kwargs)

    def processes(self) -> list[str]:
        """Return those that have our mark in their environment, or work below our directory."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                marked = self.tag.encode() in Path(f"/proc/{pid}/environ").read_bytes()
                if marked or os.readlink(f"/proc/{pid}/cwd").startswith(f"{self.root}/work"):
                    found.append(pid)
            except OSError:
                continue
        return found

    def check_innocent_run(self, disk: Path | None = None) -> None:
        """A next run sees the right bytes, and leaves nothing of itself or those before."""
        disk = disk or self.root
        result, printed = self.call("sh", "-c", READ, disk=disk)
        assert (result["exit_code"], result["internal_failure"]) == (0, None)
        assert printed.splitlines()[0] == "rightright"
        assert os.listdir(disk / "work") == []
        with LocalCache.open(disk / "cache", NS, CachePolicy(), SystemClock(), NullMonitor()) as cache:
            blobs = [NS.blob(content) for content in (b"right", TREE["big"]) if isinstance(content, bytes)]
            assert cache.absent(blobs) == []
            assert len(cache.recheck([(blob, False) for blob in blobs])) == len(blobs)


@pytest.fixture
async def place(server: ServerProcess, tmp_path: Path) -> Place:
    made = Place(server, tmp_path)
    made.tree = await made.archive(TREE)
    return made


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory where files cost little, if there is one."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=parent) as directory:
        yield Path(directory)


async def test_writing_through_inputs_fails_the_run_and_harms_nobody(place: Place) -> None:
    place.call("true")
    result, _ = place.python(OVERWRITE)
    assert result["exit_code"] == 0
    assert "more were overwritten while the command ran" in result["internal_failure"]
    place.check_innocent_run()


async def test_killing_the_runner_after_writing_through_inputs_harms_nobody(place: Place) -> None:
    place.call("true")
    parent = "open(f'/proc/{os.getppid()}/stat').read().rpartition(')')[2].split()[1]"  # above the launcher
    result, _ = place.python(f"{OVERWRITE}\nos.kill(int({parent}), 9)\nimport time; time.sleep(100)")
    assert result == {**result, "internal_failure": "Was terminated before completion", "exit_code": None}
    place.check_innocent_run()


async def test_killing_the_launcher_after_writing_through_inputs_harms_nobody(place: Place) -> None:
    place.call("true")
    result, _ = place.python(f"{OVERWRITE}\nos.kill(os.getppid(), 9)\nimport time; time.sleep(100)")
    assert result["exit_code"] is None
    assert result["internal_failure"]
    place.check_innocent_run()


async def test_daemons_that_hold_stdout_are_gone(place: Place) -> None:
    result, _ = place.python(DAEMONS)
    assert (result["exit_code"], result["internal_failure"], result["had_hard_timeout"]) == (0, None, False)
    assert os.listdir(place.root / "work") == []


async def test_daemons_outlive_neither_the_hard_timeout(place: Place) -> None:
    limits = ("--hard-timeout", "1", "--grace-period", "0.1")
    result, _ = place.python(f"{DAEMONS}\nsignal.pause()", flags=limits)
    assert result["exit_code"] in {-9, -15}  # on a slow machine Python may not have got to ignoring it
    assert (result["internal_failure"], result["had_hard_timeout"]) == (None, True)
    assert os.listdir(place.root / "work") == []


async def test_deleting_the_work_directory(place: Place) -> None:
    result, _ = place.call("sh", "-c", 'd=$(dirname "$TMPDIR"); cd /; rm -rf "$d"; test ! -e "$d"; exit $((4 + $?))')
    assert result["exit_code"] == 4
    assert "removed or replaced its own directories" in result["internal_failure"]
    place.check_innocent_run()


async def test_a_hundred_thousand_files_that_cannot_be_changed(place: Place, memory: Path) -> None:
    code = """
import os
for folder in range(100):
    os.mkdir(f"many-{folder}")
    for file in range(1000): os.mknod(f"many-{folder}/{file}")
    os.chmod(f"many-{folder}", 0o500 if folder % 2 else 0)
os.system("chattr +i many-1/1 many-3 2>/dev/null; chattr +a many-5 2>/dev/null"); os.chmod(".", 0)
"""
    result, _ = place.python(code, disk=memory)
    assert (result["exit_code"], result["internal_failure"]) == (0, None)
    assert os.listdir(memory / "work") == []


async def test_what_was_made_immutable_is_gone(place: Place) -> None:
    probe = place.root / "probe"
    probe.touch()
    if subprocess.run(["chattr", "+i", str(probe)], capture_output=True).returncode:
        pytest.skip("files cannot be made immutable here, or not by us")
    subprocess.run(["chattr", "-i", str(probe)], check=True)
    code = "mkdir -p d/e; touch f d/e/f; chattr +a d; chattr -R +i d/e f; cd ..; chattr +i ir io it .; exit 6"
    result, printed = place.call("sh", "-c", code)
    assert (result["exit_code"], result["internal_failure"], printed) == (6, None, "")
    place.check_innocent_run()


async def test_a_work_directory_that_was_moved_away_is_deleted_all_the_same(place: Place) -> None:
    elsewhere = place.root / "elsewhere"
    elsewhere.mkdir()
    result, _ = place.call("sh", "-c", f'mv "$(dirname "$TMPDIR")" {elsewhere}/moved && exit 8')
    assert "removed or replaced its own directories" in result["internal_failure"]
    assert (result["exit_code"], os.listdir(elsewhere)) == (8, [])
    place.check_innocent_run()


async def test_mount_point_is_told_and_left_alone(place: Place) -> None:
    precious = place.root / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    code = f"mkdir -p d/m; mount --bind {precious} d/m; ln -s {precious} d/link; exit 7"
    if subprocess.run([*OWN_MOUNTS, "mount", "--bind", precious, precious], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    result, _ = place.call("sh", "-c", code, under=OWN_MOUNTS)
    (work,) = (place.root / "work").glob("ir-*")
    told = re.fullmatch(rf"Cannot delete '{work}': '(.*/m)' is a mount point: unmount it", result["internal_failure"])
    mounted = next(path for path in work.rglob("m"))
    assert (result["exit_code"], told and str(work / told[1])) == (7, str(mounted))
    assert (precious / "file").read_text() == "kept"
    assert sorted(path.name for path in work.iterdir()) == sorted(["owner", mounted.relative_to(work).parts[0]])
    assert not os.path.ismount(mounted)
    place.check_innocent_run()
    assert (precious / "file").read_text() == "kept"


async def test_damage_to_the_cache_itself_heals(place: Place) -> None:
    cache = place.root / "cache"
    code = f"cd {cache}; rm -rf files index.sqlite* sessions; mkdir index.sqlite; echo x > files; mkfifo sessions"
    result, _ = place.call("sh", "-c", code)
    assert result["internal_failure"]
    place.check_innocent_run()


async def test_names_of_any_bytes_are_outputs_and_are_deleted(place: Place) -> None:
    code = """
import os, sys
for name in (b"new\\nline", b"\\xff\\xfe", b" ", b"-rf", b"\\\\", b"a" * 255):
    os.mkdir(name); open(name + b"/" + name, "wb").write(name)
    os.makedirs(os.fsencode(sys.argv[1]) + b"/" + name); open(os.fsencode(sys.argv[1]) + b"/" + name + b"/f", "wb")
"""
    result, _ = place.call(sys.executable, "-c", code, "${ISOLATED_OUTDIR}")
    assert (result["exit_code"], result["internal_failure"]) == (0, None)
    assert os.listdir(place.root / "work") == []
    target = place.root / "target"
    isolate = str(Path(COMMAND).parent / "isolate")
    fetched = [isolate, "download", "-I", place.server.url, "-s", result["outputs_ref"]["isolated"], "-t", str(target)]
    cache = {"XDG_CACHE_HOME": str(place.root / "xdg"), "PATH": os.environ["PATH"]}
    done = subprocess.run(fetched, capture_output=True, text=True, env=cache, cwd=place.root)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(read_tree(target)) == {"new\nline", "\udcff\udcfe", " ", "-rf", "\\", "a" * 255}


async def test_filling_the_disk_fails_the_command_and_nobody_after_it(place: Place, disk: Path) -> None:
    place.call("true", flags=NO_SPACE, disk=disk)
    result, _ = place.call("sh", "-c", "cat /dev/zero > $TMPDIR/zero", flags=NO_SPACE, disk=disk)
    assert result["exit_code"] == 1
    full = "cat /dev/zero > ${ISOLATED_OUTDIR}/zero; exit 5"
    result, _ = place.call("sh", "-c", full, flags=NO_SPACE, disk=disk)
    assert result["exit_code"] == 5
    assert os.listdir(disk / "work") == []
    result, printed = place.call("cat", "a", flags=NO_SPACE, disk=disk)
    assert (result["exit_code"], result["internal_failure"], printed) == (0, None, "right")


async def test_full_disk_loses_no_named_cache(place: Place, disk: Path) -> None:
    named = ("--named-cache", "n1", "d/n", "0", "--named-cache", "n2", "m", "0")
    flags = (*NO_SPACE, "--named-cache-root", str(disk / "named"), *named)
    place.call("sh", "-c", "echo precious > d/n/k; echo too > m/k", flags=flags, disk=disk)
    fill = "cat d/n/k m/k; cat /dev/zero > d/fill; chmod 0 d; exit 3"
    for _ in range(2):
        result, printed = place.call("sh", "-c", fill, flags=flags, disk=disk)
        assert (result["exit_code"], result["internal_failure"], printed) == (3, None, "precious\ntoo\n")
    assert os.listdir(disk / "work") == []


async def test_tree_larger_than_the_disk_is_one_clear_answer_and_the_cache_goes_on(place: Place, disk: Path) -> None:
    source = random.Random(1)
    large = await place.archive({str(number): source.randbytes(1 << 20) for number in range(16)})
    place.call("true", flags=NO_SPACE, disk=disk)
    result, _ = place.call("true", flags=NO_SPACE, tree=large, disk=disk)
    assert result["exit_code"] is None
    assert "space" in result["internal_failure"]
    assert os.listdir(disk / "work") == []
    result, printed = place.call("cat", "a", flags=NO_SPACE, disk=disk)
    assert (result["exit_code"], result["internal_failure"], printed) == (0, None, "right")


async def test_cache_on_another_file_system_means_copies(place: Place, disk: Path) -> None:
    elsewhere = ("--root-dir", str(place.root / "work"), *NO_SPACE)
    result, _ = place.python(OVERWRITE, flags=elsewhere, disk=disk)
    assert (result["exit_code"], result["internal_failure"]) == (0, None)  # it wrote to copies of its own
    result, printed = place.call("cat", "a", flags=elsewhere, disk=disk)
    assert (result["exit_code"], printed) == (0, "right")
    result, _ = place.call("true", flags=(*elsewhere, "--map", "hardlink"), disk=disk)
    assert "cross-device link" in result["internal_failure"]
    assert os.listdir(place.root / "work") == []


async def test_mapped_copies_can_be_written_and_verified_inputs_are_right(place: Place) -> None:
    result, _ = place.call("sh", "-c", "chmod u+w a; echo mine > a", flags=("--map", "copy"))
    assert (result["exit_code"], result["internal_failure"]) == (0, None)
    with LocalCache.open(place.root / "cache", NS, CachePolicy(), SystemClock(), NullMonitor()) as cache:
        path = cache.path(NS.blob(b"right"))
        before = path.stat()
        path.chmod(0o600)
        path.write_bytes(b"wrong")  # by whoever, between two runs, and hidden from a stat
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    result, printed = place.call("cat", "a", flags=("--verify-inputs",))
    assert (result["exit_code"], result["internal_failure"], printed) == (0, None, "right")
    place.check_innocent_run()


STASHED = """
import os, sys
for path in sys.argv[1:]:
    before = os.stat(path); os.chmod(path, 0o700)
    with open(path, "r+b") as file: file.write(b"X" * 4)
    os.chmod(path, before.st_mode & 0o777); os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
"""


async def test_input_that_was_made_unreadable_was_not_overwritten(place: Place) -> None:
    """Also for root without the right to read what modes forbid, as everybody else is."""
    under = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    if under and subprocess.run([*under, "true"], capture_output=True).returncode:
        pytest.skip("rights cannot be given up here")
    result, printed = place.call("sh", "-c", "chmod 0 a d/x; cat a || echo refused", under=under)
    assert (result["exit_code"], result["internal_failure"], printed) == (0, None, "refused\n")
    _, printed = place.call("sh", "-c", "stat -c %a a d/x; cat a", under=under)
    assert printed == "444\n555\nright"
    place.check_innocent_run()


async def test_file_written_to_beside_a_kept_tree_is_fetched_again_by_the_run_that_needs_it(place: Place) -> None:
    many: Tree = {f"f{number}": b"%d" % number for number in range(300)}
    place.call("true", tree=await place.archive({**TREE, "many": many}))
    with LocalCache.open(place.root / "cache", NS, CachePolicy(), SystemClock(), NullMonitor()) as cache:
        file = str(cache.path(NS.blob(b"right")))
    subprocess.run([sys.executable, "-c", STASHED, file], check=True)
    near = await place.archive({**TREE, "many": {**many, "more": b"more"}})
    result, printed = place.call("cat", "a", "many/more", tree=near)
    assert (result["exit_code"], result["internal_failure"], printed) == (0, None, "rightmore")
    place.check_innocent_run()


@pytest.mark.parametrize("names", [0, 300])  # the tree with more names is kept
async def test_what_a_task_gave_an_input_beside_bytes_is_not_there_for_the_next(place: Place, names: int) -> None:
    place.tree = await place.archive({**TREE, "many": {f"f{number}": b"%d" % number for number in range(names)}})
    look = "stat -c '%n %a %u %g' $(find . -type f); getfattr -d -m - -R . 2>/dev/null; getcap -r . 2>/dev/null; true"
    _, before = place.call("sh", "-c", look)
    change = """
import contextlib, os
os.chmod("a", 0)
for attempt in (
    lambda: os.chown("d/x", 12, 12), lambda: (os.chmod("big", 0o600), os.setxattr("big", "user.evil", b"1")),
    lambda: os.setxattr("d/x", "security.capability", bytes([1, 0, 0, 2, 0, 4]) + bytes(14)),
):
    with contextlib.suppress(OSError): attempt()
os.chmod("big", 0o444)
"""
    result, _ = place.python(change)
    assert (result["exit_code"], result["internal_failure"]) == (0, None)
    _, after = place.call("sh", "-c", look)
    assert sorted(after.splitlines()) == sorted(before.splitlines())
    place.check_innocent_run()


@pytest.mark.parametrize(
    ("way", "names"),
    [
        ("ln a d/x {named}; mv big {aside}", 0),
        ("mv d {named}; mkdir d; cp -al . {aside}/all", 300),  # the ones with more names are kept
        ("mv up {aside}/up; ln -s {aside}/up up", 0),
        ("mv up {aside}/up; ln -s {aside}/up up", 300),
        ("r=$(pwd); cd /; mv $r {aside}/run; ln -s {aside}/run $r", 300),
        ("w=$(dirname $(pwd)); cd /; mv $w {aside}/w; ln -s {aside}/w $w", 300),
    ],
)
async def test_another_name_of_an_input_is_of_no_use_to_a_later_task(
    place: Place, tmp_path: Path, way: str, names: int
) -> None:
    """The second task does not have the inputs; it writes as many bytes and sets all times back.

    The tree with more names is kept, and used again.
    """
    aside = tmp_path / "aside"
    aside.mkdir()
    named = ("--named-cache", "n", "n", "0", "--named-cache-root", str(tmp_path / "named"))
    many: Tree = {f"f{number}": b"%d" % number for number in range(names)}
    place.tree = await place.archive({**TREE, "many": many, "up": {"in": {"a": b"right"}}})
    place.call("sh", "-c", way.format(named="n", aside=aside), flags=named if "{named}" in way else ())
    assert os.listdir(place.root / "work") == []
    overwrite = f"{sys.executable} -c '{STASHED}' $(find n {aside} -type f)"
    result, _ = place.call("sh", "-c", overwrite, flags=named, tree=await place.archive({"b": b"another"}))
    assert (result["exit_code"], result["internal_failure"]) == (0, None)
    place.check_innocent_run()
    place.check_innocent_run()


async def test_a_mount_of_an_input_elsewhere_is_of_no_use_to_a_later_task(place: Place, tmp_path: Path) -> None:
    """The mount outlives the tree, whose name the file loses; the tree with more names is kept."""
    point, folder = tmp_path / "mounted", tmp_path / "folder"
    point.touch()
    folder.mkdir()
    many: Tree = {f"f{number}": b"%d" % number for number in range(300)}
    for tree in (TREE, {**TREE, "many": many}):
        place.tree = await place.archive(tree)
        result, _ = place.call("sh", "-c", f"mount --bind a {point} && mount --bind d {folder}")
        if result["exit_code"]:
            pytest.skip("mounting is not allowed here, or not to us")
        try:
            overwrite = f"{sys.executable} -c '{STASHED}' {point} $(find {folder} -type f)"
            result, _ = place.call("sh", "-c", overwrite, tree=await place.archive({"b": b"another"}))
            assert (result["exit_code"], result["internal_failure"]) == (0, None)
            place.check_innocent_run()
        finally:
            subprocess.run(["umount", str(point), str(folder)], check=True)
        place.check_innocent_run()
