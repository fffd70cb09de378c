"""Trees of a server, looked at by their hash: manifests are read, contents only if asked for.

Knows no cache and no disk but the files it is told to write to. The invariant: what is shown is verified against the
hash it was asked for by.
"""

from __future__ import annotations

import asyncio
import posixpath
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from isolate.cas.digest import Namespace
from isolate.download import stream_blob
from isolate.entries import MAX_PARTS, Entry, Kind
from isolate.errors import InvalidInput, InvalidManifest, NotFound, first_cause
from isolate.hands import Remote
from isolate.http import HttpClient
from isolate.isolated import MAX_MANIFEST_BYTES, Manifest, loads, resolve
from isolate.monitor import Monitor

READS = 8  # manifests asked for at a time
MAX_LINKS = 40  # followed for one path, as Linux does


class Change(NamedTuple):
    """How two trees differ at one path: one of them is None when it is only in the other."""

    path: str
    before: Entry | None
    after: Entry | None


class RemoteTree:
    """One tree of the server behind `client`."""

    def __init__(self, client: HttpClient, namespace: Namespace) -> None:
        self._client, self._namespace = client, namespace
        self.manifest = Manifest(algorithm=namespace.algorithm)

    async def open(self, root: bytes, content: bytes | None = None) -> Manifest:
        """Read the manifest `root` and its includes; `content` is what the root is known to be.

        Raises BlobsMissing, InvalidManifest, StoredCorrupt, and what the client raises.
        """
        parts: dict[bytes, Manifest] = {} if content is None else {root: manifest_of(content, self._namespace, root)}
        level = [root]
        while level:
            await self._read([digest for digest in level if digest not in parts], parts)
            includes = dict.fromkeys(part for digest in level for part in parts[digest].includes)
            level = [digest for digest in includes if digest not in parts]
            if len(parts) + len(level) > MAX_PARTS:
                raise InvalidManifest(f"The tree has more than {MAX_PARTS} includes")
        self.manifest = await asyncio.to_thread(resolve, root, parts)
        return self.manifest

    async def _read(self, digests: Sequence[bytes], parts: dict[bytes, Manifest]) -> None:
        """Add the manifests `digests` to `parts`."""
        waiting = iter(digests)

        async def work() -> None:
            for digest in waiting:
                parts[digest] = await self._part(digest)

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(READS, len(digests))):
                    tasks.create_task(work())
        except BaseExceptionGroup as group:
            raise first_cause(group) from group

    async def _part(self, digest: bytes) -> Manifest:
        content = bytearray()

        def keep(piece: bytes) -> int:
            content.extend(piece)
            if len(content) > MAX_MANIFEST_BYTES:
                raise InvalidManifest(f"Blob {digest.hex()} is too large for a manifest")
            return len(piece)

        await stream_blob(self._client, self._namespace, digest, keep)
        return manifest_of(content, self._namespace, digest)

    async def write_file(self, path: str, write: Callable[[bytes], int]) -> None:
        """Hand the content of the file at `path` to `write`, links within the tree followed; raises NotFound."""
        entry = find(self.manifest, path)
        assert entry.blob is not None, "a file has content"
        await stream_blob(self._client, self._namespace, entry.blob.digest, write)


def manifest_of(content: bytes | bytearray, namespace: Namespace, digest: bytes) -> Manifest:
    """Return the manifest that the blob `digest` is; raises InvalidManifest that says which blob is none."""
    try:
        return loads(content, namespace)
    except InvalidManifest as error:
        raise InvalidManifest(f"{digest.hex()} is not the hash of a tree: {error}") from error


async def open_tree(client: HttpClient, source: Remote, root: bytes, content: bytes | None = None) -> RemoteTree:
    """Return the tree `root` with its manifest read."""
    tree = RemoteTree(client, source.namespace)
    await tree.open(root, content)
    return tree


def client_for(source: Remote, monitor: Monitor) -> HttpClient:
    """Return what talks to the server of `source`; to be entered."""
    return HttpClient(source.url, user_agent=source.user_agent, monitor=monitor)


def find(manifest: Manifest, path: str) -> Entry:
    """Return the file that `path` leads to; raises NotFound, InvalidInput for what has no content."""
    known = {entry.path: entry for entry in manifest.entries}
    here = posixpath.normpath(path)
    for _ in range(MAX_LINKS):
        entry = known.get(here)
        if entry is None:
            here = _through_link(known, here, path)
        elif entry.kind is Kind.LINK:
            assert entry.target is not None, "a link has a target"
            here = posixpath.normpath(posixpath.join(posixpath.dirname(here), entry.target))
        elif entry.blob is None:
            raise InvalidInput(f"{path!r} is a directory")
        else:
            return entry
    raise NotFound(f"The tree has no file {path!r}: it leads through too many links")


def _through_link(known: dict[str, Entry], here: str, path: str) -> str:
    """Return where `here`, which is no entry, leads by a link above it."""
    parts = here.split("/")
    for end in range(1, len(parts)):
        link = known.get("/".join(parts[:end]))
        if link is not None and link.target is not None:
            above = posixpath.join(posixpath.dirname(link.path), link.target)
            return posixpath.normpath(posixpath.join(above, *parts[end:]))
    if any(name.startswith(f"{here}/") for name in known):
        raise InvalidInput(f"{path!r} is a directory")
    tar = next((entry.path for entry in known.values() if entry.kind is Kind.TAR), None)
    hint = "" if tar is None else f" (hint: only `download` opens tars, such as {tar!r})"
    raise NotFound(f"The tree has no file {path!r}{hint}")


def below(manifest: Manifest, paths: Sequence[str]) -> list[Entry]:
    """Return the entries at or below any of `paths`, all without any; raises NotFound for one that names nothing."""
    if not paths:
        return list(manifest.entries)
    wanted = [posixpath.normpath(path) for path in paths]
    chosen = []
    met = set()
    for entry in manifest.entries:
        mine = [path for path in wanted if path in {".", entry.path} or entry.path.startswith(f"{path}/")]
        if mine:
            chosen.append(entry)
            met.update(mine)
    for path in wanted:
        if path not in met:
            raise NotFound(f"The tree has nothing at {path!r}")
    return chosen


def tars_text(entries: Sequence[Entry]) -> str:
    """Return what to say of tars among what is shown, for there `download` makes other files; nothing without any."""
    tars = [entry.path for entry in entries if entry.kind is Kind.TAR]
    if not tars:
        return ""
    more = f" and {len(tars) - 1} more" if len(tars) > 1 else ""
    return f"{tars[0]!r}{more}: in place of a tar `download` puts what is in it, which is not shown here"


def differences(before: Manifest, after: Manifest) -> Iterator[Change]:
    """Yield where two trees differ, by path; contents are compared by digest."""
    old = {entry.path: entry for entry in before.entries}
    new = {entry.path: entry for entry in after.entries}
    for path in sorted(old.keys() | new.keys()):
        one, other = old.get(path), new.get(path)
        if one != other:
            yield Change(path, one, other)


def long_line(entry: Entry) -> str:
    """Return what `ls -l` shows of an entry: type and mode, size, path."""
    if entry.kind is Kind.LINK:
        return f"lrwxrwxrwx {0:>12} {shown(entry.path)} -> {shown(entry.target or '')}"
    if entry.kind is Kind.DIR:
        return f"drwxr-xr-x {0:>12} {shown(entry.path)}/"
    size = 0 if entry.blob is None else entry.blob.size
    # A file without a mode is mapped with 0500, as in 2020.
    mode = stat.filemode(stat.S_IFREG | (0o500 if entry.mode is None else entry.mode))
    return f"{mode} {size:>12} {shown(entry.path)}{' (tar)' if entry.kind is Kind.TAR else ''}"


def shown(path: str) -> str:
    """Return a path as one line that controls no terminal."""
    if path.isprintable():
        return path
    return "".join(
        letter if letter.isprintable() or 0xDC80 <= ord(letter) <= 0xDCFF else letter.encode("unicode_escape").decode()
        for letter in path
    )
