"""Trees put into a store by hand, so that fetching and mapping are tested without archiving."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from isolate.cas.block import Block
from isolate.cas.digest import Blob
from isolate.cas.packing import BlockBuilder
from isolate.cas.store import BlobStore
from isolate.entries import Entry, Kind
from isolate.isolated import Manifest, dumps
from tests.records import stream
from tests.trees import Executable, Link, Tree


async def put(store: BlobStore, contents: Iterable[bytes], target_bytes: int = 1 << 20) -> list[Blob]:
    """Store `contents`, small ones together in blocks."""
    builder = BlockBuilder(store.namespace.algorithm, 1, target_bytes)
    blobs = []
    blocks: list[Block] = []
    for content in contents:
        blobs.append(store.namespace.blob(content))
        if block := builder.add(blobs[-1], content):
            blocks.append(block)
    if block := builder.flush():
        blocks.append(block)
    await store.write(stream(*blocks))
    return blobs


async def put_large(store: BlobStore, chunks: Sequence[bytes]) -> Blob:
    """Store the concatenation of `chunks` as a composed blob."""
    blobs = await put(store, dict.fromkeys(chunks))
    by_content = dict(zip(dict.fromkeys(chunks), blobs, strict=True))
    whole = store.namespace.blob(b"".join(chunks))
    await store.compose(whole, [by_content[chunk] for chunk in chunks])
    return whole


async def put_manifest(store: BlobStore, manifest: Manifest) -> str:
    """Store a manifest and return its hash."""
    (blob,) = await put(store, [dumps(manifest)])
    return blob.digest.hex()


async def put_tree(store: BlobStore, tree: Tree) -> str:
    """Store `tree` with all its files and return its hash."""
    entries = list(_entries(store, tree))
    await put(store, {content for _, content in entries if content})
    ordered = tuple(sorted(entry for entry, _ in entries))
    return await put_manifest(store, Manifest(algorithm=store.namespace.algorithm, entries=ordered))


async def put_split(store: BlobStore, tree: Tree, cuts: Iterable[int]) -> str:
    """Store `tree` as one that is cut into includes, before the entries with the numbers `cuts`; return its hash."""
    found = sorted(_entries(store, tree))
    await put(store, {content for _, content in found if content})
    return await put_parts(store, cut([entry for entry, _ in found], cuts))


async def put_parts(store: BlobStore, parts: Iterable[Sequence[Entry]]) -> str:
    """Store manifests, and one that includes them; return its hash."""
    algorithm = store.namespace.algorithm
    hashes = [await put_manifest(store, Manifest(algorithm=algorithm, entries=tuple(part))) for part in parts]
    includes = tuple(bytes.fromhex(one) for one in dict.fromkeys(hashes))
    return await put_manifest(store, Manifest(algorithm=algorithm, includes=includes))


def cut(entries: Sequence[Entry], cuts: Iterable[int]) -> list[Sequence[Entry]]:
    """Return `entries` in parts that begin at `cuts`, none of them empty."""
    ends = [0, *sorted({at for at in cuts if 0 < at < len(entries)}), len(entries)]
    return [entries[start:end] for start, end in pairwise(ends) if start < end]


def _entries(store: BlobStore, tree: Tree, prefix: str = "") -> Iterable[tuple[Entry, bytes]]:
    for name, node in tree.items():
        path = prefix + name
        match node:
            case Link(target):
                yield Entry(path, Kind.LINK, target=target), b""
            case Executable(content):
                yield Entry(path, Kind.FILE, store.namespace.blob(content), 0o750), content
            case bytes():
                yield Entry(path, Kind.FILE, store.namespace.blob(node), 0o640), node
            case dict() if node:
                yield from _entries(store, node, path + "/")
            case _:
                yield Entry(path, Kind.DIR), b""
