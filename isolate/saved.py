"""The state beside a `.isolated`: what one command knew about a tree, so that the next need not be told again.

Knows no store. The format is 2020's, read and written by its tools, too. The invariants: a state that cannot be
trusted (another format, another system, damaged) is the same as none, with a warning; one is written with its
`.isolated` or not at all, and in bounded memory.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from isolate.cas.digest import Namespace
from isolate.cas.files import atomic_file, write_atomic
from isolate.entries import Entry, Kind
from isolate.errors import InvalidInput
from isolate.isolated import entry_text
from isolate.plain_files import read_plain
from isolate.selection import Selection, Variables, config_values

SUFFIX = ".isolated"
STATE_SUFFIX = ".state"  # behind the name of the `.isolated`
VERSION = "1.6.2"  # the only one that tools of 2020 read
MAX_BYTES = 256 << 20  # two million files


@dataclass(frozen=True, slots=True)
class Saved:
    """What a state says, its paths made absolute."""

    isolate_file: str | None = None  # None also when it is gone
    config_variables: Mapping[str, str | int] = field(default_factory=dict)
    path_variables: Mapping[str, str] = field(default_factory=dict)
    root: str = ""
    cwd: str = "."  # of the command, relative to the root
    command: tuple[str, ...] = ()
    read_only: int | None = None
    files: Mapping[str, str | None] = field(default_factory=dict)  # path -> target of a link, None for a file

    def updated(self, given: Variables) -> Variables:
        """Return the variables of this state, changed by those that are `given` now."""
        config = {name: str(value) for name, value in self.config_variables.items()}
        base = os.path.join(self.root, self.cwd)
        if not os.path.isdir(base) and self.isolate_file is not None:
            base = os.path.dirname(self.isolate_file)  # the tree has moved
        paths = {name: os.path.normpath(os.path.join(base, path)) for name, path in self.path_variables.items()}
        return Variables(config={**config, **given.config}, paths={**paths, **given.paths}, extra=given.extra)


_KEYS: Mapping[str, tuple[type, ...]] = {
    "OS": (str,),
    "algo": (str,),
    "child_isolated_files": (list,),
    "command": (list,),
    "config_variables": (dict,),
    "files": (dict,),
    "isolate_file": (str,),
    "path_variables": (dict,),
    "read_only": (int,),
    "relative_cwd": (str,),
    "root_dir": (str,),
    "version": (str,),
}


def load_saved(isolated: Path, platform: str, warn: Callable[[str], object]) -> Saved:
    """Return the state of `isolated`, an empty one when there is none to be trusted."""
    place = Path(f"{isolated}{STATE_SUFFIX}")
    try:
        record = json.loads(read_plain(place, MAX_BYTES))
        _check(record, platform)
        return _saved(record, os.path.dirname(os.path.abspath(place)))
    except FileNotFoundError:
        return Saved()
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        warn(f"State file {str(place)!r} is ignored: {reason[:200]}")
        return Saved()


def _check(record: Any, platform: str) -> None:
    """Raise ValueError or TypeError unless a state says what one of this version and system can say."""
    if not isinstance(record, dict):
        raise TypeError("not an object")
    if record.get("version") != VERSION:
        raise ValueError(f"its version is {record.get('version')!r}, not {VERSION!r}")
    for key, value in record.items():
        if key not in _KEYS:
            raise ValueError(f"unknown key {key!r}")
        if not isinstance(value, _KEYS[key]):
            raise TypeError(f"{key!r} is of the wrong type")
    if record.get("OS") != platform:
        raise ValueError(f"it was written on {record.get('OS')!r}")


def _saved(record: Mapping[str, Any], directory: str) -> Saved:
    isolate_file = record.get("isolate_file")
    if isolate_file is not None:
        isolate_file = os.path.normpath(os.path.join(directory, isolate_file))
    files = {path: _target(path, entry) for path, entry in record.get("files", {}).items()}
    return Saved(
        isolate_file=isolate_file if isolate_file and os.path.isfile(isolate_file) else None,
        config_variables=_texts(record.get("config_variables", {}), (str, int)),
        path_variables=_texts(record.get("path_variables", {}), (str,)),
        root=record.get("root_dir", ""),
        cwd=record.get("relative_cwd", "."),
        command=tuple(_texts(dict(enumerate(record.get("command", []))), (str,)).values()),
        read_only=record.get("read_only"),
        files=files,
    )


def _target(path: str, entry: Any) -> str | None:
    target = entry.get("l") if isinstance(entry, dict) else 0
    if target is not None and not isinstance(target, str):
        raise ValueError(f"entry {path!r} is none")
    return target


def _texts(record: Mapping[Any, Any], types: tuple[type, ...]) -> dict[Any, Any]:
    for name, value in record.items():
        if not isinstance(value, types):
            raise TypeError(f"{name!r} is of the wrong type")
    return dict(record)


@contextmanager
def state_writer(isolated: Path, namespace: Namespace) -> Iterator[StateWriter]:
    """Give what collects the state of a tree for `isolated`."""
    with TemporaryFile() as spool:
        yield StateWriter(isolated, namespace, spool)


class StateWriter:
    """Collects the entries of a tree on disk while it is archived, then writes the state; a `Record`."""

    def __init__(self, isolated: Path, namespace: Namespace, spool: IO[bytes]) -> None:
        self._isolated, self._namespace, self._spool = isolated, namespace, spool
        self._is_first = True

    def begin(self) -> None:
        self._spool.seek(0)
        self._spool.truncate()
        self._is_first = True

    def add(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        ours = self._namespace.is_ours
        text = ",".join([entry_text(entry, ours=ours) for entry in entries if ours or entry.kind is not Kind.DIR])
        self._spool.write(text.encode("ascii") if self._is_first else b"," + text.encode("ascii"))
        self._is_first = False

    def save(
        self, selection: Selection, given: Variables, manifest: bytes, group_parts: Sequence[bytes], platform: str
    ) -> None:
        """Write the `.isolated`, the manifests of its groups beside it, and the state."""
        base = str(self._isolated).removesuffix(SUFFIX)
        children = [f"{base}.{index}{SUFFIX}" for index in range(len(group_parts))]
        for child, content in zip(children, group_parts, strict=True):
            write_atomic(Path(child), content)
        place = Path(f"{self._isolated}{STATE_SUFFIX}")
        before, behind = self._record(selection, given, children, place, platform)
        self._spool.seek(0)
        with atomic_file(place) as file:
            file.write(_dense(before)[:-1] + b',"files":{')
            shutil.copyfileobj(self._spool, file)
            file.write(b"}," + _dense(behind)[1:])
        write_atomic(self._isolated, manifest)

    def _record(
        self, selection: Selection, given: Variables, children: Sequence[str], place: Path, platform: str
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what stands before and behind the files, in the order of keys."""
        before: dict[str, Any] = {
            "OS": platform,
            "algo": self._namespace.algorithm.name,
            "child_isolated_files": [os.path.basename(child) for child in children],
            "command": list(selection.command),
            "config_variables": config_values(given.config),
        }
        behind: dict[str, Any] = {
            "isolate_file": os.path.relpath(selection.name, os.path.dirname(os.path.abspath(place))),
            "path_variables": dict(selection.path_variables),
            "relative_cwd": selection.cwd,
            "root_dir": selection.root,
            "version": VERSION,
        }
        if selection.said_read_only is not None:
            behind["read_only"] = selection.said_read_only
        return before, behind


def _dense(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode("ascii")


def checked_isolated(path: Path) -> Path:
    """Return the name of a `.isolated` to write; raises InvalidInput."""
    if path.suffix != SUFFIX:
        raise InvalidInput("--isolated value must end with '.isolated'")
    if not stat.S_ISDIR(os.stat(path.parent).st_mode if path.parent.exists() else 0):
        raise InvalidInput(f"{str(path.parent)!r} is not a directory, so {path.name!r} cannot be written there")
    return path
