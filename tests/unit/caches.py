"""What the tests of the local cache share: contents, their names, and looks into its folder."""

from __future__ import annotations

import os
from collections.abc import Callable

from isolate.cas.cache import LocalCache
from isolate.cas.digest import Blob, Namespace

NS = Namespace.parse("blake3-zstd")
CONTENTS = [b"content %d" % index for index in range(10)]
BLOBS = [NS.blob(content) for content in CONTENTS]
A, B, C, D = BLOBS[:4]

Opener = Callable[..., LocalCache]


def fill(cache: LocalCache, *blobs: Blob) -> None:
    cache.add([(blob, CONTENTS[BLOBS.index(blob)]) for blob in blobs])


def files_in(cache: LocalCache) -> set[str]:
    return {name for _, _, names in os.walk(cache.root / "files") for name in names}


def leftovers(cache: LocalCache) -> list[str]:
    return [name for _, _, names in os.walk(cache.root / "sessions") for name in names if name != "lock"]
