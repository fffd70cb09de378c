"""The control group of one command, and what still belongs to a command whose launcher is gone.

Knows no launcher and no policy. The invariant: whoever is in the group of a run, has the run's directory in its initial
environment, or works in it, is found; see `linux.of_directory`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from isolate.errors import InternalFailure
from run_isolated import linux
from run_isolated.cgroups import NO_LIMITS, Limits, make, own_group
from run_isolated.group import Group

# In the environment of the command: its work directory. Leftovers of a run whose launcher was killed are found by it.
MARK = "RUN_ISOLATED_WORK_DIR"

PASSES = 50  # of looking for leftovers by mark; each kills what it saw, so one is the rule
_GROUP_END_S = 10.0  # for the kernel to end a group of which the launcher is gone


@dataclass(frozen=True, slots=True)
class CommandGroup:
    """The control group of one command; `end` it in the end."""

    group: Group
    is_limited: bool

    @classmethod
    def make(cls, work_dir: Path, parent: str | None = None, limits: Limits = NO_LIMITS) -> CommandGroup | None:
        """Make one below `parent`, by default beside those of this process; None where that cannot be had.

        Its name is that of the work directory, by which the next run finds it. Raises InternalFailure when there are
        to be limits and cannot be.
        """
        try:
            return cls(make(_parent(parent), _group_name(work_dir), limits), limits != NO_LIMITS)
        except OSError as error:
            if limits != NO_LIMITS:
                raise InternalFailure(f"The command cannot be limited here: {error.strerror}") from error
            return None

    def end(self) -> None:
        """Kill everyone in it and remove it, if it is still there."""
        self.group.end(_GROUP_END_S)


def _parent(given: str | None) -> str:
    return own_group() if given is None else given


def _group_name(work_dir: Path) -> str:
    return f"run_isolated-{work_dir.name}"


def end_leftovers(work_dir: Path, parent: str | None = None, *, by_place: bool = True) -> int:
    """Kill what still belongs to a run whose launcher is gone; return how many processes it were.

    They are found by their control group, below `parent` as in `CommandGroup.make`, by their environment and, unless
    the directory may be somebody else's by now, by where they work.
    """
    ended = 0
    if above := _parent(parent):
        group = Group(f"{above}/{_group_name(work_dir)}")
        ended += len(group.processes())
        group.end(_GROUP_END_S)
    for _ in range(PASSES):
        victims = linux.of_directory(str(work_dir), MARK, by_place=by_place)
        if not victims:
            break
        linux.kill(victims)
        ended += len(victims)
    return ended
