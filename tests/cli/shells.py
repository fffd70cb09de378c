"""The `isolate` and `isolateserver` commands, run in the process of the tests."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from isolate.cli import isolate, isolateserver
from isolate.terminal import run_command


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


class Shell:
    """Runs the commands in this process, in an environment of their own."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def isolate(self, *arguments: object) -> Ended:
        return self._run("isolate", isolate, arguments)

    def isolateserver(self, *arguments: object) -> Ended:
        return self._run("isolateserver", isolateserver, arguments)

    def _run(self, program: str, command: object, arguments: tuple[object, ...]) -> Ended:
        self._capture.readouterr()
        status = run_command(program, command, [str(argument) for argument in arguments])  # type: ignore[arg-type]
        return Ended(status, *self._capture.readouterr())
