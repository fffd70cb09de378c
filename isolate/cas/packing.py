"""Groups contents into blocks: small ones together until a block is worth sending, in the order they come.

Knows no files and no stores. The invariant: every content that was added is in exactly one returned block, in order;
at most one block's worth of content is held.
"""

from __future__ import annotations

from isolate.cas.block import MAX_ENTRIES, Block
from isolate.cas.digest import Algorithm, Blob, Codec

TARGET_BYTES = 1 << 20  # measured: the ratio gains little beyond, and a reader of one file decompresses the whole block


class BlockBuilder:
    """Fills blocks up to about `target_bytes`; a larger content travels alone.

    `level` is that of the next block to be packed and may be changed at any time; None packs contents as they are.
    """

    def __init__(self, algorithm: Algorithm, level: int | None, target_bytes: int = TARGET_BYTES) -> None:
        self.level = level
        self._algorithm = algorithm
        self._target_bytes = target_bytes
        self._contents: list[tuple[Blob, bytes]] = []
        self._size_bytes = 0
        self._shrank = True  # the block before this one; what comes next is probably of the same kind

    def add(self, blob: Blob, content: bytes) -> Block | None:
        """Take one content, which must have the digest of `blob`; returns the block that had to make room, if any.

        An empty content needs no storing and is ignored.
        """
        if not content:
            return None
        full = self._size_bytes + len(content) > self._target_bytes or len(self._contents) == MAX_ENTRIES
        block = self.flush() if full else None
        self._contents.append((blob, content))
        self._size_bytes += len(content)
        return block

    def flush(self) -> Block | None:
        """Return what is left as a block, None when nothing is."""
        if not self._contents:
            return None
        contents, self._contents, self._size_bytes = self._contents, [], 0
        pack = Block.squeezed if self._shrank else Block.pack
        block = pack(self._algorithm, contents, self.level)
        self._shrank = block.codec is not Codec.IDENTITY
        return block
