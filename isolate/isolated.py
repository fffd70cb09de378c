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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as _quoted
from operator import attrgetter
from typing import Any

from isolate.cas.digest import BLAKE3, Algorithm, Blob, Namespace
from isolate.entries import (
    Entry,
    EntryReader,
    Kind,
    check_tree,
    checked_text,
)
from isolate.errors import InvalidManifest, TooLarge

_path_of = attrgetter("path")

MAX_MANIFEST_BYTES = 64 << 20  # about half a million files in one part; ours are split into includes long before
SMALL_BYTES = 1 << 14  # of a manifest that is read with care before the library for reading fast is even loaded
MAX_NODES = 1 << 20  # objects and lists of one part: what is small as text may be very large as values


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


def dumps(manifest: Manifest) -> bytes:
    """Return the canonical bytes; raises InvalidManifest, TooLarge for a tree that could not be loaded again."""
    entries = sorted(manifest.entries, key=_path_of)
    if len({entry[0] for entry in entries}) != len(entries):
        raise InvalidManifest("Two entries of the manifest have the same path")
    check_tree(entries)
    ours = manifest.algorithm is BLAKE3
    # The text is joined here, three times as fast as `json` writes it; keys are in their order, as `sort_keys` has it.
    parts = [f'{{"algo":{_quoted(manifest.algorithm.name)}']
    if manifest.command:
        parts.append(f',"command":[{",".join(map(_quoted, manifest.command))}]')
    parts.append(f',"files":{{{",".join(_texts(entries, ours=ours))}}}')
    if manifest.includes:
        hashes = '","'.join([digest.hex() for digest in manifest.includes])
        parts.append(f',"includes":["{hashes}"]')
    if manifest.read_only is not None:
        parts.append(f',"read_only":{_read_only(manifest.read_only)}')
    if manifest.relative_cwd is not None:
        parts.append(f',"relative_cwd":{_quoted(manifest.relative_cwd)}')
    parts.append(f',"version":"{manifest.version}"}}')
    content = "".join(parts).encode("ascii")
    if len(content) > MAX_MANIFEST_BYTES:
        raise too_large(len(entries))
    return content


def too_large(entries: int) -> TooLarge:
    """Return the error of one manifest that nobody could read again; ours are split, so that they never are."""
    return TooLarge(
        f"{entries} entries or more are too many for one manifest, which a namespace of 2020 demands "
        "(hint: use blake3-zstd, or archive the directories one by one)"
    )


def _texts(entries: Sequence[Entry], *, ours: bool) -> list[str]:
    """Return what `entry_text` says of each; nearly all are files with a mode, which are spared the call."""
    quoted, file = _quoted, Kind.FILE
    return [
        f'{quoted(path)}:{{"h":"{blob[0].hex()}","m":{mode},"s":{blob[1]}}}'
        if kind is file and blob is not None and mode is not None
        else entry_text(Entry(path, kind, blob, mode, target), ours=ours)
        for path, kind, blob, mode, target in entries
    ]


def entry_text(entry: Entry, *, ours: bool) -> str:
    """Return how an entry is written in `files`, with its key; raises InvalidManifest for one that cannot be."""
    path, kind, blob, mode, target = entry
    if blob is not None:
        number = "" if mode is None else f'"m":{mode},'
        tar = ',"t":"tar"' if kind is Kind.TAR else ""
        return f'{_quoted(path)}:{{"h":"{blob.digest.hex()}",{number}"s":{blob.size}{tar}}}'
    if target is not None:
        return f'{_quoted(path)}:{{"l":{_quoted(target)}}}'
    if kind is not Kind.DIR:
        raise InvalidManifest(f"{path!r} is a {kind.value} without content")
    if not ours:
        raise InvalidManifest(f"Directory {path!r} is empty, which manifests of 2020 cannot say")
    return f'{_quoted(path)}:{{"t":"dir"}}'


def loads(data: bytes | bytearray | memoryview, namespace: Namespace) -> Manifest:
    """Return the manifest written as `data`, one part of a tree; raises InvalidManifest."""
    text = _bounded(data)
    record, entries = (_in_bulk(text, namespace) if len(text) > SMALL_BYTES else None) or (_parse_json(text), None)
    version = _version(record.pop("version", "1.0"), namespace.algorithm)
    if record.pop("algo", namespace.algorithm.name) != namespace.algorithm.name:
        raise InvalidManifest(f"'algo' is not {namespace.algorithm.name!r}, as namespace {namespace.name!r} demands")
    reader = EntryReader(namespace)
    if entries is None:
        entries = reader.entries(record.pop("files", {}))
    entries.sort()
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


def _in_bulk(text: bytes, namespace: Namespace) -> tuple[dict[str, Any], list[Entry]] | None:
    from isolate import canonical  # with msgspec: who writes manifests, or reads small ones, does without

    return canonical.read(text, namespace)


def _bounded(data: bytes | bytearray | memoryview) -> bytes:
    if len(data) > MAX_MANIFEST_BYTES:
        raise InvalidManifest(f"A manifest of {len(data)} bytes is larger than {MAX_MANIFEST_BYTES}")
    text = bytes(data)
    if text.count(b"{") + text.count(b"[") > MAX_NODES:
        raise InvalidManifest(f"A manifest with more than {MAX_NODES} entries: split it into includes")
    return text


def _parse_json(text: bytes) -> dict[str, Any]:
    try:
        record = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
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


def _command(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not value:
        raise InvalidManifest("'command' is not a list of strings with at least one item")
    return tuple(checked_text(item, f"Item {index} of 'command'") for index, item in enumerate(value))


def _read_only(value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or value not in {0, 1, 2}:
        raise InvalidManifest("'read_only' is not 0, 1 or 2")
    return value
