"""How a runner is started: a command and an environment.

Knows no process. Two launches that are equal start equal runners, so one that stands by may serve for either.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isolate.errors import InvalidInput
from swarming.bot import runner

RUNNER_COMMAND = (
    sys.executable,
    "-P",  # a file of a task must not shadow a module
    "-m",
    runner.__name__,  # imported here, for what is said there
)


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start; the bot appends arguments of its own to `command`."""

    command: tuple[str, ...]
    env: Mapping[str, str]

    @classmethod
    def checked(cls, command: Any, env: Any) -> Launch:
        """Return what somebody else wants to be started; raises InvalidInput."""
        if not isinstance(command, list) or not command or not _are_texts(command):
            raise InvalidInput("no command: a list of strings is needed")
        if not isinstance(env, dict) or not _are_texts(env.values()) or any(not name or "=" in name for name in env):
            raise InvalidInput("no environment: an object with strings is needed")
        return cls(tuple(command), dict(env))


def _are_texts(values: Any) -> bool:
    return all(isinstance(value, str) and "\0" not in value for value in values)
