"""How much of the machine a task may use: what is wanted, as far as control groups of this machine can enforce it.

Knows no task and no server. The invariant: a limit that cannot be enforced here is left out and said to be, and a
group that has anybody else's processes in it is never touched.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

from run_isolated import cgroups, linux
from run_isolated.cgroups import NO_LIMITS, Limits
from run_isolated.group import Group

_CONTROLLERS = {"memory_bytes": "memory", "processes": "pids", "cpu_cores": "cpu"}

log = logging.getLogger(__name__)


class Confinement:
    """The control group below which tasks get theirs; "" where there is none."""

    def __init__(self, parent: str) -> None:
        self._parent = parent
        self._told: frozenset[str] = frozenset()

    @classmethod
    def here(cls) -> Confinement:
        """Return that of this process: where it was before it was moved to make room for controllers."""
        found = cgroups.own_group()
        return cls(found.removesuffix(f"/{cgroups.KEEPER}"))

    @property
    def parent(self) -> str | None:
        """Where the group of a task is to be made; None leaves it to the run."""
        return self._parent or None

    def of(self, wanted: Limits) -> Limits:
        """Return what of `wanted` can be enforced; the rest is logged, once."""
        if wanted == NO_LIMITS:
            return NO_LIMITS
        found, lacking = enforceable(wanted, self._controllers())
        if lacking - self._told:
            log.warning("Tasks have no limit of %s here: there is no such controller", ", ".join(sorted(lacking)))
        self._told |= lacking
        return found

    def _controllers(self) -> frozenset[str]:
        on = cgroups.controllers(self._parent)
        if not self._parent or on >= set(_CONTROLLERS.values()) or not self._is_ours():
            return on
        return cgroups.delegate(self._parent)

    def _is_ours(self) -> bool:
        """Whether this group was made for the bot: by a service manager, who delegates it."""
        members = Group(self._parent).processes()
        family = linux.descendants(linux.processes(), os.getpid())
        return is_only_of(members, {os.getpid(), *(process.pid for process in family)})


def enforceable(wanted: Limits, controllers: Iterable[str]) -> tuple[Limits, frozenset[str]]:
    """Return `wanted` without what needs a controller that is not there, and the controllers that are lacking."""
    lacking = {
        field: name for field, name in _CONTROLLERS.items() if getattr(wanted, field) and name not in set(controllers)
    }
    return wanted._replace(**dict.fromkeys(lacking, 0)), frozenset(lacking.values())


def strictest(one: Limits, other: Limits) -> Limits:
    """Return the limits that keep both; 0 is none."""
    return Limits(
        memory_bytes=int(_least(one.memory_bytes, other.memory_bytes)),
        processes=int(_least(one.processes, other.processes)),
        cpu_cores=_least(one.cpu_cores, other.cpu_cores),
    )


def _least(one: float, other: float) -> float:
    return min(one, other) if one and other else one or other


def is_only_of(members: Iterable[int], family: Iterable[int]) -> bool:
    """Whether somebody is in a group, and nobody but the family."""
    found = set(members)
    return bool(found) and found <= set(family)
