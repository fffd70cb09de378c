"""The records of packs, opened: what they are, and whether what they hold is what they say.

Knows no index and no file. The invariant: what `opened` returns had the right check and is of a kind that packs
hold; `wrong_in` looks at the contents as well.
"""

from __future__ import annotations

from isolate.cas.block import Block, ChunkList, decode_record
from isolate.cas.digest import BLAKE3, Algorithm, Codec, Namespace
from isolate.cas.layout import BLOCK, OLD, RECIPE
from isolate.cas.old_bytes import Segment
from isolate.errors import BlobCorrupt, InvalidRecord
from server.stores.sqlite_index import Kind

OLD_SUFFIX = "~old"  # of the name under which old bytes lie beside their namespace
OUTPUT_SPACE = Namespace("~output", BLAKE3, Codec.ZSTD)  # what tasks printed; no client can spell its name
MAGICS: dict[int, bytes] = {Kind.BLOCK: BLOCK, Kind.RECIPE: RECIPE, Kind.OLD: OLD, Kind.OLD_LAST: OLD}

Opened = Block | ChunkList | Segment


def namespace_of(name: str) -> Namespace:
    """Return the namespace that packs below the directory `name` belong to; raises InvalidNamespace."""
    return OUTPUT_SPACE if name == OUTPUT_SPACE.name else Namespace.parse(name.removesuffix(OLD_SUFFIX))


def opened(record: bytes, algorithm: Algorithm) -> Opened:
    """Return what a record is; raises InvalidRecord."""
    if record[:4] == OLD:
        return Segment.decode(record, algorithm)
    found = decode_record(record, algorithm)
    if not isinstance(found, (Block, ChunkList)):
        raise InvalidRecord("Record is of a kind that is not stored")
    return found


def wrong_in(record: bytes, algorithm: Algorithm) -> str | None:
    """Return what is wrong with a record or the contents of a block, None when all is well."""
    try:
        found = opened(record, algorithm)
        if isinstance(found, Block):
            for _ in found.contents():
                pass
    except (InvalidRecord, BlobCorrupt) as error:
        return str(error)
    return None
