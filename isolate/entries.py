"""The entries of a manifest: what they are, how one is read, and which can exist side by side.

Pure: knows no JSON text, no disk, no store. The invariant: what `EntryReader` returns has a path below the root with
one spelling, and a blob that can exist; what passes `check_tree` can be made without writing through a link.
"""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from typing import Any, Final, NamedTuple

from isolate.cas.digest import Blob, Namespace
from isolate.errors import InvalidDigest, InvalidManifest, InvalidPath
from isolate.paths import RelPath

MAX_PARTS = 10_000  # includes of one tree: 200 million files at 20,000 each
MAX_PATH_BYTES = 4_096  # PATH_MAX of Linux; no call could name a longer one
MAX_PATH_PARTS = 256  # bounds the directories that one short entry can ask for
MAX_SIZE = (1 << 63) - 1  # what file systems count to
MAX_MODE = 0o7777


class Kind(Enum):
    """What an entry is."""

    FILE = "file"
    LINK = "link"
    DIR = "dir"  # an empty directory; version 2.0 only
    TAR = "tar"  # of 2020: its members are extracted into the directory the entry is in


class Entry(NamedTuple):
    """One name in a tree. FILE and TAR have a blob and perhaps a mode, LINK has a target, DIR has nothing."""

    path: str
    kind: Kind
    blob: Blob | None = None
    mode: int | None = None
    target: str | None = None

    @property
    def is_executable(self) -> bool:
        """Whether the file is mapped executable: 2020 gives 0500 to a mode that is absent or 0."""
        return bool((self.mode or 0o500) & 0o100)


def manifest_mode(st_mode: int) -> int:
    """Return the `m` of a file whose stat mode is `st_mode`: others get nothing, the group may not write.

    The group may execute what it can read and the owner can execute.
    """
    mode = stat.S_IMODE(st_mode) & ~(stat.S_IWGRP | stat.S_IRWXO | stat.S_IXGRP)
    if mode & stat.S_IXUSR and mode & stat.S_IRGRP:
        mode |= stat.S_IXGRP
    return mode


def check_tree(entries: Sequence[Entry]) -> None:
    """Raise InvalidManifest unless `entries`, sorted by path, can all exist and their blobs have one size each."""
    sizes: dict[bytes, int] = {}
    leaves: dict[str, Kind] = {}
    folder_kind = Kind.DIR  # looking up a member takes longer than all else in the loop
    for path, kind, blob, _, _ in entries:
        if blob is not None and sizes.setdefault(blob[0], blob[1]) != blob[1]:
            raise InvalidManifest(f"{path!r} gives blob {blob.digest.hex()} a second size, {blob.size} bytes")
        if kind is not folder_kind:
            leaves[path] = kind
    # Each directory is looked at once, however many entries are in it.
    known: set[str] = {""}
    for folder in sorted({entry[0].rpartition("/")[0] for entry in entries}):
        above = folder
        while above not in known:
            known.add(above)
            if above in leaves:
                below = next(entry.path for entry in entries if entry.path.startswith(f"{above}/"))
                raise InvalidManifest(f"{below!r} lies below {above!r}, which is a {leaves[above].value}")
            above = above.rpartition("/")[0]


def checked_text(value: object, what: str) -> str:
    """Return a string that can be handed to the system; raises InvalidManifest naming `what`."""
    if not isinstance(value, str):
        raise InvalidManifest(f"{what} is not a string")
    if "\0" in value:
        raise InvalidManifest(f"{what} contains a NUL")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidManifest(f"{what} contains a code point that no name can have") from error
    return value


_ENTRY_KEYS: Final = frozenset("hlmst")


class EntryReader:
    """Reads the parts of a manifest that depend on its namespace; raises InvalidManifest naming what is wrong."""

    def __init__(self, namespace: Namespace) -> None:
        self._ours = namespace.is_ours
        self._algorithm = namespace.algorithm
        self._empty = namespace.empty

    def entries(self, files: object) -> list[Entry]:
        """Return the entries of the `files` object, unsorted."""
        if not isinstance(files, dict):
            raise InvalidManifest("'files' is not an object")
        entries = [self._entry(self._path(path), value) for path, value in files.items()]
        if not self._ours and len({entry.path for entry in entries}) != len(entries):
            raise InvalidManifest(r"Two entries of 'files' are the same path once '\' is read as '/'")
        return entries

    def relative_cwd(self, value: object) -> str | None:
        if value is None:
            return None
        text = self._native(checked_text(value, "'relative_cwd'"))
        plain = posixpath.normpath(text)
        if plain.startswith("/") or plain.split("/")[0] == "..":
            raise InvalidManifest(f"'relative_cwd' {text!r} is not inside the tree")
        return text

    def includes(self, value: object) -> tuple[bytes, ...]:
        if value is None:
            return ()
        if not isinstance(value, list) or not value or len(value) > MAX_PARTS:
            raise InvalidManifest(f"'includes' is not a list of 1 to {MAX_PARTS} hashes")
        return tuple(self._digest(item, "An item of 'includes'") for item in value)

    def _native(self, text: str) -> str:
        return text if self._ours else text.replace("\\", "/")

    def _path(self, key: str) -> str:
        path = self._native(key)
        if len(path) > MAX_PATH_BYTES or path.count("/") >= MAX_PATH_PARTS:
            raise InvalidManifest(f"Path {path[:80]!r}… is too long or too deep")
        try:
            RelPath(path)
        except InvalidPath as error:
            raise InvalidManifest(str(error)) from error
        if not path.isascii():
            encoded = checked_text(path, f"Path {path!r}").encode("utf-8", "surrogateescape")
            if len(encoded) > MAX_PATH_BYTES or encoded.decode("utf-8", "surrogateescape") != path:
                raise InvalidManifest(f"Path {path!r} is too long, or a second spelling of another name")
        return path

    def _entry(self, path: str, value: object) -> Entry:
        if not isinstance(value, dict):
            raise InvalidManifest(f"Entry {path!r} is not an object")
        unknown = value.keys() - _ENTRY_KEYS
        if unknown:
            raise InvalidManifest(f"Entry {path!r} has the unknown key {min(unknown)!r}")
        if "l" in value:
            return self._link(path, value)
        if self._ours and value.get("t") == "dir":
            if len(value) > 1:
                raise InvalidManifest(f"Entry {path!r} is a directory and has more than 't'")
            return Entry(path, Kind.DIR)
        return self._file(path, value)

    def _link(self, path: str, value: dict[str, Any]) -> Entry:
        if len(value) - (value.get("t") == "basic") > 1:
            raise InvalidManifest(f"Entry {path!r} is a link and has more than 'l'")
        target = self._native(checked_text(value["l"], f"Link target of {path!r}"))
        if not target or len(target) > MAX_PATH_BYTES:
            raise InvalidManifest(f"Link target of {path!r} is empty or too long")
        return Entry(path, Kind.LINK, target=target)

    def _file(self, path: str, value: dict[str, Any]) -> Entry:
        kind = _FILE_KINDS.get(str(value.get("t", "basic")))
        if kind is None:
            raise InvalidManifest(f"Entry {path!r} has the unknown type {value['t']!r}")
        if "h" not in value or "s" not in value:
            raise InvalidManifest(f"Entry {path!r} has not both 'h' and 's', and no 'l'")
        size, mode = value["s"], value.get("m")
        if type(size) is not int or not 0 <= size <= MAX_SIZE:
            raise InvalidManifest(f"Size of {path!r} is not a number of bytes")
        if "m" in value and (type(mode) is not int or not 0 <= mode <= MAX_MODE):
            raise InvalidManifest(f"Mode of {path!r} is not a number from 0 to {MAX_MODE}")
        blob = Blob(self._digest(value["h"], f"Hash of {path!r}"), size)
        if (size == 0) != (blob.digest == self._empty.digest):
            raise InvalidManifest(f"Hash and size of {path!r} disagree about being empty")
        return Entry(path, kind, blob, mode)

    def _digest(self, text: object, what: str) -> bytes:
        if isinstance(text, str) and len(text) == 2 * self._algorithm.digest_bytes:
            with suppress(ValueError):
                digest = bytes.fromhex(text)  # in either case, as 2020 reads it; it may have skipped blanks
                if len(digest) == self._algorithm.digest_bytes:
                    return digest
        try:
            return self._algorithm.parse_hex(text if isinstance(text, str) else "")
        except InvalidDigest as error:
            raise InvalidManifest(f"{what}: {error}") from error


_FILE_KINDS: Final = {"basic": Kind.FILE, "tar": Kind.TAR}
