"""The options of `isolate` and `isolateserver`, each written once.

Knows how they are spelt, not what they do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

import click

from isolate.commands import Command

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


_VARIABLE_FLAGS = ("--path-variable", "--config-variable", "--extra-variable")
_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")


class CommandWithVariables(Command):
    """Accepts `--path-variable NAME VALUE` beside `NAME=VALUE`, as 2020 did."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        joined: list[str] = []
        left = iter(args)
        for argument in left:
            joined.append(argument)
            if argument == "--":  # what follows is another command's
                joined += left
            elif argument.startswith("--") and f"--{self._spelt_out(argument[2:])}" in _VARIABLE_FLAGS:
                joined += _pair(left)
        return super().parse_args(ctx, joined)


def _pair(left: Iterator[str]) -> list[str]:
    """Return the next variable as one word NAME=VALUE, or what there is of it."""
    name = next(left, None)
    if name is None or "=" in name:
        return [] if name is None else [name]
    value = next(left, None)
    return [name] if value is None else [f"{name}={value}"]


def _variables(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for name, equals, _ in pairs:
        if not equals:
            raise click.BadParameter(f"{name!r} has no value: write NAME=VALUE or NAME VALUE", ctx, parameter)
        if not _NAME.fullmatch(name):
            said = "is not the name of a variable: letters, digits and '_', no digit first"
            raise click.BadParameter(f"{name!r} {said}", ctx, parameter)
    return {name: value for name, _, value in pairs}


def _to_write(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Refuse at once what could not be written at the end."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        reason = "it is a directory" if path.is_dir() else f"{str(path.parent)!r} is not a directory"
        raise click.BadParameter(f"{str(path)!r} cannot be written: {reason}", ctx, parameter)
    return path


@contextmanager
def nothing_but_work() -> Iterator[None]:
    """Refuse flags that would end a command before its work, such as `--help`, where nobody reads the answer."""
    try:
        with redirect_stdout(StringIO()):
            yield
    except click.exceptions.Exit as error:
        raise click.UsageError("its flags ask for help instead of an archive") from error


def all_of(*options: Callable[[Any], Any]) -> Callable[[Decorated], Decorated]:
    def decorate(command: Decorated) -> Decorated:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


PATH = click.Path(path_type=Path, readable=False)  # whoever opens it says what is wrong with it
_SIZES = click.IntRange(min=0)


def _accepted(*names: str, **kinds: Any) -> Callable[[Any], Any]:
    """Add a flag of 2020 that changes nothing here."""
    return click.option(*names, hidden=True, expose_value=False, help="Accepted, without effect.", **kinds)


authenticating = all_of(
    _accepted("--auth-disabled", is_flag=True),
    _accepted("--auth-tokens-cache", metavar="FILE"),
    _accepted("--auth-no-local-webserver", is_flag=True),
    _accepted("--auth-host-port", multiple=True, type=int),
    _accepted("--auth-service-account-json", metavar="FILE"),
)
server = all_of(
    click.option(
        "-I", "--isolate-server", "server", envvar="ISOLATE_SERVER", metavar="URL", help="Default: ISOLATE_SERVER."
    ),
    authenticating,
)
selecting = all_of(
    click.option("-i", "--isolate", "isolate_file", type=PATH, metavar="FILE", help="Take what this .isolate selects."),
    click.option("-s", "--isolated", "-r", "--result", "isolated", type=PATH, metavar="FILE",
                 help="Write the manifest to this *.isolated, and a state beside it: next time it knows the rest."),
    click.option("--config-variable", "config", multiple=True, callback=_variables, metavar="NAME=VALUE",
                 help="For conditions and command; a number if it looks like one. OS is this system's unless given."),
    click.option("--path-variable", "paths", multiple=True, callback=_variables, metavar="NAME=DIR",
                 help="For files and command; relative to the current directory. Repeatable."),
    click.option("--extra-variable", "extra", multiple=True, callback=_variables, metavar="NAME=TEXT",
                 help="For files and command, as it is. EXECUTABLE_SUFFIX is .exe on Windows, else nothing."),
    click.option("-L", "--collapse_symlinks", "--collapse-symlinks", "collapse", is_flag=True,
                 help="Take what links lead to instead of the links."),
    click.option("--subdir", metavar="DIR", default="", help="Keep only files below DIR of the tree."),
)  # fmt: skip
scanning = all_of(
    click.option("--blacklist", "denied", multiple=True, metavar="REGEX",
                 help="Leave out children of directories that match. Repeatable."),
    click.option("--ignore_broken_items", "--ignore-broken-items", "skip_broken", is_flag=True,
                 help="Report what cannot be archived and go on. Default: whether ISOLATE_IGNORE_BROKEN_ITEMS is set."),
    click.option("--no-stat-cache", is_flag=True, help="Read every file, also those that look unchanged."),
)  # fmt: skip
hashing = click.option(
    "--namespace", metavar="NAME", default="default-gzip", show_default=True, help="How to hash for -s."
)


def storing(namespace: str) -> Callable[[Decorated], Decorated]:
    """Return the flags of a command that stores, in `namespace` unless another is given."""
    return all_of(
        server,
        click.option("--namespace", metavar="NAME", default=namespace, show_default=True, help="How to hash."),
        scanning,
        click.option("--dump-json", type=PATH, callback=_to_write, metavar="FILE", help="Write {name: hash} there."),
    )


recreating = all_of(
    click.option("--skip-refresh", is_flag=True, help="Use the state beside -s only, and do not read the .isolate.")
)
naming = all_of(server, click.option("--namespace", metavar="NAME", help="Default: by the length of the hash."))
fetching = all_of(
    click.option("-s", "--isolated", metavar="HASH", help="Fetch this tree; a local .isolated will do, too."),
    click.option("-f", "--file", "files", nargs=2, multiple=True, metavar="HASH DEST",
                 help="Fetch this file to DEST below the target. Repeatable."),
    click.option("-t", "--target", type=PATH, default="download", show_default=True, metavar="DIR",
                 help="Where to; for a tree a directory that is new or empty."),
    naming,
    click.option("--cache", metavar="DIR", help="Where files are kept between runs; '' for nowhere."),
    click.option("--max-cache-size", "max_bytes", type=_SIZES, default=50 << 30, metavar="BYTES",
                 help="Of the cache; 0 for any. Default: 50 GiB."),
    click.option("--min-free-space", "min_free_bytes", type=_SIZES, default=2 << 30, metavar="BYTES",
                 help="On the disk of the cache. Default: 2 GiB."),
    click.option("--max-items", type=_SIZES, default=100_000, metavar="NUMBER",
                 help="In the cache; 0 for any. Default: 100000."),
    click.option("--use-symlinks", is_flag=True, hidden=True,
                 help="Accepted, needs a --cache; files are copied: a link would show what the cache drops later."),
)  # fmt: skip
