"""What the programs of the benchmark have in common: how they are typed, where they work, how they end.

Knows nothing of what is measured. The invariants: what cannot be written is refused before anything is measured; a
program leaves no folder of its own but what somebody asked to keep; it ends with one line instead of a traceback.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from isolate import ending
from isolate.errors import IsolateError
from isolate.terminal import run_command, verbose_option
from swarming.actions import check_writable


class OutputFile(click.Path):
    """A file to write when all is measured, which takes long: what stands in the way is said at once."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"Cannot write {path}: there is no folder {path.parent}", param, ctx)
        try:
            check_writable(path)
        except IsolateError as error:
            self.fail(str(error), param, ctx)
        return path


SETTINGS = {"help_option_names": ["-h", "--help"]}  # of each program


def run_program(program: str, command: click.Command, arguments: Sequence[str] | None = None) -> int:
    """Run a program and return its exit status; signals that end it let it end servers and remove folders first."""
    ending.listen()
    if not any("--verbose" in parameter.opts for parameter in command.params):
        verbose_option(command)
    return run_command(f"python -m {program}", command, arguments)


@contextlib.contextmanager
def made(folder: Path | None) -> Iterator[None]:
    """Make a folder unless it is there; what was made, parents included, goes again if nothing is in it at the end."""
    absent = [] if folder is None else [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise click.UsageError(f"Cannot make the folder {folder}: {error.strerror}") from error
        yield
    finally:
        for one in absent:
            with contextlib.suppress(OSError):  # something is kept in it, or it could not be made
                one.rmdir()


@contextlib.contextmanager
def working(prefix: str, scratch: Path | None) -> Iterator[Path]:
    """Give a new folder in `scratch`, or where temporary files are; it is gone at the end."""
    with made(scratch):
        try:
            folder = tempfile.TemporaryDirectory(prefix=prefix, dir=scratch, ignore_cleanup_errors=True)
        except OSError as error:
            raise click.UsageError(
                f"Cannot work in {scratch or 'the folder of temporary files'}: {error.strerror}"
            ) from error
        with folder as place:
            yield Path(place)
