r"""The `.isolated` format: one tree of files as canonical JSON, so that equal trees have equal bytes and one hash.

Pure: knows no disk, no store, no hash function. Two versions are written, and the algorithm decides which. 1.6 for the
namespaces of 2020 is 2020's byte for byte: no empty directories, and a reader takes `\` for `/`. 2.0 for BLAKE3 adds
`{"t":"dir"}` for empty directories, and `\` is an ordinary character.

The invariant: what `loads` and `merge` return is a tree that can be made. Every path is below the root and names one
file on disk (two spellings of the same bytes are refused); no entry lies below a file or a link, so that nothing can be
written through a link; a blob has one size. All else raises InvalidManifest, with the key or path in its message.
"""

from __future__ import annotations

import json
import posixpath
import stat
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple

from isolate.cas.digest import BLAKE3, Algorithm, Blob, Namespace
from isolate.errors import InvalidDigest, InvalidManifest, InvalidPath
from isolate.paths import RelPath

MAX_MANIFEST_BYTES = 64 << 20  # about half a million files in one part; larger trees are split into includes
MAX_PARTS = 10_000  # includes of one tree: 200 million files at 20,000 each
MAX_PATH_BYTES = 4_096  # PATH_MAX of Linux; no call could name a longer one
MAX_PATH_PARTS = 256  # bounds the directories that one short entry can ask for
MAX_SIZE = (1 << 63) - 1  # what file systems count to
_MAX_MODE = 0o7777


class Kind(Enum):
    """What an entry is."""

    FILE = "file"
    LINK = "link"
    DIR = "dir"  # an empty directory; version 2.0 only
    TAR = "tar"  # members are extracted into the directory the entry is in; 2020 only


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A tree, or one part of it when there are `includes`; entries are sorted by path."""

    algorithm: Algorithm
    entries: tuple[Entry, ...] = ()
    command: tuple[str, ...] = ()
    relative_cwd: str | None = None
    read_only: int | None = None
    includes: tuple[bytes, ...] = ()

    @property
    def version(self) -> str:
        """The version this manifest is written as."""
        return "2.0" if self.algorithm is BLAKE3 else "1.6"

    def blobs(self) -> Iterator[Blob]:
        """Yield each distinct blob that is not empty, in path order."""
        seen: set[bytes] = set()
        for entry in self.entries:
            blob = entry.blob
            if blob is not None and blob.size and blob.digest not in seen:
                seen.add(blob.digest)
                yield blob


def manifest_mode(st_mode: int) -> int:
    """Return the `m` of a file whose stat mode is `st_mode`: others get nothing, the group may not write.

    The group may execute what it can read and the owner can execute.
    """
    mode = stat.S_IMODE(st_mode) & ~(stat.S_IWGRP | stat.S_IRWXO | stat.S_IXGRP)
    if mode & stat.S_IXUSR and mode & stat.S_IRGRP:
        mode |= stat.S_IXGRP
    return mode


def dumps(manifest: Manifest) -> bytes:
    """Return the canonical bytes; raises InvalidManifest for a tree that could not be loaded again."""
    ours = manifest.algorithm is BLAKE3
    files = {entry.path: _encode_entry(entry, ours=ours) for entry in manifest.entries}
    if len(files) != len(manifest.entries):
        raise InvalidManifest("Two entries of the manifest have the same path")
    check_tree(sorted(manifest.entries))
    record: dict[str, Any] = {"algo": manifest.algorithm.name, "files": files, "version": manifest.version}
    if manifest.command:
        record["command"] = list(manifest.command)
    if manifest.includes:
        record["includes"] = [digest.hex() for digest in manifest.includes]
    if manifest.read_only is not None:
        record["read_only"] = manifest.read_only
    if manifest.relative_cwd is not None:
        record["relative_cwd"] = manifest.relative_cwd
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode("ascii")


def loads(data: bytes | bytearray | memoryview, namespace: Namespace) -> Manifest:
    """Return the manifest written as `data`, one part of a tree; raises InvalidManifest."""
    record = _parse_json(data)
    version = _version(record.pop("version", "1.0"), namespace.algorithm)
    if record.pop("algo", namespace.algorithm.name) != namespace.algorithm.name:
        raise InvalidManifest(f"'algo' is not {namespace.algorithm.name!r}, as namespace {namespace.name!r} demands")
    reader = _Reader(namespace)
    entries = sorted(reader.entries(record.pop("files", {})))
    check_tree(entries)
    manifest = Manifest(
        algorithm=namespace.algorithm,
        entries=tuple(entries),
        command=_command(record.pop("command", None)),
        relative_cwd=reader.relative_cwd(record.pop("relative_cwd", None)),
        read_only=_read_only(record.pop("read_only", None)),
        includes=reader.includes(record.pop("includes", None)),
    )
    if version < (1, 4):
        record.pop("os", None)
    for key in record:
        raise InvalidManifest(f"Unknown key {key!r}")
    return manifest


def merge(parts: Sequence[Manifest]) -> Manifest:
    """Return the whole tree of `parts`: the root, then its includes left to right, depth first.

    The first definition of a path wins; so do the first command that is not empty and, independently, the first
    `relative_cwd`. Raises InvalidManifest when the parts contradict each other.
    """
    entries: dict[str, Entry] = {}
    for part in parts:
        for entry in part.entries:
            entries.setdefault(entry.path, entry)
    ordered = sorted(entries.values())
    check_tree(ordered)
    return Manifest(
        algorithm=parts[0].algorithm,
        entries=tuple(ordered),
        command=next((part.command for part in parts if part.command), ()),
        relative_cwd=next((part.relative_cwd for part in parts if part.relative_cwd is not None), None),
        read_only=parts[0].read_only,
    )


def resolve(root: bytes, parts: Mapping[bytes, Manifest]) -> Manifest:
    """Return the tree of `root` with all its includes merged; `parts` holds every manifest that is reachable.

    Raises InvalidManifest when a part is reached twice: 2020 refuses even a diamond, and so no cycle can exist.
    """
    ordered: list[Manifest] = []
    seen: set[bytes] = set()
    pending = [root]
    while pending:
        digest = pending.pop()
        if digest in seen:
            raise InvalidManifest(f"Include {digest.hex()} is retrieved recursively")
        seen.add(digest)
        ordered.append(parts[digest])
        pending.extend(reversed(parts[digest].includes))
    return merge(ordered) if len(ordered) > 1 else ordered[0]


def check_tree(entries: Sequence[Entry]) -> None:
    """Raise InvalidManifest unless `entries`, sorted by path, can all exist and their blobs have one size each."""
    paths = [entry.path for entry in entries]
    sizes: dict[bytes, int] = {}
    for path, kind, blob, _, _ in entries:
        if blob is not None and sizes.setdefault(blob.digest, blob.size) != blob.size:
            raise InvalidManifest(f"{path!r} gives blob {blob.digest.hex()} a second size, {blob.size} bytes")
        if kind is Kind.DIR:
            continue
        below = path + "/"
        index = bisect_left(paths, below)
        if index < len(paths) and paths[index].startswith(below):
            raise InvalidManifest(f"{paths[index]!r} lies below {path!r}, which is a {kind.value}")


def _encode_entry(entry: Entry, *, ours: bool) -> dict[str, Any]:
    if entry.kind is Kind.LINK:
        return {"l": entry.target}
    if entry.kind is Kind.DIR:
        if not ours:
            raise InvalidManifest(f"Directory {entry.path!r} is empty, which manifests of 2020 cannot say")
        return {"t": "dir"}
    if entry.blob is None:
        raise InvalidManifest(f"{entry.path!r} is a {entry.kind.value} without content")
    encoded: dict[str, Any] = {"h": entry.blob.digest.hex(), "s": entry.blob.size}
    if entry.mode is not None:
        encoded["m"] = entry.mode
    if entry.kind is Kind.TAR:
        encoded["t"] = "tar"
    return encoded


def _parse_json(data: bytes | bytearray | memoryview) -> dict[str, Any]:
    if len(data) > MAX_MANIFEST_BYTES:
        raise InvalidManifest(f"A manifest of {len(data)} bytes is larger than {MAX_MANIFEST_BYTES}")
    try:
        record = json.loads(bytes(data).decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise InvalidManifest("Not a manifest: nested too deeply") from error
    except ValueError as error:  # bad UTF-8, bad JSON, an integer of thousands of digits
        raise InvalidManifest(f"Not a manifest: {error}") from error
    if not isinstance(record, dict):
        raise InvalidManifest("Not a manifest: the outermost value is not an object")
    return record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InvalidManifest(f"Key {twice!r} is given twice")
    return record


def _no_constant(text: str) -> Any:
    raise InvalidManifest(f"Not a manifest: {text} is no JSON")


def _version(value: object, algorithm: Algorithm) -> tuple[int, int]:
    parts = value.split(".") if isinstance(value, str) else []
    if not 1 <= len(parts) <= 4 or not all(part.isascii() and part.isdigit() and len(part) < 9 for part in parts):
        raise InvalidManifest(f"'version' is {value!r}, not a version such as '1.6'")
    major = 2 if algorithm is BLAKE3 else 1
    if int(parts[0]) != major:
        raise InvalidManifest(f"'version' is {value!r}; manifests of {algorithm.name} have version {major}")
    return int(parts[0]), int(parts[1]) if len(parts) > 1 else 0


def _text(value: object, what: str) -> str:
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


def _command(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not value:
        raise InvalidManifest("'command' is not a list of strings with at least one item")
    return tuple(_text(item, f"Item {index} of 'command'") for index, item in enumerate(value))


def _read_only(value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or value not in {0, 1, 2}:
        raise InvalidManifest("'read_only' is not 0, 1 or 2")
    return value


_ENTRY_KEYS: Final = frozenset("hlmst")


class _Reader:
    """Reads the parts of a manifest that depend on its namespace."""

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
        text = self._native(_text(value, "'relative_cwd'"))
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
            encoded = _text(path, f"Path {path!r}").encode("utf-8", "surrogateescape")
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
        target = self._native(_text(value["l"], f"Link target of {path!r}"))
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
        if "m" in value and (type(mode) is not int or not 0 <= mode <= _MAX_MODE):
            raise InvalidManifest(f"Mode of {path!r} is not a number from 0 to {_MAX_MODE}")
        blob = Blob(self._digest(value["h"], f"Hash of {path!r}"), size)
        if (size == 0) != (blob.digest == self._empty.digest):
            raise InvalidManifest(f"Hash and size of {path!r} disagree about being empty")
        return Entry(path, kind, blob, mode)

    def _digest(self, text: object, what: str) -> bytes:
        try:
            return self._algorithm.parse_hex(text.lower() if isinstance(text, str) else "")
        except InvalidDigest as error:
            raise InvalidManifest(f"{what}: {error}") from error


_FILE_KINDS: Final = {"basic": Kind.FILE, "tar": Kind.TAR}
