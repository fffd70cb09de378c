"""The options of `isolate` and `isolateserver`, each written once.

Knows how they are spelt, not what they do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from isolate.commands import Command

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class CommandWithVariables(Command):
    """Accepts `--path-variable NAME VALUE` beside `NAME=VALUE`, as 2020 did."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        joined: list[str] = []
        left = iter(args)
        for argument in left:
            joined.append(argument)
            if argument in {"--path-variable", "--config-variable"}:
                name = next(left, "")
                joined.append(name if "=" in name else f"{name}={next(left, '')}")
        return super().parse_args(ctx, joined)


def _variables(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for name, _, value in pairs:
        if not name.isidentifier() or not value:
            raise click.BadParameter(f"{name!r} needs a name and a value, as NAME=VALUE", ctx, parameter)
    return {name: value for name, _, value in pairs}


def all_of(*options: Callable[[Any], Any]) -> Callable[[Decorated], Decorated]:
    def decorate(command: Decorated) -> Decorated:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


PATH = click.Path(path_type=Path)
server = click.option(
    "-I", "--isolate-server", "server", envvar="ISOLATE_SERVER", metavar="URL", help="Default: ISOLATE_SERVER."
)
selecting = all_of(
    click.option("-i", "--isolate", "isolate_file", type=PATH, metavar="FILE", help="Take what this .isolate selects."),
    click.option("--config-variable", "config", multiple=True, callback=_variables, metavar="NAME=VALUE",
                 help="For conditions and command; a number if it looks like one. Repeatable."),
    click.option("--path-variable", "paths", multiple=True, callback=_variables, metavar="NAME=DIR",
                 help="For files and command; relative to the current directory. Repeatable."),
)  # fmt: skip
scanning = all_of(
    click.option("--blacklist", "denied", multiple=True, metavar="REGEX",
                 help="Leave out children of directories that match. Repeatable."),
    click.option("--ignore_broken_items", "--ignore-broken-items", "skip_broken", is_flag=True,
                 envvar="ISOLATE_IGNORE_BROKEN_ITEMS", help="Report what cannot be archived and go on."),
)  # fmt: skip
storing = all_of(
    server,
    click.option("--namespace", metavar="NAME", default="blake3-zstd", show_default=True, help="How to hash."),
    scanning,
    click.option("--no-stat-cache", is_flag=True, help="Read every file, also those that look unchanged."),
    click.option("--dump-json", type=PATH, metavar="FILE", help="Write {name: hash} there."),
)
fetching = all_of(
    click.option("-s", "--isolated", metavar="HASH", help="Fetch this tree; a local .isolated will do, too."),
    click.option("-f", "--file", "files", nargs=2, multiple=True, metavar="HASH DEST",
                 help="Fetch this file to DEST below the target. Repeatable."),
    click.option("-t", "--target", type=PATH, default="download", show_default=True, metavar="DIR",
                 help="Where to; for a tree a directory that is new or empty."),
    server,
    click.option("--namespace", metavar="NAME", help="Default: by the length of the hash."),
    click.option("--cache", type=PATH, metavar="DIR", help="Where files are kept between runs."),
)  # fmt: skip
