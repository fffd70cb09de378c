"""Trees of a server, looked at by their hash: manifests are read, contents only if asked for.

Knows no cache. The parts of a large manifest wait in a file without a name. The invariants: what is shown is verified
against the hash it was asked for by; memory does not depend on the size of a tree.
"""

from __future__ import annotations

import asyncio
import posixpath
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, NoReturn

from isolate.cas.digest import Namespace
from isolate.download import stream_blob
from isolate.entries import Entry, Kind
from isolate.errors import InvalidManifest, NotFound, first_cause
from isolate.hands import Remote
from isolate.http import HttpClient
from isolate.isolated import MAX_MANIFEST_BYTES, Manifest, loads
from isolate.monitor import Monitor
from isolate.parts import Parts, Tree, entry_at_or_after
from isolate.spool import Spool, temporary_path

READS = 4  # manifests asked for at a time, about 3 MB each
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
        self._contents = Spool(temporary_path)  # of the parts, which are read again when they are needed
        self._places: dict[bytes, int] = {}
        self.tree = Tree.of(Manifest(algorithm=namespace.algorithm))

    async def open(self, root: bytes, content: bytes | None = None) -> Tree:
        """Read the manifest `root` and its includes; `content` is what the root is known to be.

        Raises BlobsMissing, InvalidManifest, StoredCorrupt, and what the client raises.
        """
        parts = Parts(self._namespace.algorithm)
        if content is not None:
            self._add(root, content, parts)
        level = [root]
        while level:
            await self._read([digest for digest in level if digest not in self._places], parts)
            level = parts.below(level)
        self.tree = await asyncio.to_thread(parts.tree, root, self._part)
        return self.tree

    async def _read(self, digests: Sequence[bytes], parts: Parts) -> None:
        """Add the manifests `digests` to `parts`."""
        waiting = iter(digests)

        async def work() -> None:
            for digest in waiting:
                self._add(digest, await self._content(digest), parts)

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(READS, len(digests))):
                    tasks.create_task(work())
        except BaseExceptionGroup as group:
            raise first_cause(group) from group

    async def _content(self, digest: bytes) -> bytes:
        content = bytearray()

        def keep(piece: bytes) -> int:
            content.extend(piece)
            if len(content) > MAX_MANIFEST_BYTES:
                raise InvalidManifest(f"Blob {digest.hex()} is too large for a manifest")
            return len(piece)

        await stream_blob(self._client, self._namespace, digest, keep)
        return bytes(content)

    def _add(self, digest: bytes, content: bytes, parts: Parts) -> None:
        parts.add(digest, manifest_of(content, self._namespace, digest))
        self._places[digest] = len(self._contents)
        self._contents.append(content)

    def _part(self, digest: bytes) -> Manifest:
        return manifest_of(self._contents[self._places[digest]], self._namespace, digest)

    async def write_file(self, entry: Entry, write: Callable[[bytes], int]) -> None:
        """Hand the content of a file of the tree to `write`."""
        assert entry.blob is not None, "a file has content"
        await stream_blob(self._client, self._namespace, entry.blob.digest, write)


def manifest_of(content: bytes, namespace: Namespace, digest: bytes) -> Manifest:
    """Return the manifest that is the content of blob `digest`; raises InvalidManifest."""
    try:
        return loads(content, namespace)
    except InvalidManifest as error:
        raise InvalidManifest(f"{digest.hex()} is not the hash of a tree: {error}") from error


def client_for(source: Remote, monitor: Monitor) -> HttpClient:
    """Return what talks to the server of `source`; to be entered."""
    return HttpClient(source.url, user_agent=source.user_agent, monitor=monitor)


def find(tree: Tree, path: str) -> Entry:
    """Return the file that `path` leads to; raises NotFound, also for what has no content."""
    here = posixpath.normpath(path)
    for _ in range(MAX_LINKS):
        names, has_below = _on_the_way(tree, here)
        entry = names.get(here)
        if entry is None:
            here = _through_link(names, here) or _no_file(tree, path, is_directory=has_below)
        elif entry.kind is Kind.LINK:
            assert entry.target is not None, "a link has a target"
            here = posixpath.normpath(posixpath.join(posixpath.dirname(here), entry.target))
        elif entry.blob is None:
            raise NotFound(f"The tree has no file {path!r}: it is a directory")
        else:
            return entry
    raise NotFound(f"The tree has no file {path!r}: it leads through too many links")


def _on_the_way(tree: Tree, here: str) -> tuple[dict[str, Entry], bool]:
    """Return what the tree has at `here` and above it, and whether it has anything below."""
    parts = here.split("/")
    names = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    found: dict[str, Entry] = {}
    has_below = False
    for run in tree.runs():
        for name in names:
            entry = entry_at_or_after(run, name)
            if entry is not None and entry.path == name:
                found[name] = entry
        below = entry_at_or_after(run, f"{here}/")
        has_below = has_below or (below is not None and below.path.startswith(f"{here}/"))
    return found, has_below


def _through_link(known: dict[str, Entry], here: str) -> str | None:
    """Return where `here`, which is no entry, leads by a link above it."""
    parts = here.split("/")
    for end in range(1, len(parts)):
        link = known.get("/".join(parts[:end]))
        if link is not None and link.target is not None:
            above = posixpath.join(posixpath.dirname(link.path), link.target)
            return posixpath.normpath(posixpath.join(above, *parts[end:]))
    return None


def _no_file(tree: Tree, path: str, *, is_directory: bool) -> NoReturn:
    if is_directory:
        raise NotFound(f"The tree has no file {path!r}: it is a directory")
    tar = next((entry.path for entry in tree.entries() if entry.kind is Kind.TAR), None)
    hint = "" if tar is None else f" (hint: only `download` opens tars, such as {tar!r})"
    raise NotFound(f"The tree has no file {path!r}{hint}")


def below(tree: Tree, paths: Sequence[str]) -> Iterator[Entry]:
    """Yield the entries at or below any of `paths`, all without any; raises NotFound, first, if one names nothing."""
    wanted = [posixpath.normpath(path) for path in paths]
    for path in _not_in(tree, wanted):
        raise NotFound(f"The tree has nothing at {path!r}")
    for entry in tree.entries():
        if not wanted or any(path in {".", entry.path} or entry.path.startswith(f"{path}/") for path in wanted):
            yield entry


def _not_in(tree: Tree, wanted: Sequence[str]) -> list[str]:
    """Return those of some paths that nothing is at or below."""
    missing = list(wanted)
    for run in tree.runs() if missing else ():
        for path in list(missing):
            at, under = entry_at_or_after(run, path), entry_at_or_after(run, f"{path}/")
            is_at = at is not None and at.path == path
            if path == "." or is_at or (under is not None and under.path.startswith(f"{path}/")):
                missing.remove(path)
    return missing


class Shown:
    """What there is to say of entries that were shown."""

    def __init__(self) -> None:
        self.entries = self.size_bytes = self._tars = 0
        self._first_tar = ""

    def passing(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yield `entries`, counted."""
        for entry in entries:
            self.entries += 1
            self.size_bytes += 0 if entry.blob is None else entry.blob.size
            if entry.kind is Kind.TAR:
                self._first_tar = self._first_tar or entry.path
                self._tars += 1
            yield entry

    def tars_text(self) -> str:
        """Return what to say of tars, for there `download` makes other files; nothing without any."""
        if not self._tars:
            return ""
        more = f" and {self._tars - 1} more" if self._tars > 1 else ""
        return f"{self._first_tar!r}{more}: in place of a tar `download` puts what is in it, which is not shown here"


def differences(before: Tree, after: Tree) -> Iterator[Change]:
    """Yield where two trees differ, by path; contents are compared by digest."""
    ones, others = before.entries(), after.entries()
    one, other = next(ones, None), next(others, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one.path < other.path):
            assert one is not None, "one of them is there"
            yield Change(one.path, one, None)
            one = next(ones, None)
        elif one is None or other.path < one.path:
            yield Change(other.path, None, other)
            other = next(others, None)
        else:
            if one != other:
                yield Change(one.path, one, other)
            one, other = next(ones, None), next(others, None)


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
