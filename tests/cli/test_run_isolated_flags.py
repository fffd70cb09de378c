"""The flags of `run_isolated` about isolation, named caches, accounts and the log; awkward homes and disks."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from isolate.errors import InternalFailure
from run_isolated import places

COMMAND = str(Path(sys.executable).parent / "run_isolated")
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
CAN_LEAVE_NETWORK = subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode == 0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def run(root: Path, *arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run with work directories in `root`, and check that none is left."""
    known = {"PATH": os.environ["PATH"], "HOME": str(root.parent)} | env
    command = [COMMAND, "--root-dir", str(root), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=known, cwd=root.parent)
    assert os.listdir(root) == []
    return done


@pytest.mark.skipif(not CAN_LEAVE_NETWORK, reason="network namespaces are not allowed here")
def test_no_network_leaves_a_loopback_of_its_own(root: Path) -> None:
    code = (
        "import os, socket; print(sorted(name for _, name in socket.if_nameindex()))\n"
        "a = socket.create_server(('127.0.0.1', 0)); b = socket.create_connection(a.getsockname()); print('loopback')\n"
        "try: socket.create_connection(('192.0.2.1', 9), 5)\n"
        "except OSError as error: print(error.strerror)"
    )
    done = run(root, "--no-network", sys.executable, "-c", code)
    assert done.stderr == ""
    names, loopback, reason = done.stdout.splitlines()
    assert "'lo'" in names
    assert "eth" not in names
    assert (loopback, reason) == ("loopback", "Network is unreachable")


@needs_root
def test_no_network_for_others_than_root_or_a_clear_answer(root: Path, tmp_path: Path) -> None:
    code = """
import os, signal, sys; sys.path.insert(0, sys.argv[1]); import ctypes, fcntl, socket
from run_isolated import linux
os.setgid(65534); os.setuid(65534)
print(linux.leave_network() or (os.getuid(), os.getgid()))
"""
    done = subprocess.run([sys.executable, "-c", code, str(Path.cwd())], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout == f"({NOBODY}, {NOBODY})\n" or done.stdout.startswith("A run without network is not ")


def test_lower_priority(root: Path) -> None:
    code = "import os; print(os.nice(0))"
    before = os.nice(0)
    assert run(root, sys.executable, "-c", code).stdout == f"{before}\n"
    assert run(root, "--lower-priority", sys.executable, "-c", code).stdout == f"{before + 1}\n"


@pytest.mark.parametrize(("account", "expected"), [("task", "task"), ("system", "system"), ("unknown", None)])
def test_account_is_switched(root: Path, tmp_path: Path, account: str, expected: str | None) -> None:
    context = {"local_auth": {"accounts": [{"id": "task"}, {"id": "system"}], "default_account_id": "x"}, "more": 1}
    given = tmp_path / "luci.json"
    given.write_text(json.dumps(context))
    code = 'cat "$LUCI_CONTEXT"; stat -c %a "$LUCI_CONTEXT" >&2'
    done = run(root, "--switch-to-account", account, "sh", "-c", code, LUCI_CONTEXT=str(given))
    told = json.loads(done.stdout)
    assert told["local_auth"].get("default_account_id") == expected
    assert (told["more"], done.stderr) == (1, "600\n")
    assert json.loads(given.read_text()) == context


def test_account_needs_a_context_that_can_be_read(root: Path) -> None:
    done = run(root, "--switch-to-account", "x", "true", LUCI_CONTEXT="/absent.json")
    assert done.returncode == 1
    assert "Cannot switch to the account 'x'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_containment_other_than_job_objects_has_no_effect(root: Path, tmp_path: Path) -> None:
    root.mkdir()
    done = run(root, "--containment-type", "AUTO", "--limit-processes", "1", "--report-on-exception", "true")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("run_isolated: warning: --limit-processes has no effect")
    done = run(root, "--containment-type", "JOB_OBJECT", "--json", tmp_path / "json", "true")
    assert done.returncode == 1
    told = json.loads((tmp_path / "json").read_text())
    assert (told["exit_code"], told["internal_failure"][:11]) == (None, "Job objects")


def test_named_cache_comes_back(root: Path, tmp_path: Path) -> None:
    flags: list[str | Path] = ["--named-cache-root", tmp_path / "named", "--named-cache", "git", "checkout/git", "1000"]
    assert run(root, *flags, "sh", "-c", "ls checkout/git; echo 1 > checkout/git/file").stdout == ""
    assert run(root, *flags, "sh", "-c", "cat checkout/git/file; exit 3").stdout == "1\n"
    assert (tmp_path / "named/named/git/file").read_text() == "1\n"
    assert run(root, "--clean", "--cache", tmp_path / "c", "--named-cache-root", tmp_path / "named").returncode == 0
    assert (tmp_path / "named/named/git/file").read_text() == "1\n"


def test_named_cache_survives_a_command_that_is_killed_and_is_lost_with_one_that_removes_it(
    root: Path, tmp_path: Path
) -> None:
    flags: list[str | Path] = ["--named-cache-root", tmp_path / "named", "--named-cache", "a", "a", "-1"]
    killed = run(root, *flags, "--hard-timeout", "1", "--grace-period", "0.1", "sh", "-c", "touch a/f; sleep 99 & wait")
    assert killed.returncode & 0xFF in {256 - 15, 256 - 9}
    assert (tmp_path / "named/named/a/f").exists()
    lost = run(root, *flags, "sh", "-c", "rm -r a; ln -s / a")
    assert lost.returncode == 0
    assert "The named cache 'a' is lost" in lost.stderr
    assert run(root, *flags, "ls", "a").stdout == ""


def test_named_cache_survives_a_runner_that_is_killed(root: Path, tmp_path: Path) -> None:
    flags: list[str | Path] = ["--named-cache-root", tmp_path / "named", "--named-cache", "a", "a", "-1"]
    runner = "open(f'/proc/{os.getppid()}/stat').read().rpartition(')')[2].split()[1]"  # above the launcher
    code = f"import os; open('a/file', 'w').write('kept'); os.kill(int({runner}), 9); import time; time.sleep(100)"
    command = [COMMAND, "--root-dir", root, *flags, sys.executable, "-c", code]
    assert subprocess.run(command, cwd=tmp_path).returncode == -9
    assert run(root, *flags, "cat", "a/file").stdout == "kept"


def test_kept_directory_of_a_killed_run_stays_and_nothing_else_of_it(root: Path, tmp_path: Path) -> None:
    flags: list[str | Path] = ["--named-cache-root", tmp_path / "named", "--named-cache", "a", "a", "-1"]
    runner = "int(open(f'/proc/{os.getppid()}/stat').read().rpartition(')')[2].split()[1])"
    code = (
        "import os, time; open('a/file', 'w').write('kept'); open('own', 'w'); told, tell = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.setsid(); os.chdir('/'); print(os.getpid(), flush=True); os.close(tell); time.sleep(1000)\n"
        "os.close(tell); os.read(told, 1)\n"
        f"for pid in ({runner}, os.getppid()): os.kill(pid, 9)"
    )
    command = [COMMAND, "--root-dir", root, *flags, "--leak-temp-dir", sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        daemon = os.pidfd_open(int(killed.stdout.readline()))
        assert killed.wait() == -9
    (kept,) = root.iterdir()
    reader = subprocess.Popen(["sleep", "1000"], cwd=kept)  # of whoever looks into what was kept
    try:
        command = [COMMAND, "--root-dir", root, *flags, "cat", "a/file"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "kept", "")
        assert select.select([daemon], [], [], 20)[0]
        assert reader.poll() is None
    finally:
        reader.kill()
        reader.wait()
        if not select.select([daemon], [], [], 0)[0]:
            signal.pidfd_send_signal(daemon, signal.SIGKILL)
    os.close(daemon)
    assert list(root.iterdir()) == [kept]
    assert sorted(os.listdir(kept / "ir")) == ["own"]
    assert not list(Path("/sys/fs/cgroup").glob(f"**/run_isolated-{kept.name}"))


def test_parameter_without_a_value_stays_and_is_told(root: Path) -> None:
    done = run(root, "echo", "${SWARMING_BOT_FILE}")
    assert done.stdout == "${SWARMING_BOT_FILE}\n"
    assert "warning: ${SWARMING_BOT_FILE} stays as it is" in done.stderr
    done = run(root, "echo", "${ISOLATED_OUTDIR}/x")
    assert (done.returncode, done.stdout) == (1, "")
    assert "needs an isolate server" in done.stderr


def test_name_of_a_program_written_on_windows(root: Path) -> None:
    code = "mkdir bin; printf '#!/bin/sh\\necho ran\\n' > bin/x; chmod +x bin/x"
    flags: list[str | Path] = ["--named-cache-root", root.parent / "named", "--named-cache", "c", "c", "0"]
    assert run(root, *flags, "sh", "-c", f"cd c; {code}").returncode == 0
    assert run(root, *flags, "c\\bin\\x").stdout == "ran\n"


def test_log_is_written_where_asked_and_rotates_into_the_directory_by_default(root: Path, tmp_path: Path) -> None:
    assert run(root, "-l", tmp_path / "my.log", "sh", "-c", "exit 3").returncode == 3
    assert '"exit_code": 3' in (tmp_path / "my.log").read_text()
    assert not (tmp_path / "run_isolated.log").exists()
    run(root, "true")
    assert "Run None of None: ('true',)" in (tmp_path / "run_isolated.log").read_text()
    (tmp_path / "run_isolated.log").unlink()
    run(root, "--no-log", "true")
    assert not (tmp_path / "run_isolated.log").exists()


def test_log_rotates_when_it_is_large(root: Path, tmp_path: Path) -> None:
    with (tmp_path / "run_isolated.log").open("wb") as file:
        file.truncate(10 << 20)
    for number in range(1, 6):
        (tmp_path / f"run_isolated.log.{number}").write_text(str(number))
    run(root, "true")
    assert (tmp_path / "run_isolated.log").stat().st_size < 10_000
    assert (tmp_path / "run_isolated.log.1").stat().st_size == 10 << 20
    assert [(tmp_path / f"run_isolated.log.{number}").read_text() for number in range(2, 6)] == list("1234")
    assert not (tmp_path / "run_isolated.log.6").exists()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_log_that_cannot_be_written_matters_only_to_who_asked_for_it(
    root: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """A pipe that nobody reads is none that can be written to: a command may have left it."""
    root.mkdir()
    make(tmp_path / "run_isolated.log")
    assert run(root, "echo", "ran").stdout == "ran\n"
    done = run(root, "-l", tmp_path / "absent/log", "echo", "ran")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Cannot write the log" in done.stderr


def test_log_on_a_full_disk_changes_nothing(root: Path) -> None:
    done = run(root, "-l", "/dev/full", "sh", "-c", "echo ran; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "ran\n", "")


def test_result_goes_to_what_is_open_already(root: Path, tmp_path: Path) -> None:
    command = f"{COMMAND} --no-log --root-dir {root} --json /dev/stdout echo ran; echo after"
    done = subprocess.run(["sh", "-c", f"({command}) > told"], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    first, rest = (tmp_path / "told").read_text().split("ran\n")
    assert json.loads(first)["internal_failure"] == "Was terminated before completion"
    assert rest.endswith("}after\n")
    assert json.loads(rest.removesuffix("after\n"))["exit_code"] == 0


def test_cipd_that_is_switched_off_is_fine(root: Path) -> None:
    done = run(root, "--cipd-cache", "x", "--cipd-enabled=false", "--cipd-server", "https://x", "echo", "ran")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")


@pytest.mark.parametrize("home", ["unset", "read-only", "absent"])
def test_home_that_is_of_no_use(root: Path, tmp_path: Path, home: str) -> None:
    """A run needs no home when it is told where its directories are."""
    env = {"PATH": os.environ["PATH"]}
    if home != "unset":
        env["HOME"] = "/proc/self" if home == "read-only" else "/absent"  # nobody, root included, can write there
    command = [COMMAND, "--root-dir", str(root), "--cache", str(tmp_path / "cache"), "sh", "-c", "echo ${HOME-unset}"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd="/proc")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{env.get('HOME', 'unset')}\n", "")


@pytest.mark.parametrize("home", ["/proc/self", None])
def test_home_that_cannot_be_written_is_replaced_by_a_private_directory(
    tmp_path: Path, home: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), "HOME": home or ""}
    if home is None:
        env["XDG_CACHE_HOME"] = "/proc/self"
    command = [COMMAND, "--no-log", "--named-cache", "n", "n", "0", "sh", "-c", "pwd; cat n/k; echo kept > n/k"]
    place = tmp_path / f"isolate-{os.geteuid()}"
    for kept in ("", "kept\n"):
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd="/proc")
        printed, _, rest = done.stdout.partition("\n")
        assert (done.returncode, rest) == (0, kept)
        assert printed.startswith(f"{place}/")
        assert str(place) in done.stderr.splitlines()[0]
    assert place.stat().st_mode & 0o777 == 0o700
    place.chmod(0o777)  # as if somebody else could have been there
    monkeypatch.setattr(places, "_TEMPORARY", ())
    with pytest.raises(InternalFailure, match="nor below TMPDIR"):
        places.usable(Path("/proc/self/isolate"), env)


def test_times_of_0_are_for_ever_and_limits_of_windows_have_no_effect(root: Path) -> None:
    flags = ["--hard-timeout", "0", "--grace-period", "0", "--containment-type", "NONE"]
    done = run(root, *flags, "--limit-total-committed-memory", "1", "sh", "-c", "sleep 0.1; echo ran")
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert done.stderr.startswith("run_isolated: warning: --limit-total-committed-memory has no effect")


def test_work_directories_are_private_and_beside_the_cache(tmp_path: Path) -> None:
    command: list[str | Path] = [COMMAND, "--no-log", "--cache", tmp_path / "beside/blobs"]
    command += ["sh", "-c", "pwd; stat -c %a . .."]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    where, *modes = done.stdout.splitlines()
    assert (Path(where).parent.parent, modes) == (tmp_path / "beside", ["700", "700"])
    assert os.listdir(tmp_path / "beside") == []


def test_output_directory_in_a_variable_needs_a_server(root: Path, tmp_path: Path) -> None:
    done = run(root, "--json", tmp_path / "json", "--env", "OUT=${ISOLATED_OUTDIR}", "true")
    told = json.loads((tmp_path / "json").read_text())
    assert (done.returncode, told["exit_code"]) == (1, None)
    assert "needs an isolate server" in told["internal_failure"]


def test_program_of_no_known_format_is_explained(root: Path, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\0")
    program.chmod(0o755)
    done = run(root, program)
    assert (done.returncode, done.stdout) == (1, "")
    first, _, last = done.stderr.splitlines()
    assert first.startswith("<The executable does not exist")
    assert str(program) in last
