"""Watches another version of the bot: the one before comes back if it does not work, and later it is kept alive.

Runs as `python -m swarming.bot.guard FOLDER VERSION SERVER WORDS…`, in place of the bot that updates itself and with
its process id, and stays until the next update. Knows no protocol but the lines of `slots`. The invariants: the version
that a start of the machine brings up is always one that has worked here; a bot that nobody told to end is started
again; this process ends when and how the bot does; should it be killed, so is the bot.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from swarming.bot import slots

SILENT_S = 300.0  # without an answer of a server that does answer us; its calls and their pauses take less than one
PING_S = 10.0
SHORT_S = 600.0  # as many deaths as TOO_MANY within this time are too many
TOO_MANY = 3
PAUSES_S = (1.0, 10.0, 60.0, 300.0)  # before a version that was chosen is started again, by its deaths of late
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


@dataclass(slots=True)
class Deaths:
    """How often a version that had been chosen died of late, by a monotonic clock."""

    pauses_s: tuple[float, ...] = PAUSES_S
    _at_s: list[float] = field(default_factory=list)

    def add(self, now_s: float) -> None:
        """Note one; those that are long ago are forgotten."""
        self._at_s = [*(at_s for at_s in self._at_s if now_s - at_s < SHORT_S), now_s][-len(self.pauses_s) :]

    @property
    def are_too_many(self) -> bool:
        """Whether the version before is to be preferred."""
        return len(self._at_s) >= TOO_MANY

    @property
    def pause_s(self) -> float:
        """How long to wait before it is started again."""
        return self.pauses_s[len(self._at_s) - 1]


class Guard:
    """One candidate after another, until one works and is exchanged, or the program ends."""

    def __init__(
        self,
        folder: Path,
        version: str,
        server: str,
        words: list[str],
        silent_s: float = SILENT_S,
        pauses_s: tuple[float, ...] = PAUSES_S,
    ) -> None:
        self._silent_s, self._deaths = silent_s, Deaths(pauses_s)
        self._wake_up, self._wake = os.pipe()  # a signal ends a pause
        self._folder, self._version, self._server, self._words = folder, version, server, words
        self._child: subprocess.Popen[bytes] | None = None
        self._is_asked = False  # somebody wants the bot to end
        self._works = False
        self._last = ""  # word of the candidate

    def run(self) -> NoReturn:
        """Watch, and become what comes next; this process ends when the bot does."""
        for number in _SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # else started by `nohup`
                signal.signal(number, self._pass_on)
        while True:
            status = self._watch()
            word, _, version = self._last.partition(" ")
            if word == slots.DONE or self._is_asked:
                self._leave(status)
            if word not in {slots.AGAIN, slots.BECOME}:
                if not self._works:
                    self._give_up(f"it ended with {_spelt(status)} before it had shown that it works")
                self._outlive(status)
            elif self._works and version:
                self._become(version)
            else:
                self._version = version or self._version

    def _outlive(self, status: int) -> None:
        """Return when a version that was chosen and died is to be started again; or go back to the one before."""
        from swarming.unpack import go_back

        self._deaths.add(time.monotonic())
        if self._deaths.are_too_many:
            try:
                is_back = go_back(self._folder, self._version)
            except OSError as error:
                _say(f"Cannot go back to the version before: {error.strerror}")
            else:
                if is_back:
                    self._give_up(f"it worked, and then died too often, at last with {_spelt(status)}")
        pause_s = self._deaths.pause_s
        _say(f"Version {self._version[:10]} ended with {_spelt(status)}, starting it again in {pause_s:g} s")
        select.select([self._wake_up], [], [], pause_s)
        if self._is_asked:
            self._leave(status)

    def _watch(self) -> int:
        """Let the candidate live; return how it ended."""
        told, tell = os.pipe()
        words = [*self._words, slots.CANDIDATE, str(tell), str(os.getpid())]
        command = slots.bot_command(slots.python_of(self._folder, self._version), words)
        self._last = ""
        try:
            # A process group of its own: Ctrl-C is passed on once, and does not come twice.
            self._child = subprocess.Popen(command, pass_fds=[tell], process_group=0)
        except OSError as error:
            os.close(tell)
            os.close(told)
            if self._works:  # no memory, or no more processes: of the moment
                return os.EX_OSERR
            self._give_up(f"it cannot be started: {error.strerror}")
        os.close(tell)
        if self._is_asked:  # before there was anybody to tell
            self._child.send_signal(signal.SIGTERM)
        with os.fdopen(told, "rb", buffering=0) as pipe:
            self._listen(pipe.fileno(), self._child)
        return self._child.wait()

    def _listen(self, told: int, child: subprocess.Popen[bytes]) -> None:
        """Return when the candidate has ended, or has to."""
        heard_s, rest = time.monotonic(), b""
        while True:
            limit_s = None if self._works else max(0.0, heard_s + self._silent_s - time.monotonic())
            if not select.select([told], [], [], limit_s)[0]:
                if self._answers():
                    child.kill()
                    child.wait()
                    self._give_up(f"it heard nothing of the server for {self._silent_s:g} s")
                heard_s = time.monotonic()
                continue
            data = os.read(told, 4096)
            if not data:
                return
            heard_s = time.monotonic()
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._last = line.decode(errors="replace")
                if self._last == slots.WORKS and not self._works:
                    self._keep()

    def _keep(self) -> None:
        """Make this version the one that is started from now on."""
        from swarming.unpack import choose

        self._works = True
        try:
            choose(self._folder, self._version)
        except OSError as error:
            _say(f"Version {self._version[:10]} works, but the next start is of the one before: {error.strerror}")
        else:
            _say(f"Version {self._version[:10]} works and stays")

    def _answers(self) -> bool:
        """Say whether the server could be heard: one that is away is no fault of a version."""
        import urllib.request

        try:
            with urllib.request.urlopen(self._server + slots.PING, timeout=PING_S) as reply:  # noqa: S310 - as configured
                return bool(reply.status == 200)
        except (OSError, ValueError):
            return False

    def _become(self, version: str) -> NoReturn:
        """Let the version that has shown that it works be the guard of the next."""
        python = slots.python_of(self._folder, self._version)
        _execute(slots.guard_command(python, self._folder, version, self._server, self._words))

    def _give_up(self, reason: str) -> NoReturn:
        """Go back to the version before."""
        from swarming.unpack import discard

        text = f"Version {self._version[:10]} does not work here, back to the one before: {reason}"
        _say(text)
        discard(self._folder, self._version)
        with suppress(OSError):  # a full disk: it will be tried again, and told then
            slots.refuse(self._folder, slots.Refusal(self._version, text))
        _execute(slots.bot_command(sys.executable, self._words))

    def _leave(self, status: int) -> NoReturn:
        """End as the bot did."""
        if status < 0:
            signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
            os.kill(os.getpid(), -status)
        sys.exit(status)

    def _pass_on(self, number: int, _frame: object) -> None:
        if number != signal.SIGUSR1 and not self._is_asked:
            self._is_asked = True
            os.write(self._wake, b".")
        if self._child is not None and self._child.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._child.pid, number)  # not `send_signal`: it may reap, in the middle of a `wait`


def _execute(command: list[str]) -> NoReturn:
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGUSR1 else signal.SIG_DFL)
    os.execv(command[0], command)  # noqa: S606


def _spelt(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"


def _say(text: str) -> None:
    sys.stderr.write(f"swarming-bot: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    place, wanted, url, *words = sys.argv[1:]
    Guard(Path(place), wanted, url, words).run()
