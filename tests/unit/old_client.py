"""What a client of 2020 sends to the isolate API, and contents of every kind to send."""

from __future__ import annotations

import base64
import random
from typing import Any

from isolate.cas.block import Block, ChunkList
from isolate.cas.old_bytes import MAX_SEGMENT_BYTES
from isolate.cas.store import BlobStore
from tests.isolate_server import Site

NAMESPACES = ["default", "default-gzip", "sha256-deflate", "sha256-flat", "sha512-flat", "temporary-gzip"]
SMALL, BIG = b"hello\n", random.Random(1).randbytes(3000)
HUGE = random.Random(2).randbytes(2 * MAX_SEGMENT_BYTES + 12345)
OK = {"ok": True}


def of(namespace: str, **more: Any) -> dict[str, Any]:
    return {"namespace": {"namespace": namespace, "digest_hash": "sha-1", "compression": "flate"}} | more


async def ticket(site: Site, namespace: str, content: bytes, *, is_isolated: bool = False) -> dict[str, str]:
    (found,) = await site.lookup(namespace, content, is_isolated=is_isolated)
    return found


def inline(found: dict[str, str], content: bytes) -> dict[str, str]:
    return {"upload_ticket": found["upload_ticket"], "content": base64.b64encode(content).decode()}


async def contents(store: BlobStore, *wanted: bytes) -> dict[bytes, bytes]:
    """Read blobs as a client of the transfer API does: recipes first, then their chunks."""
    blobs = [store.namespace.blob(content) for content in wanted]
    found: dict[bytes, bytes] = {}
    async for record in store.read(blobs):
        match record:
            case Block():
                found |= {blob.digest: bytes(content) for blob, content in record.contents()}
            case ChunkList(blob, chunks):
                parts: dict[bytes, bytes] = {}
                async for part in store.read(chunks):
                    assert isinstance(part, Block)
                    parts |= {one.digest: bytes(content) for one, content in part.contents()}
                found[blob.digest] = b"".join(parts[chunk.digest] for chunk in chunks)
    return {blob.digest: found[blob.digest] for blob in blobs if blob.digest in found}
