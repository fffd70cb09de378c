"""The small process between a run and its command: starts it, adopts its orphans, and leaves none behind.

Runs fresh and single-threaded (see `COMMAND_LINE`), so it may fork. Knows no time-out and no policy: its owner sends a
request, then T (SIGTERM to the command's group) and K (SIGKILL to every descendant) as it pleases, and gets one line
back. The invariant: the line is written, and this process ends, only when no descendant is left, whether the command
ended, K came, or the owner is gone. Imports little, not even `typing`: every run waits for it.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence
from contextlib import suppress

from run_isolated import linux
from run_isolated.group import Group
from run_isolated.request import AHEAD, HEADER_BYTES, LIMITED, LOWER_PRIORITY, NO_NETWORK, TRIAL, Request

# Isolated from the user's environment and site-packages: faster, and nothing of theirs runs here.
# Arguments: the folder of this package, the control descriptor, the owner's process id.
_CODE = (
    "import sys as s; s.path.append(s.argv[1]); from run_isolated.launcher import main as m; m(*map(int, s.argv[2:]))"
)
COMMAND_LINE = ("-I", "-S", "-c", _CODE)
TERMINATE, KILL = b"T", b"K"

# A process in uninterruptible sleep (a dead network disk) does not die of SIGKILL; waiting for ever would hang the run.
_GIVE_UP_S = 20.0
_LOOK_AGAIN_MS = 20
# Processes collected in one go: a command whose processes end faster than we collect must not stop all else.
_REAP_AT_ONCE = 64
_IGNORED = (signal.SIGINT, signal.SIGTERM)  # meant for the owner, which decides
_RESET = (*_IGNORED, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores the last two


def main(control: int, owner: int) -> None:
    """Serve one request that comes over the socket `control` from the process `owner`."""
    os.set_inheritable(control, False)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    try:
        awake = _awake()
        linux.become_subreaper()
        linux.die_with_parent(signal.SIGHUP, owner)
        request, rest, child = _first(control)
    except OSError as error:  # there is no command yet
        _answer(control, f"refused The command cannot be started here: {error.strerror}")
        os._exit(0)
    if request is not None and child is not None:
        _Launch(control, owner, awake, rest).serve(request, child)
    elif child is not None:
        child.dismiss()
    os._exit(0)  # nothing to tidy up, and the interpreter's own way out takes 5 ms


def _awake() -> int:
    """Return a descriptor that can be read from when a signal came."""
    for number in (signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, _wake)
    awake, wake = os.pipe()
    os.set_blocking(awake, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    return awake


def _first(control: int) -> tuple[Request | None, bytes, _Child | None]:
    """Return the request to run a command, what came behind it, and who will be that command."""
    request, rest = _receive(control)
    child: _Child | None = None
    while request is not None and (TRIAL in request.wishes or AHEAD in request.wishes):
        if AHEAD in request.wishes:
            child = child or _Child(request.group, control)
        else:
            from run_isolated import overlay

            _answer(control, f"tried {overlay.trial(request.overlay)}")
        request, rest = _receive(control, rest)
    return request, rest, child if child is not None or request is None else _Child(request.group, control)


def _wake(_number: int, _frame: object) -> None:
    """Take the signal; what matters is that the wake-up descriptor ends the poll, whose loop looks for the reason."""


def _receive(control: int, begun: bytes = b"") -> tuple[Request | None, bytes]:
    """Return the request that has `begun`, None when the owner went away instead, and what else came already."""
    data = bytearray(begun)
    while len(data) < HEADER_BYTES or len(data) < HEADER_BYTES + int.from_bytes(data[:HEADER_BYTES]):
        received = _read(control, 1 << 16)
        if not received:
            return None, b""
        data += received
    end = HEADER_BYTES + int.from_bytes(data[:HEADER_BYTES])
    return Request.decode(bytes(data[HEADER_BYTES:end])), bytes(data[end:])


def _read(control: int, limit_bytes: int) -> bytes:
    """Return what the owner sent; nothing when it is gone."""
    try:
        return os.read(control, limit_bytes)
    except OSError:
        return b""


class _Child:
    """The process that will be the command: in its group already, where it waits to be told what to become."""

    def __init__(self, group: bytes, control: int) -> None:
        reading, self._give = os.pipe()
        self._told, tell = os.pipe()
        launcher = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            for descriptor in (self._give, self._told, control):  # so that their other ends see when we are gone
                os.close(descriptor)
            _wait(group, reading, launcher, tell)
        os.close(reading)
        os.close(tell)

    def become(self, request: Request) -> str:
        """Let it be the command; return "failed" or "refused" and why that is impossible, "" when it runs."""
        with suppress(OSError), os.fdopen(self._give, "wb") as pipe:  # somebody killed it: its status tells
            pipe.write(request.encode())
        with os.fdopen(self._told, "rb") as pipe:
            return pipe.read().decode(errors="replace")

    def dismiss(self) -> None:
        """Let it end without having been anything."""
        os.close(self._give)
        os.waitpid(self.pid, 0)


class _Launch:
    """One command and everything that stems from it."""

    def __init__(self, control: int, owner: int, awake: int, orders: bytes) -> None:
        self._control, self._owner, self._awake = control, owner, awake
        self._orders = orders  # that were read, and not carried out
        self._command = 0
        self._group: Group | None = None
        self._status: int | None = None
        self._ended_s = 0.0
        self._more_to_reap = False

    def serve(self, request: Request, child: _Child) -> None:
        """Let `child` become what is asked for, and see it out."""
        started_s = time.monotonic()
        self._group = Group(os.fsdecode(request.group)) if request.group else None
        self._command = child.pid
        error = child.become(request)
        if error:
            os.waitpid(self._command, 0)
            self._end_group()
            _answer(self._control, error)
            return
        while self._status is None and self._obey():
            self._poll([self._awake, self._control], None)  # for a signal, or the owner to speak
            self._reap()
        survivors = self._end_all()
        out_of_memory = 0 if self._group is None else self._group.out_of_memory()
        survivors = max(survivors, self._end_group())
        if self._status is None:  # survived SIGKILL: it counts among the survivors
            self._status, self._ended_s = int(signal.SIGKILL), time.monotonic()
        code = os.waitstatus_to_exitcode(self._status)
        _answer(self._control, f"exited {code} {self._ended_s - started_s:.6f} {survivors} {out_of_memory}")

    def _obey(self) -> bool:
        """Carry out what the owner asks; False when everything is to end now."""
        if os.getppid() != self._owner:
            return False
        orders, self._orders = self._orders, b""
        ready, _, _ = select.select([self._control], [], [], 0)
        if ready:
            said = _read(self._control, 64)
            if not said:
                return False
            orders += said
        if KILL in orders:
            return False
        if orders:
            with suppress(OSError):
                os.killpg(self._command, signal.SIGTERM)  # not reaped yet, so the group is still its own
        return True

    def _poll(self, descriptors: Sequence[int], timeout_ms: int | None) -> None:
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        poll.poll(0 if self._more_to_reap else timeout_ms)
        with suppress(BlockingIOError):
            os.read(self._awake, 4096)

    def _reap(self) -> bool:
        """Collect processes that ended; False when there is no child left, adopted ones included."""
        self._more_to_reap = False
        for _ in range(_REAP_AT_ONCE):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._command:
                self._status, self._ended_s = status, time.monotonic()
        self._more_to_reap = True
        return True

    def _end_all(self) -> int:
        """Kill all descendants until none is left; return how many would not die."""
        give_up_s = time.monotonic() + _GIVE_UP_S
        while self._reap():
            family = linux.descendants(linux.processes(), os.getpid())
            victims = [process for process in family if process.alive]
            if time.monotonic() > give_up_s:
                return max(1, len(victims))
            if self._status is None:
                with suppress(OSError):
                    os.killpg(self._command, signal.SIGKILL)  # all there is where /proc is not
            if self._group is not None:
                self._group.kill()
            # The dead tell the group of those who forked on before we looked.
            linux.kill_groups(family, os.getpgrp())
            linux.kill(victims)
            self._poll([self._awake], _LOOK_AGAIN_MS)  # some may not be our own children yet
        return 0

    def _end_group(self) -> int:
        """End the control group; return how many in it would not die."""
        if self._group is None or self._group.end(_GIVE_UP_S):
            return 0
        return max(1, len(self._group.processes()))


def _answer(control: int, line: str) -> None:
    with suppress(OSError):  # the owner may be gone; then nobody wants to know
        os.write(control, line.replace("\n", " ").encode(errors="backslashreplace") + b"\n")


def _wait(group: bytes, reading: int, launcher: int, tell: int) -> None:
    """Enter the group in this forked child, wait for the request, and never return."""
    try:
        problem = _entered(group) if group else ""  # before what changes our rights
        request, _ = _receive(reading)
        if request is not None:
            _become(request, problem, launcher, tell)
    finally:
        os._exit(127)


def _entered(group: bytes) -> str:
    """Move into the control group; returns why that is not allowed, which matters only if there are limits."""
    try:
        Group(os.fsdecode(group)).enter()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _become(request: Request, problem: str, launcher: int, tell: int) -> None:
    """Turn this forked child into the command; writes the reason to `tell` when that fails."""
    try:
        if problem and LIMITED in request.wishes:
            _refuse(tell, f"The command cannot be limited here: {problem}")
        os.setsid()
        if LOWER_PRIORITY in request.wishes:
            os.nice(1)
        if NO_NETWORK in request.wishes:
            problem = linux.leave_network()
            if problem:
                _refuse(tell, problem)
        if request.overlay:
            from run_isolated import overlay

            if problem := overlay.enter(*request.overlay):
                _refuse(tell, f"The tree cannot be mounted any more: {problem}")
        linux.die_with_parent(signal.SIGKILL, launcher)  # after what changes our rights, which would undo it
        signal.set_wakeup_fd(-1)
        for number in _RESET:
            signal.signal(number, signal.SIG_DFL)
        os.chdir(request.cwd)
        os.execve(request.argv[0], request.argv, request.env)  # noqa: S606 - running it is what this is for
    except OSError as error:
        reason = f"failed [Errno {error.errno}] {error.strerror}: {os.fsdecode(error.filename or b'')!r}"
        os.write(tell, reason.encode(errors="backslashreplace"))
    except ValueError as error:
        os.write(tell, f"failed {error}".encode(errors="backslashreplace"))


def _refuse(tell: int, problem: str) -> None:
    """Say why the command does not run, and end here."""
    os.write(tell, f"refused {problem}".encode(errors="backslashreplace"))
    os._exit(127)
