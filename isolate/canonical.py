"""A manifest that is written as we write it, read in bulk.

Knows nothing that entries.py does not know better, and says nothing is wrong: what is unusual in any way (an escape, a
second spelling, a tar, an error) is None here, and the careful reader reads it or tells what is wrong with it. The
invariant: what is returned is what the careful reader would return. That no key was given twice, passed over or
converted is proven by writing what was read once more: the bytes must be the same.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from isolate.cas.digest import Blob, Namespace
from isolate.entries import MAX_MODE, MAX_PATH_BYTES, MAX_PATH_PARTS, MAX_SIZE, Entry, Kind
from isolate.paths import are_plain

_KEYS_OF_ITEMS = {"digest": "h", "target": "l", "mode": "m", "size": "s", "kind": "t"}


class _Item(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False, rename=_KEYS_OF_ITEMS):
    """An entry as it is written, its keys in their order."""

    digest: str | None = None
    target: str | None = None
    mode: Annotated[int, msgspec.Meta(ge=0, le=MAX_MODE)] | None = None
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_SIZE)] | None = None
    kind: str | None = None


class _Part(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A manifest as it is written, its keys in their order."""

    algo: str | None = None
    command: list[str] | None = None
    files: dict[str, _Item] | None = None
    includes: list[str] | None = None
    read_only: int | None = None
    relative_cwd: str | None = None
    version: str | None = None


_KEYS_BUT_FILES = tuple(key for key in _Part.__struct_fields__ if key != "files")
_decoder = msgspec.json.Decoder(_Part)
_encoder = msgspec.json.Encoder()


def read(text: bytes, namespace: Namespace) -> tuple[dict[str, Any], list[Entry]] | None:
    """Return the keys of a manifest without `files`, unchecked, and its entries, checked one by one and unsorted."""
    if b"\\" in text or not text.isascii():
        return None
    try:
        part = _decoder.decode(text)
        if _encoder.encode(part) != text:
            return None
        entries = _entries(part.files or {}, namespace)
    except (msgspec.MsgspecError, ValueError):
        return None
    if entries is None:
        return None
    record = {key: value for key in _KEYS_BUT_FILES if (value := getattr(part, key)) is not None}
    return record, entries


def _entries(files: dict[str, _Item], namespace: Namespace) -> list[Entry] | None:
    """Return the entries unless one of them is unusual; raises ValueError for some that are."""
    if not are_plain(files) or any(len(path) > MAX_PATH_BYTES or path.count("/") >= MAX_PATH_PARTS for path in files):
        return None
    size_bytes, empty, ours = namespace.algorithm.digest_bytes, namespace.empty.digest, namespace.is_ours
    # Most of the time of reading a large manifest is spent here: the constructors of named tuples are passed by.
    new, from_hex, file = tuple.__new__, bytes.fromhex, Kind.FILE
    entries: list[Entry] = []
    for path, item in files.items():
        text, size, target = item.digest, item.size, item.target
        if text is not None and size is not None and target is None and item.kind is None:
            digest = from_hex(text)
            if len(text) != 2 * size_bytes or len(digest) != size_bytes or (digest == empty) != (size == 0):
                return None
            entries.append(new(Entry, (path, file, new(Blob, (digest, size)), item.mode, None)))
        elif text is not None or size is not None or item.mode is not None:
            return None
        elif target and item.kind is None and len(target) <= MAX_PATH_BYTES:
            entries.append(Entry(path, Kind.LINK, target=target))
        elif ours and target is None and item.kind == "dir":
            entries.append(Entry(path, Kind.DIR))
        else:
            return None
    return entries
