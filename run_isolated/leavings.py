"""What a command left as outputs: looked at first, since it may have left anything, then stored.

Knows no command. The invariants: nothing is taken through a link in the place of one of our directories; a run without
outputs imports nothing for them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from isolate.clock import Clock
from isolate.errors import InternalFailure
from isolate.monitor import Monitor
from run_isolated.command import inner_path
from run_isolated.result import OutputsRef, Transfer
from run_isolated.waiting import in_thread
from run_isolated.workdir import WorkDir

if TYPE_CHECKING:
    from run_isolated.distant import DistantStore


async def stored(
    server: str,
    paths: Sequence[str],
    work: WorkDir,
    store: DistantStore,
    report: Callable[[str], None],
    clock: Clock,
    monitor: Monitor,
) -> tuple[OutputsRef, Transfer] | None:
    """Store the output directory and the `paths` of the run directory; None when there is nothing in them.

    What is left out is told to `report`. Raises InternalFailure, and what an upload raises.
    """
    if not _is_real(work.out) or (paths and not _is_real(work.run)):
        raise InternalFailure("The command removed or replaced its own directories: its outputs cannot be taken")
    with suppress(OSError):  # whatever else it did to the directory is looked into below
        if not paths and not os.listdir(work.out):
            return None
    from run_isolated import outputs

    await in_thread(partial(outputs.collect, work.run, work.out, [inner_path(path) for path in paths], report))
    uploaded = await outputs.upload(work.out, store, report, clock, monitor)
    if uploaded is None:
        return None
    root, transfer = uploaded
    return OutputsRef(root, server, store.namespace.name), transfer


def _is_real(place: Path) -> bool:
    """Whether one of our directories is still one, and no link stands in its place or above it."""
    return os.path.realpath(place) == str(place) and place.is_dir()
