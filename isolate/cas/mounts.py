"""What is mounted where, as this process sees it: a mount hides what is below it, and is another way to its source.

Knows no cache. Mounts of other namespaces, and those hidden below others, are not all seen. On systems without
`/proc/self/mountinfo` nothing seems to be mounted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_TABLE = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(rb"\\([0-7]{3})")  # of spaces, tabs, newlines, backslashes and number signs
_LOWERS = (b"lowerdir", b"lowerdir+", b"datadir+")
_BETWEEN_LAYERS = re.compile(rb"(?<!\\):")
_DELETED = b"//deleted"  # follows a source that has no name any more


class Mount(NamedTuple):
    """One line of mountinfo."""

    number: bytes
    device: bytes  # of the file system: "8:1"
    source: bytes  # what is mounted, as a path in its file system
    point: bytes
    layers: tuple[bytes, ...] = ()  # of an overlay: what it shows, as far as it was named by absolute paths


def parse(table: bytes) -> list[Mount]:
    """Return the mounts of a mountinfo, in its order."""
    found = []
    for line in filter(None, table.split(b"\n")):  # and not at a carriage return, which is not escaped
        number, _, device, source, point, *others = line.split(b" ")
        kind, _, options = others[others.index(b"-") + 1 :]
        layers = _layers(options) if kind == b"overlay" else ()
        found.append(Mount(number, device, _plain(source), _plain(point), layers))
    return found


def has_mounts(path: Path) -> bool:
    """Whether something is mounted below `path`, or something that is there is mounted anywhere."""
    return touches(_mounts(), os.fsencode(os.path.realpath(path)))


def nameless_inodes(path: Path) -> set[int] | None:
    """Return what has no name, but is mounted, of the file system that `path` is on; None when that cannot be told."""
    mounts = _mounts()
    home = _home(mounts, os.fsencode(os.path.realpath(path)))
    found: set[int] = set()
    for mount in mounts:
        if home is not None and mount.device == home.device and mount.source.endswith(_DELETED):
            inode = _inode_at(mount)
            if inode is None:
                return None
            found.add(inode)
    return found


def touches(mounts: Iterable[Mount], path: bytes) -> bool:
    """Whether one of `mounts` hides what is below `path`, which has no links in it, or leads to something there."""
    mounts = list(mounts)
    if any(_is_below(mount.point, path) for mount in mounts):
        return True
    place, others = _place(mounts, path)
    sources = (mount.source.removesuffix(_DELETED) for mount in others)
    return any(source == place or _is_below(source, place) for source in sources)


def alias(path: Path) -> str | None:
    """Return another path to the directory `path`, or to a part of it, that is not below it; None without one."""
    found = find_alias(_mounts(), os.fsencode(os.path.realpath(path)))
    return None if found is None else os.fsdecode(found)


def find_alias(mounts: Iterable[Mount], path: bytes) -> bytes | None:
    """Return what `alias` does; `path` has no links in it."""
    mounts = list(mounts)
    place, others = _place(mounts, path)
    home = _home(mounts, path)
    ways = [(mount, mount.source.removesuffix(_DELETED), place) for mount in others]
    overlays = [mount for mount in mounts if mount.layers and mount is not home]
    ways += [(mount, layer + mount.source.rstrip(b"/"), path) for mount in overlays for layer in mount.layers]
    for mount, source, wanted in ways:
        other = None
        if source == wanted or _is_below(source, wanted):
            other = mount.point
        elif _is_below(wanted, source):
            other = mount.point.rstrip(b"/") + b"/" + wanted[len(source.rstrip(b"/")) + 1 :]
        if other is not None and other != path and not _is_below(other, path):  # there, what hides `path` hides it
            return other
    return None


def _place(mounts: list[Mount], path: bytes) -> tuple[bytes, list[Mount]]:
    """Return where `path` is in its file system, and which mounts of that there are beside the one it is on."""
    home = _home(mounts, path)
    if home is None:
        return path, []
    inner = path if home.point == b"/" else path[len(home.point) :]
    others = [mount for mount in mounts if mount is not home and mount.device == home.device]
    return home.source.rstrip(b"/") + inner, others


def _mounts() -> list[Mount]:
    with suppress(OSError):
        return parse(_TABLE.read_bytes())
    return []


def _home(mounts: Iterable[Mount], path: bytes) -> Mount | None:
    """Return the mount that `path` is on: the deepest, and of those at one place the last."""
    found = None
    for mount in mounts:
        is_above = mount.point == path or _is_below(path, mount.point)
        if is_above and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def _inode_at(mount: Mount) -> int | None:
    """Return what is mounted; None when another mount hides it, or it is out of reach."""
    with suppress(OSError, AttributeError):
        descriptor = os.open(mount.point, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            about = Path(f"/proc/self/fdinfo/{descriptor}").read_bytes().split()
            is_it = about[about.index(b"mnt_id:") + 1] == mount.number
            return os.fstat(descriptor).st_ino if is_it else None
        finally:
            os.close(descriptor)
    return None


def _layers(options: bytes) -> tuple[bytes, ...]:
    """Return the directories that an overlay shows, and writes to."""
    found = []
    for option in options.split(b","):
        name, _, value = option.partition(b"=")
        if name in _LOWERS:
            found += [re.sub(rb"\\(.)", rb"\1", path) for path in _BETWEEN_LAYERS.split(_plain(value))]
        elif name == b"upperdir":
            found.append(_plain(value))
    return tuple(os.path.normpath(path) for path in found if path.startswith(b"/"))


def _is_below(path: bytes, above: bytes) -> bool:
    return path != above and path.startswith(above.rstrip(b"/") + b"/")


def _plain(escaped: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), escaped)
