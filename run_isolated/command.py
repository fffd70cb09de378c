"""What exactly is executed: arguments, environment, directory.

Knows no process and no store. It asks the file system only whether a name can be executed and where a path really is;
the invariant is that a working directory it returns is inside the run directory, links followed.
"""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from isolate.errors import InternalFailure, InvalidInput
from isolate.paths import RelPath

EXECUTABLE_SUFFIX = "${EXECUTABLE_SUFFIX}"
OUTDIR = "${ISOLATED_OUTDIR}"
BOT_FILE = "${SWARMING_BOT_FILE}"

# Where the newer name is the only one there is, the older still means Python.
_ALSO_CALLED = {"python": "python3"}


_NO_COMMAND = "<No command was specified!>\n<Please specify a command when triggering your task>"
_OUTSIDE = "<Relative CWD is outside of run directory!>"
_CANNOT_START = (
    "<The executable does not exist, a dependent library is missing or the command line is too long>\n"
    "<Check for missing .so/.dll in the .isolate or GN file or length of command line args>\n"
    "<Command: {argv}, Exception: {reason}>"
)
_IN_THE_WAY = {errno.EEXIST, errno.ENOTDIR, errno.ELOOP}
_HINT = "\n<See the task's page for commands to help diagnose this issue by reproducing the task locally>"


class Layers(NamedTuple):
    """Where to see what a run directory will hold, and where to add to it, when it is not in its place yet."""

    lower: Path
    upper: Path


class CannotRun(InvalidInput):
    """The command as given cannot run; the message, of several lines, is for its output, its exit code is 1."""


class Command(NamedTuple):
    """What is executed: `argv[0]` is an absolute path, `env` all there is."""

    argv: list[str]
    cwd: Path
    env: dict[str, str]


def prepare(
    words: Sequence[str],
    relative_cwd: str,
    env: dict[str, str],
    run_dir: Path,
    outdir: Path | None,
    bot_file: str | None,
    layers: Layers | None = None,
) -> Command:
    """Return the command that `words` and `env` mean in `run_dir`; raises CannotRun, InternalFailure."""
    if not words:
        raise CannotRun(_NO_COMMAND)
    cwd = working_directory(run_dir, relative_cwd, layers)
    if cwd is None:
        raise CannotRun(_OUTSIDE)
    # Looked up first, then substituted: a parameter in the name of the program is not searched for in PATH.
    seen = _Seen(os.path.realpath(run_dir), layers)
    found = resolve(words, cwd, env.get("PATH", ""), seen)
    program, *arguments = [substitute(word, outdir, bot_file) for word in found]
    return Command([absolute(program, cwd), *arguments], cwd, env)


def cannot_start(command: Command, reason: str) -> CannotRun:
    """Return what to say of a command that the system refused to start."""
    text = _CANNOT_START.format(argv=command.argv, reason=reason)
    return CannotRun(text + _HINT if "SWARMING_TASK_ID" in command.env else text)


def substitute(text: str, outdir: Path | None, bot_file: str | None) -> str:
    """Return `text` with its parameters replaced; ${SWARMING_BOT_FILE} stays when there is no such file.

    Raises InternalFailure when outputs are asked for and there is nowhere to send them.
    """
    if OUTDIR in text:
        if outdir is None:
            raise InternalFailure(f"{OUTDIR} needs an isolate server to upload to")
        text = text.replace(OUTDIR, str(outdir))
    if bot_file is not None:
        text = text.replace(BOT_FILE, bot_file)
    return text.replace(EXECUTABLE_SUFFIX, "")


def environment(
    base: Mapping[str, str],
    changes: Mapping[str, str],
    prefixes: Mapping[str, Sequence[str]],
    run_dir: Path,
    temp_dir: Path,
) -> dict[str, str]:
    """Return the variables of a command: `base` with `changes` (empty deletes) and paths of the tree put in front."""
    env = dict(base)
    for key, value in changes.items():
        if value:
            env[key] = value
        else:
            env.pop(key, None)
    for key, paths in prefixes.items():
        absolute = [str(run_dir / inner_path(path)) for path in paths]
        env[key] = os.pathsep.join([*absolute, *([env[key]] if key in env else [])])
    env["TMPDIR"] = str(temp_dir)
    return env


def inner_path(text: str) -> str:
    """Return `text`, a path below the run directory as users write it (`./a/`), in its plain form.

    The directory itself is `.`. Raises InvalidInput when it is absolute or climbs out.
    """
    plain = posixpath.normpath(text) if text else "."
    if plain == ".":
        return plain
    try:
        return RelPath(plain)
    except InvalidInput as error:
        raise InvalidInput(f"Path {text!r} is not inside the run directory") from error


def working_directory(run_dir: Path, relative: str, layers: Layers | None = None) -> Path | None:
    """Return where `relative` really is, made if it was not there; None when it leads out of `run_dir`.

    Raises InternalFailure when something else is in the way.
    """
    root = os.path.realpath(run_dir if layers is None else layers.lower)
    place = os.path.realpath(os.path.join(root, relative))
    if not f"{place}/".startswith(f"{root}/"):
        return None
    inside = os.path.relpath(place, root)
    try:
        if layers is None:
            os.makedirs(place, exist_ok=True)
        elif not os.path.isdir(place):
            if not os.path.isdir(_nearest(place)):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            os.makedirs(layers.upper / inside, exist_ok=True)
    except OSError as error:
        in_the_way = "it is, or is below, something else" if error.errno in _IN_THE_WAY else error.strerror
        raise InternalFailure(f"Cannot use {relative!r} as a directory of the run directory: {in_the_way}") from error
    return Path(os.path.normpath(os.path.join(os.path.realpath(run_dir), inside)))


def _nearest(path: str) -> str:
    """Return `path`, or what is there and nearest above it."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


class _Seen(NamedTuple):
    """Tells where to look for what a command will find at a path."""

    run_dir: str = ""
    layers: Layers | None = None

    def at(self, path: str) -> str:
        plain = os.path.normpath(path)
        if self.layers is None or not f"{plain}/".startswith(f"{self.run_dir}/"):
            return path
        return os.path.join(self.layers.lower, os.path.relpath(plain, self.run_dir))


_HERE = _Seen()


def resolve(argv: Sequence[str], cwd: Path, search_path: str, seen: _Seen = _HERE) -> list[str]:
    """Return `argv` starting with the path of a program, whether or not it exists.

    `x.py` is run by Python; a bare name is looked for in `cwd` and then in `search_path` (the child's PATH); any other
    relative name is relative to `cwd`.
    """
    program, *arguments = argv
    if "\\" in program and not os.path.lexists(seen.at(os.path.join(cwd, program))):
        program = program.replace("\\", "/")  # written on Windows; here it is an ordinary character
    if program.endswith(".py"):
        program, arguments = "python", [program, *arguments]
    if "/" not in program:
        names = [program] if program not in _ALSO_CALLED else [program, _ALSO_CALLED[program]]
        program = next((path for name in names if (path := _search(name, cwd, search_path, seen))), program)
    return [program, *arguments]


def absolute(program: str, cwd: Path) -> str:
    """Return the path to execute for a resolved and substituted program name."""
    return program if program.startswith("/") else os.path.normpath(cwd / program)


def _search(name: str, cwd: Path, search_path: str, seen: _Seen) -> str:
    for folder in [str(cwd), *filter(None, search_path.split(os.pathsep))]:
        path = os.path.join(cwd, folder, name)
        place = seen.at(path)
        if os.path.isfile(place) and os.access(place, os.X_OK):
            return path
    return ""
