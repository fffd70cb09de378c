"""Nothing promised is ever gone: random calls race with eviction and compaction, a model knows the promises."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isolate.cas.block import Absent, Block
from isolate.cas.digest import Blob, Namespace
from isolate.errors import ChunksMissing, NoSpace
from isolate.monitor import TallyMonitor
from server.stores.blobs import LocalBlobStores
from server.stores.janitor import Janitor
from server.stores.limits import BlobLimits
from tests.clock import ManualClock
from tests.records import blob_of, block_of, stream

NAMESPACE = Namespace.parse("blake3-zstd")
LIMITS = BlobLimits(min_free_bytes=0, max_bytes=20_000)
CONTENTS = [random.Random(number).randbytes(1500 + number) for number in range(24)]
PAIRS = [(first, first + 7) for first in range(0, 16, 3)]  # composed blobs share no chunk with their neighbours
HOUR_S = 3600.0

numbers = st.lists(st.integers(0, len(CONTENTS) - 1), min_size=1, max_size=8, unique=True)
calls = st.one_of(
    st.tuples(st.just("put"), numbers),
    st.tuples(st.just("missing"), numbers),
    st.tuples(st.just("read"), numbers),
    st.tuples(st.just("compose"), st.sampled_from(PAIRS).map(list)),
    st.tuples(st.just("ask composed"), st.sampled_from(PAIRS).map(list)),
)
steps = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.3, 1.0, 3.0, 5.99, 6.01, 7.0, 200.0]),  # hours that pass before the calls
        st.lists(calls, min_size=1, max_size=5),
        st.sampled_from(["open", "clean stop", "unclean stop"]),
    ),
    min_size=3,
    max_size=14,
)


class Machine:
    """A store under test, and until when each blob is promised."""

    def __init__(self, root: Path) -> None:
        self.root, self.clock, self.monitor = root, ManualClock(), TallyMonitor()
        self.until_s: dict[Blob, float] = {}

    async def open(self, *, stopped_cleanly: bool = True) -> None:
        self.stores = await LocalBlobStores.open(self.root, self.clock, self.monitor, LIMITS, rotate_bytes=6_000)
        self.store = self.stores.namespace(NAMESPACE)
        self.janitor = Janitor(self.stores, self.clock, stopped_cleanly=stopped_cleanly)
        self.stores.make_room = self.janitor.make_room

    def promise(self, blobs: Sequence[Blob]) -> None:
        for blob in blobs:
            self.until_s[blob] = self.clock.now() + LIMITS.promised_s

    async def call(self, name: str, chosen: Sequence[int]) -> None:
        contents = [CONTENTS[number] for number in chosen]
        blobs, whole = list(map(blob_of, contents)), blob_of(b"".join(contents))
        if name == "put":
            try:
                await self.store.write(stream(*(block_of(content) for content in contents)))
            except NoSpace:
                return
            self.promise(blobs)
        elif name == "missing":
            gone = await self.store.missing(blobs)
            self.promise([blob for blob in blobs if blob not in gone])
        elif name == "read":
            found: dict[Blob, bytes] = {}
            absent: set[bytes] = set()
            async for record in self.store.read(blobs):
                if isinstance(record, Block):
                    found.update((blob, bytes(data)) for blob, data in record.contents())
                elif isinstance(record, Absent):
                    absent.update(record.digests)
            assert all(found[blob] == data for blob, data in zip(blobs, contents, strict=True) if blob in found)
            assert {blob.digest for blob in blobs if blob not in found} == absent
            self.promise([blob for blob in blobs if blob in found])
        elif name == "compose":
            try:
                await self.store.compose(whole, blobs)
            except (ChunksMissing, NoSpace):
                return
            self.promise([whole])
        elif await self.store.missing([whole]) == []:
            self.promise([whole, *blobs])

    async def verify(self) -> None:
        """What is promised is there; looking does not refresh it."""
        due = [blob for blob, until_s in self.until_s.items() if until_s > self.clock.now()]
        lookup, _, _ = await self.stores.presence._look(NAMESPACE, [blob.digest for blob in due])
        assert {blob.digest for blob in due} <= lookup.places.keys()
        rows = list({place.block: lookup.blocks[place.block] for place in lookup.places.values()}.values())
        _, data = await self.stores.presence.load(rows)
        assert all(data)

    async def run(self, script: Sequence[tuple[float, Sequence[tuple[str, Sequence[int]]], str]]) -> None:
        await self.open()
        for hours, together, ending in script:
            self.clock.advance(hours * HOUR_S)
            async with asyncio.TaskGroup() as group:
                for name, chosen in together[: len(together) // 2]:
                    group.create_task(self.call(name, chosen))
                group.create_task(self.janitor.run(dead_share=0.2))
                for name, chosen in together[len(together) // 2 :]:
                    group.create_task(self.call(name, chosen))
            await self.verify()
            if ending != "open":
                await self.stores.close()
                await self.open(stopped_cleanly=ending == "clean stop")
                await self.verify()
        assert self.monitor.problems == []
        await self.stores.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_nothing_promised_is_ever_gone(
    script: list[tuple[float, list[tuple[str, list[int]]], str]],
) -> None:
    with tempfile.TemporaryDirectory() as root:
        asyncio.run(Machine(Path(root)).run(script))
