"""What the swarming commands take from outside their flags: the environment and the user's places.

The only module of the client that reads the environment.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping


def parent_task_id(environ: Mapping[str, str] = os.environ) -> str:
    """Return the run id of the task this command runs in, empty outside of a task (§7.2)."""
    return environ.get("SWARMING_TASK_ID", "")


def user_name() -> str | None:
    """Return who triggers, None where the system does not know."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no passwd entry: containers
        return None


def environment() -> dict[str, str]:
    """Return all variables, for a command that inherits them."""
    return dict(os.environ)
