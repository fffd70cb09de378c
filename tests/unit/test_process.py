"""Real commands under the launcher: however they behave, nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from isolate.errors import InternalFailure
from run_isolated import linux
from run_isolated.cgroups import Limits, own_group
from run_isolated.command_group import MARK, CommandGroup, end_leftovers
from run_isolated.group import Group
from run_isolated.process import Ended, Launcher
from run_isolated.request import Request
from run_isolated.starting import LauncherProcess
from tests.clock import ManualClock
from tests.processes import has_ended

PYTHON = (sys.executable, "-I", "-S", "-c")
ENV = {"PATH": os.environ["PATH"]}
IGNORES_TERM = "import os, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
# Leaves its group and session, forks again, ignores SIGTERM, holds stdout, tells its pid and stays.
DAEMON = IGNORES_TERM + (
    "r, w = os.pipe()\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork(): os._exit(0)\n"
    "    print(os.getpid(), flush=True); os.close(w); signal.pause()\n"
    "os.close(w); os.read(r, 1)\n"
)


class Output:
    """The reading end of a command's stdout."""

    def __init__(self) -> None:
        read, self.write = os.pipe()
        self._file = os.fdopen(read, "rb")

    async def line(self) -> str:
        return (await asyncio.to_thread(self._file.readline)).decode().strip()

    def rest(self) -> str:
        """Return everything until nobody can write any more; would hang if a process were left."""
        self.close_write()
        return self._file.read().decode()

    def close_write(self) -> None:
        if self.write >= 0:
            os.close(self.write)
            self.write = -1

    def close(self) -> None:
        self.close_write()
        self._file.close()


@pytest.fixture
def output() -> Iterator[Output]:
    opened = Output()
    yield opened
    opened.close()


class Run:
    """One command that is running, and the levers to end it."""

    def __init__(self) -> None:
        self.stop, self.clock = asyncio.Event(), ManualClock()
        self.ended: asyncio.Task[Ended]


@asynccontextmanager
async def running(
    output: Output, argv: Sequence[str], cwd: Path = Path("/"), hard_s: float = 0, grace_s: float = 0
) -> AsyncIterator[Run]:
    run = Run()

    async def whole() -> Ended:
        async with Launcher.started(output.write) as launcher:
            return await launcher.run(
                argv, cwd, ENV, hard_timeout_s=hard_s, grace_period_s=grace_s, stop=run.stop, clock=run.clock
            )

    async with asyncio.TaskGroup() as group:
        run.ended = group.create_task(whole())
        yield run


async def finish(output: Output, argv: Sequence[str], cwd: Path = Path("/")) -> Ended:
    async with running(output, argv, cwd) as run:
        return await run.ended


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_exit_code_output_directory_and_environment(output: Output, tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd(), *os.environ); print('to stderr', file=sys.stderr); sys.exit(3)"
    ended = await finish(output, (*PYTHON, code), tmp_path)
    assert (ended.exit_code, ended.timed_out, ended.stopped, ended.survivors) == (3, False, False, 0)
    assert ended.duration_s > 0
    words = output.rest().split()
    # Python itself adds LC_CTYPE when it coerces the C locale; stderr is not buffered, so it comes first.
    assert [word for word in words if word != "LC_CTYPE"] == ["to", "stderr", str(tmp_path), "PATH"]


async def test_command_has_its_own_session_default_signals_and_no_strange_descriptors(output: Output) -> None:
    code = (
        "import os, signal as s; names = s.SIGTERM, s.SIGINT, s.SIGHUP, s.SIGCHLD\n"
        "print(os.getsid(0) == os.getpid(), all(s.getsignal(n) in (s.SIG_DFL, s.default_int_handler) for n in names))\n"
        "print(sorted(os.listdir('/proc/self/fd'))[:4])"
    )
    assert (await finish(output, (*PYTHON, code))).exit_code == 0
    # 3 is the directory being listed
    assert output.rest() == "True True\n['0', '1', '2', '3']\n"


async def test_signal_is_a_negative_exit_code(output: Output) -> None:
    assert (await finish(output, ("/bin/sh", "-c", "kill -9 $$"))).exit_code == -9


@pytest.mark.parametrize("argv", [("/no/such/program",), ("/etc/passwd",), ("/bin/sh", "nul\0nul")])
async def test_command_that_cannot_start_is_told_not_raised(output: Output, argv: tuple[str, ...]) -> None:
    ended = await finish(output, argv)
    assert ended.exit_code == 1
    assert ended.start_error


async def test_directory_that_is_gone_is_a_start_error(output: Output, tmp_path: Path) -> None:
    assert "No such file" in (await finish(output, ("/bin/true",), tmp_path / "gone")).start_error


async def test_daemon_that_ignores_sigterm_does_not_survive_a_normal_end(output: Output) -> None:
    assert (await finish(output, (*PYTHON, DAEMON))).exit_code == 0
    # rest() returning proves that nobody holds stdout any more.
    assert not alive(int(output.rest()))


async def test_grandchild_that_holds_stdout_does_not_delay_the_end(output: Output) -> None:
    ended = await finish(output, ("/bin/sh", "-c", "sleep 1000 & echo printed"))
    assert ended.exit_code == 0
    assert output.rest() == "printed\n"


async def test_process_that_hops_from_fork_to_fork_is_caught(output: Output) -> None:
    code = "import os\nif os.fork() == 0:\n    os.setsid()\n    while True:\n        if os.fork(): os._exit(0)\n"
    assert (await finish(output, (*PYTHON, code))).survivors == 0
    assert not output.rest()


async def test_hard_timeout_sends_sigterm_then_kills_after_the_grace(output: Output) -> None:
    handler = "signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'term\\n')); os.write(1, b'ready\\n')\n"
    code = DAEMON + handler + "while True: signal.pause()"
    async with running(output, (*PYTHON, code), hard_s=60, grace_s=5) as run:
        daemon = int(await output.line())
        assert await output.line() == "ready"
        run.clock.advance(60)
        assert await output.line() == "term"
        assert not run.ended.done()
        run.clock.advance(5)
    ended = run.ended.result()
    assert (ended.exit_code, ended.timed_out, ended.stopped) == (-9, True, False)
    assert not alive(daemon)


async def test_stop_lets_the_command_end_well_within_its_grace(output: Output) -> None:
    code = "import os, signal; signal.signal(15, lambda *_: os._exit(7)); os.write(1, b'ready\\n'); signal.pause()"
    async with running(output, (*PYTHON, code), hard_s=60, grace_s=5) as run:
        assert await output.line() == "ready"
        run.stop.set()
    ended = run.ended.result()
    assert (ended.exit_code, ended.timed_out, ended.stopped) == (7, False, True)


async def test_order_that_comes_together_with_the_request_is_carried_out(output: Output) -> None:
    stop = asyncio.Event()
    stop.set()
    async with Launcher.started(output.write) as launcher, asyncio.timeout(60):  # it would wait for the end of time
        code = "import os; print(os.environ['LAST'], flush=True); import signal; signal.pause()"
        ended = await launcher.run(
            (*PYTHON, code),
            Path("/"),
            ENV | {"LAST": "value"},
            hard_timeout_s=None,
            grace_period_s=None,
            stop=stop,
            clock=ManualClock(),
        )
    assert (ended.exit_code, ended.stopped) == (-15, True)
    assert output.rest() in {"", "value\n"}


async def test_timeout_after_stop_changes_nothing(output: Output) -> None:
    code = IGNORES_TERM + "print('ready', flush=True)\nwhile True: signal.pause()"
    async with running(output, (*PYTHON, code), hard_s=60, grace_s=90) as run:
        assert await output.line() == "ready"
        run.stop.set()
        while not run.clock._sleepers[1:]:  # the grace, beside the time-out
            await asyncio.sleep(0)
        run.clock.advance(60)
        assert not run.ended.done()
        run.clock.advance(30)
    assert (run.ended.result().timed_out, run.ended.result().stopped) == (False, True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="whether a process is stopped is told by /proc")
@pytest.mark.parametrize(("grace_s", "exit_code"), [(5, -9), (0, -15)])
async def test_command_that_stops_its_launcher_ends_in_time(output: Output, grace_s: float, exit_code: int) -> None:
    stops = "os.kill(os.getppid(), signal.SIGSTOP)"
    code = DAEMON + f"{stops}\nprint('stopped', flush=True)\nwhile True: {stops}"
    if not grace_s:  # it stops the launcher once, and would end when asked to
        code = f"import os, signal; {stops}; print('stopped', flush=True); signal.pause()"
    async with asyncio.timeout(60), running(output, (*PYTHON, code), hard_s=60, grace_s=grace_s) as run:
        daemon = int(await output.line()) if grace_s else None
        assert await output.line() == "stopped"
        run.clock.advance(60)
        while grace_s and not run.clock._sleepers:
            await asyncio.sleep(0)
        run.clock.advance(grace_s)
    ended = run.ended.result()
    assert (ended.exit_code, ended.timed_out, ended.survivors) == (exit_code, True, 0)
    assert daemon is None or not alive(daemon)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="descendants are told by /proc")
async def test_launcher_that_never_ends_is_killed_with_all_that_stems_from_it(output: Output) -> None:
    code = DAEMON + "print(os.getpid(), os.getppid(), flush=True); signal.pause()"
    async with Launcher.started(output.write, looks=0) as launcher:
        waiting = asyncio.ensure_future(
            launcher.run(
                (*PYTHON, code),
                Path("/"),
                ENV,
                hard_timeout_s=0,
                grace_period_s=0,
                stop=asyncio.Event(),
                clock=ManualClock(),
            )
        )
        pids = [int(await output.line()), *map(int, (await output.line()).split())]
        os.kill(pids[-1], signal.SIGSTOP)  # and nobody lets it go on
        waiting.cancel()
    assert all(has_ended(pid) for pid in pids)
    assert output.rest() == ""


async def test_cancelling_kills_at_once(output: Output) -> None:
    code = DAEMON + "print(os.getpid(), flush=True); signal.pause()"
    async with running(output, (*PYTHON, code), grace_s=1000) as run:
        pids = [int(await output.line()), int(await output.line())]
        run.ended.cancel()
    assert not any(alive(pid) for pid in pids)


async def test_killed_launcher_is_an_internal_failure_and_leaves_nothing(output: Output, tmp_path: Path) -> None:
    code = DAEMON + "os.kill(os.getppid(), 9); signal.pause()"
    async with Launcher.started(output.write) as launcher:
        with pytest.raises(InternalFailure):
            await launcher.run(
                (*PYTHON, code),
                tmp_path,
                ENV | {MARK: str(tmp_path)},
                hard_timeout_s=None,
                grace_period_s=None,
                stop=asyncio.Event(),
                clock=ManualClock(),
            )
    output.close_write()
    assert has_ended(int(await output.line()))


async def test_sigkill_of_the_owner_leaves_no_process() -> None:
    code = DAEMON + "print(os.getpid(), os.getppid(), flush=True); signal.pause()"
    owner_code = f"""if True:
        import asyncio, sys
        from pathlib import Path
        from isolate.clock import SystemClock
        from run_isolated.process import Launcher
        async def main():
            async with Launcher.started(None) as launcher:
                await launcher.run({(*PYTHON, code)!r}, Path("/"), {{}}, hard_timeout_s=0, grace_period_s=0,
                                   stop=asyncio.Event(), clock=SystemClock())
        asyncio.run(main())
        """
    owner = subprocess.Popen([sys.executable, "-c", owner_code], stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        pids = [int(word) for _ in range(2) for word in owner.stdout.readline().split()]
        assert len(pids) == 3
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        assert all(has_ended(pid) for pid in pids)


async def test_unused_launcher_goes_away(output: Output) -> None:
    async with Launcher.started(output.write) as launcher:
        pid = launcher._process.pid
        assert alive(pid)
    assert not alive(pid)


async def test_leftovers_are_found_by_mark_and_by_directory(tmp_path: Path) -> None:
    marked = subprocess.Popen(["sleep", "1000"], env=ENV | {MARK: str(tmp_path)})
    inside = subprocess.Popen(["sleep", "1000"], cwd=tmp_path)
    beside = subprocess.Popen(["sleep", "1000"], env=ENV | {MARK: f"{tmp_path}-2"})
    try:
        assert await asyncio.to_thread(end_leftovers, tmp_path) >= 2
        assert (marked.wait(), inside.wait()) == (-9, -9)
        assert beside.poll() is None
    finally:
        for process in (marked, inside, beside):
            process.kill()
            process.wait()


# As DAEMON, and hides what it could be found by: its environment and where it works.
HIDDEN = "import os\nif os.getcwd() != '/': os.chdir('/'); os.execve(sys.executable, sys.orig_argv, {})\n"


@pytest.fixture
def group(tmp_path: Path) -> Iterator[CommandGroup]:
    """The control group of a run in `tmp_path`."""
    made = CommandGroup.make(tmp_path)
    if made is None:
        pytest.skip(f"control groups cannot be made here, in {own_group()!r}")
    try:
        yield made
    finally:
        made.end()


both_ahead = pytest.mark.parametrize("ahead", [False, True])


async def run_in(group: CommandGroup, output: Output, work: Path, *argv: str, ahead: bool = False) -> Ended:
    """Run in a group, which the process that is to be the command has entered `ahead` of the request."""
    async with Launcher.started(output.write) as launcher:
        if ahead:
            launcher._started.prepare(group)
        return await launcher.run(
            argv,
            work,
            ENV | {MARK: str(work)},
            hard_timeout_s=None,
            grace_period_s=None,
            stop=asyncio.Event(),
            clock=ManualClock(),
            group=group,
        )


@both_ahead
async def test_control_group_is_the_commands_own_and_goes_with_it(
    ahead: bool, group: CommandGroup, output: Output, tmp_path: Path
) -> None:
    code = DAEMON + "print(open('/proc/self/cgroup').read())"
    ended = await run_in(group, output, tmp_path, *PYTHON, code, ahead=ahead)
    assert (ended.exit_code, ended.survivors, ended.out_of_memory) == (0, 0, 0)
    daemon, *memberships = output.rest().split()
    assert any(line.endswith(f"/run_isolated-{tmp_path.name}") for line in memberships)
    assert not alive(int(daemon))
    assert not os.path.exists(group.group.path)


@both_ahead
async def test_daemon_that_hides_does_not_outlive_a_killed_launcher_in_a_control_group(
    ahead: bool, group: CommandGroup, output: Output, tmp_path: Path
) -> None:
    code = "import sys\n" + HIDDEN + DAEMON + "os.kill(os.getppid(), 9); signal.pause()"
    with pytest.raises(InternalFailure, match="was killed"):
        await run_in(group, output, tmp_path, *PYTHON, code, ahead=ahead)
    assert has_ended(int(output.rest().split()[0]))
    assert not os.path.exists(group.group.path)


async def waiting_for(launcher: Launcher) -> int:
    """Return the process that waits to be told what to become."""
    assert await launcher.mounts(["/absent"] * 6)  # answered when it waits already
    (waiting,) = [found for found in linux.processes() if found.parent == launcher._process.pid]
    return waiting.pid


async def test_who_waits_in_a_group_for_a_command_that_never_comes_goes_with_the_launcher(
    group: CommandGroup, output: Output
) -> None:
    async with Launcher.started(output.write) as launcher:
        launcher._started.prepare(group)
        waiting = await waiting_for(launcher)
    assert has_ended(waiting)
    assert group.group.remove()


async def test_a_command_whose_process_was_killed_while_it_waited_ended_by_that(
    group: CommandGroup, output: Output, tmp_path: Path
) -> None:
    async with Launcher.started(output.write) as launcher:
        launcher._started.prepare(group)
        os.kill(await waiting_for(launcher), signal.SIGKILL)
        ended = await launcher.run(
            ["/bin/echo", "x" * 200_000],  # more than a pipe holds
            tmp_path,
            ENV,
            hard_timeout_s=None,
            grace_period_s=None,
            stop=asyncio.Event(),
            clock=ManualClock(),
            group=group,
        )
    assert (ended.exit_code, output.rest()) == (-signal.SIGKILL, "")


def test_leftovers_are_found_by_their_control_group(group: CommandGroup, tmp_path: Path) -> None:
    enter = "import os, sys; open(sys.argv[1] + '/cgroup.procs', 'w').write('0'); os.execv('/bin/sleep', ['x', '1000'])"
    hidden = subprocess.Popen([sys.executable, "-c", enter, group.group.path], env={}, cwd="/")
    try:
        while hidden.pid not in group.group.processes():
            assert hidden.poll() is None
        assert end_leftovers(tmp_path) == 1
        assert hidden.wait() == -9
    finally:
        hidden.kill()
        hidden.wait()
    assert not os.path.exists(group.group.path)


def test_no_control_group_is_no_problem_unless_there_are_limits(tmp_path: Path) -> None:
    assert CommandGroup.make(tmp_path, parent="") is None
    assert CommandGroup.make(tmp_path, parent="/proc/absent") is None
    with pytest.raises(InternalFailure, match="cannot be limited here: There are no control groups"):
        CommandGroup.make(tmp_path, parent="", limits=Limits(processes=5))


@both_ahead
@pytest.mark.parametrize("limited", [False, True])
async def test_group_that_cannot_be_entered_matters_only_for_limits(
    limited: bool, ahead: bool, output: Output, tmp_path: Path
) -> None:
    gone = CommandGroup(Group(str(tmp_path / "absent")), limited)
    if limited:
        with pytest.raises(InternalFailure, match="cannot be limited here: No such file"):
            await run_in(gone, output, tmp_path, "/bin/echo", "ran", ahead=ahead)
    else:
        assert (await run_in(gone, output, tmp_path, *PYTHON, DAEMON, ahead=ahead)).survivors == 0
        assert not alive(int(output.rest()))


def fields(request: Request) -> dict[str, object]:
    return {name: getattr(request, name) for name in Request.__slots__}


@pytest.mark.parametrize(
    "request_",
    [
        Request(b"/", [b"/bin/true"], {}, b"pl", b"/group"),
        Request(b"/a dir", [b"x", b"", b"\xff\n"], {b"EMPTY": b"", b"A": b"b=c", b"\xfe": b"\xfd"}),
    ],
)
def test_request_survives_its_encoding(request_: Request) -> None:
    assert fields(Request.decode(request_.encode()[8:])) == fields(request_)


def test_request_keeps_names_that_are_no_utf8() -> None:
    request = Request.of(["/x\udcff"], "/", {"A": "\udcfe"})
    assert fields(request) == fields(Request(b"/", [b"/x\xff"], {b"A": b"\xfe"}))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="nobody can limit another process")
def test_a_launcher_that_may_have_no_descriptors_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    with LauncherProcess.start(None) as launcher:
        resource.prlimit(launcher.process.pid, resource.RLIMIT_NOFILE, (5, 5))
        launcher.send(Request.of(["/bin/true"], "/", {}).encode())
        answer = launcher.control.recv(4096)
    assert answer == b"refused The command cannot be started here: Too many open files\n"
    assert capfd.readouterr().err == ""
