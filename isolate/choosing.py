"""What the flags of a command and the state of the last one choose: a selection, and how it is archived and remembered.

Knows flags by their meaning and no terminal. The invariant: a `.isolated` and its state are written together, after all
they tell of is in the store, and not at all when something failed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from isolate.archive import ArchiveOptions, archive_files
from isolate.archived import Archived
from isolate.errors import InvalidInput, InvalidIsolateFile, TooLarge
from isolate.hands import Target
from isolate.monitor import Monitor
from isolate.recreate import Failure
from isolate.saved import Saved, load_saved, state_writer
from isolate.scan import ScanRules
from isolate.selection import BadVariable, Selection, Variables, host_defaults, select


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a command line asks for; paths are relative to `cwd`."""

    isolate_file: Path | None
    isolated: Path | None  # whose state is used, and which is written
    given: Variables
    subdir: str
    cwd: Path
    platform: str  # `sys.platform`


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A selection, and the variables it was made with: those given now and those remembered."""

    selection: Selection
    given: Variables


def choose(wish: Wish, warn: Callable[[str], object]) -> Choice:
    """Return what `wish` means; raises Failure and what `select` raises."""
    saved = remembered(wish, warn)
    isolate_file = saved.isolate_file if wish.isolate_file is None else str(wish.cwd / wish.isolate_file)
    if isolate_file is None:
        raise Failure("Execution failure: A .isolate file is required.")
    given = saved.updated(wish.given)
    defaults = host_defaults(wish.platform)
    selection = select(Path(isolate_file), given, wish.cwd, defaults=defaults, subdir=wish.subdir)
    return Choice(selection=selection, given=given)


def remembered(wish: Wish, warn: Callable[[str], object]) -> Saved:
    """Return the state of the `.isolated` of `wish`; an empty one if it is about another `.isolate`."""
    if wish.isolated is None:
        return Saved()
    saved = load_saved(wish.cwd / wish.isolated, wish.platform, warn)
    if wish.isolate_file is None or saved.isolate_file is None:
        return saved
    asked = os.path.realpath(wish.cwd / wish.isolate_file)
    return saved if os.path.realpath(saved.isolate_file) == asked else Saved()


async def archive_choice(
    choice: Choice, wish: Wish, target: Target, options: ArchiveOptions, monitor: Monitor
) -> Archived:
    """Archive what is chosen, and write the `.isolated` of `wish` with its state."""
    assert wish.isolated is not None, "a command that saves has a .isolated"
    isolated = wish.cwd / wish.isolated
    with state_writer(isolated, target.namespace) as state:
        archived = await archive_files(choice.selection, target, replace(options, record=state), monitor)
        state.save(choice.selection, choice.given, archived.manifest, archived.group_parts, wish.platform)
    return archived


def look_at(selection: Selection, rules: ScanRules) -> int:
    """Return how many entries a selection has; raises InvalidInput for what is not there."""
    return sum(1 for _ in selection.entries(rules))


@contextmanager
def failures() -> Iterator[None]:
    """Let what is wrong with a `.isolate` or its files end a command as 2020's did: with 1, not as wrong usage."""
    try:
        yield
    except BadVariable as error:
        raise Failure(f"Execution failure: {error}") from error
    except InvalidIsolateFile as error:
        raise Failure(str(error)) from error
    except TooLarge:
        raise
    except InvalidInput as error:
        raise Failure(f"Failed to find an input file: {error}") from error
