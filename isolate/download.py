"""Single blobs of a server -> files; trees go through the cache, see `fetch`.

Knows no manifests. The invariant: a file appears under its name only if it is whole and has the digest asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import BinaryIO

from isolate.cas.digest import Blob, Namespace
from isolate.cas.files import atomic_file
from isolate.cas.wire import BLOB_TYPE, call_path
from isolate.errors import BlobsMissing, NotFound, Refused, StoredCorrupt
from isolate.hands import Remote
from isolate.http import HttpClient
from isolate.monitor import Monitor


async def download_files(source: Remote, wanted: Mapping[Path, bytes], monitor: Monitor) -> None:
    """Write each blob to its file; raises what `download_file` raises."""
    async with HttpClient(source.url, user_agent=source.user_agent, monitor=monitor) as client:
        for destination, digest in wanted.items():
            await download_file(client, source.namespace, digest, destination)


async def download_file(client: HttpClient, namespace: Namespace, digest: bytes, destination: Path) -> int:
    """Write the blob `digest` to `destination`, replacing what is there; returns its size in bytes.

    Raises BlobsMissing, StoredCorrupt, Unavailable, OSError.
    """
    async with AsyncExitStack() as stack:
        file: BinaryIO | None = None

        def write(piece: bytes) -> int:
            nonlocal file
            if file is None:  # not before the server has something to say: a failure leaves no directories
                os.makedirs(destination.parent, exist_ok=True)
                if destination.is_symlink():  # it may lead out of the directory that was asked for
                    destination.unlink()
                file = stack.enter_context(atomic_file(destination))
            return file.write(piece)

        size = await stream_blob(client, namespace, digest, write)
        write(b"")
        return size


async def stream_blob(client: HttpClient, namespace: Namespace, digest: bytes, write: Callable[[bytes], object]) -> int:
    """Hand the blob `digest` to `write`, piece by piece; returns its size in bytes.

    Raises BlobsMissing; StoredCorrupt at the end, when all has been written; Unavailable; Refused.
    """
    if digest == namespace.empty.digest:
        return 0
    hasher, size = namespace.algorithm.parallel_hasher(), 0
    try:
        async with client.request("GET", call_path(namespace.name, f"blob/{digest.hex()}")) as response:
            found = response.headers.get("Content-Type", "")
            if found != BLOB_TYPE:
                raise Refused(
                    f"{client.base_url} is not an isolate server: it answered {found[:80]!r} instead of a blob", 0
                )
            async for piece in response.chunks():
                hasher.update(piece)
                size += len(piece)
                write(piece)
    except NotFound as error:
        raise BlobsMissing([digest]) from error
    if hasher.digest() != digest:
        raise StoredCorrupt(Blob(digest, size), hasher.digest(), "the store")
    return size
