"""What attempts printed, before and after it became a blob."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from isolate.cas.digest import Namespace
from isolate.errors import InvalidNamespace, NoSpace, OutputLost, Unavailable
from isolate.monitor import TallyMonitor
from server.stores import settled_outputs as module
from server.stores.blobs import LocalBlobStores
from server.stores.check import Check, Checked
from server.stores.janitor import Janitor
from server.stores.limits import BlobLimits
from server.stores.outputs import FileOutputs, Quiet
from server.stores.rebuild import Rebuild
from server.stores.records import OUTPUT_SPACE
from server.stores.settled_outputs import CHUNK_BYTES, SettledOutputs
from server.stores.sqlite_tasks import SqliteTaskStore
from swarming import ids
from tests.clock import ManualClock

MADE_AT = 1_700_000_000.0
LIMITS = BlobLimits(min_free_bytes=0)


def run(serial: int, made_at: float = MADE_AT) -> str:
    return ids.pack(ids.number(made_at, serial), 1)


def nothing_goes_on(_: str) -> bool:
    return False


class HurriedClock(ManualClock):
    """A clock on which a pause is over as soon as it begins."""

    async def sleep(self, delay_s: float) -> None:
        self.advance(delay_s)


class Site:
    """A data directory of a server, in which files are as old as the disk says and the clock is far ahead."""

    def __init__(self, root: Path) -> None:
        self.root, self.clock, self.limits = root, HurriedClock(3_000_000_000.0), LIMITS
        self.monitor = TallyMonitor()

    async def open(self) -> None:
        self.blobs = await LocalBlobStores.open(self.root, self.clock, self.monitor, self.limits)
        self.tasks = SqliteTaskStore(self.root / "tasks.sqlite")
        self.files = FileOutputs(self.root / "outputs")
        self.outputs = SettledOutputs(self.files, self.blobs, self.tasks.database, self.clock)

    async def close(self) -> None:
        await self.outputs.close()
        await self.tasks.close()
        await self.blobs.close()

    async def settle(self) -> int:
        return await self.outputs.settle(nothing_goes_on)

    async def stored(self) -> list[tuple[int, int]]:
        """Return (blobs, bytes) of each namespace there is."""
        return [(count, size_bytes) for _, count, size_bytes in await self.blobs.upkeep.count_blobs()]

    def names(self) -> set[str]:
        """Return the files and directories below `outputs`."""
        return {path.name for path in (self.root / "outputs").rglob("*")}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    await site.open()
    yield site
    await site.close()


def noise(seed: int, size_bytes: int) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


async def test_every_byte_is_where_it_was(site: Site) -> None:
    large = noise(1, CHUNK_BYTES) * 2 + noise(2, 12_345)
    printed = [b"x", b"line\n" * 30_000, noise(3, 300_000), large[:CHUNK_BYTES], large, b"x"]
    for serial, content in enumerate(printed):
        await site.outputs.append(run(serial), 0, content)
    await site.outputs.append(run(9), 70, b"after a hole")
    printed = [*printed, *[b""] * 3, bytes(70) + b"after a hole"]
    rng = random.Random(4)
    for settles in (True, False):
        for serial, content in enumerate(printed):
            assert await site.outputs.size(run(serial)) == len(content)
            places = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES, len(content) - 1, len(content)]
            for start in (*places, *(rng.randrange(len(content) + 1) for _ in range(3))):
                for length in (0, 1, 1_000, 2 * CHUNK_BYTES):
                    found = await site.outputs.read(run(serial), start, length)
                    assert found == content[start : start + length], (settles, serial, start, length)
        if settles:
            assert await site.settle() == 7
            assert site.names() == set()


async def test_equal_outputs_are_one_blob(site: Site) -> None:
    for serial in range(15):
        await site.outputs.append(run(serial), 0, b"all is well\n" * 1_000)
    assert await site.settle() == 15
    await site.outputs.append(run(16), 0, b"all is well\n" * 1_000)
    assert await site.settle() == 1
    assert await site.stored() == [(1, 12_000)]
    assert await site.outputs.read(run(16), 11_988, 99) == b"all is well\n"


async def test_what_goes_on_or_was_written_to_just_now_stays_a_file(site: Site) -> None:
    for serial in range(3):
        await site.outputs.append(run(serial), 0, b"text")
    assert await site.outputs.settle(lambda run_id: run_id != run(1)) == 1
    assert site.names() == {run(0), run(2), run(0)[:-11]}
    fresh = SettledOutputs(site.files, site.blobs, site.tasks.database, ManualClock(MADE_AT))
    assert await fresh.settle(nothing_goes_on) == 0
    await site.outputs.append(run(0), 4, b" goes on")
    assert await site.settle() == 2
    assert [await site.outputs.read(run(serial), 2, 9) for serial in range(3)] == [b"xt goes o", b"xt", b"xt"]


async def test_a_late_word_keeps_the_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.outputs.append(run(1), 0, b"text")
    remove = site.files.remove

    def remove_late(*found: object) -> None:
        (path,) = (site.root / "outputs").rglob(run(1))
        path.write_bytes(b"text and more")
        remove(*found)  # type: ignore[arg-type]

    with monkeypatch.context() as late:
        late.setattr(site.files, "remove", remove_late)
        await site.settle()
    assert await site.outputs.read(run(1), 0, 99) == b"text and more"
    await site.settle()
    assert (await site.outputs.read(run(1), 0, 99), site.names()) == (b"text and more", set())


def broken(error: Exception) -> Callable[..., object]:
    async def fail(*_: object, **__: object) -> object:
        raise error

    return fail


@pytest.mark.parametrize("place", ["blobs", "compose", "rows", "files"])
async def test_whatever_fails_nothing_is_lost_and_the_next_round_ends_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    printed = {run(1): b"one", run(2): noise(1, CHUNK_BYTES + 1)}
    for run_id, content in printed.items():
        await site.outputs.append(run_id, 0, content)

    def fail(*_: object) -> None:
        raise OSError("killed")

    with monkeypatch.context() as faults:
        match place:
            case "blobs":
                faults.setattr(site.outputs._space, "write", broken(NoSpace("full")))
            case "compose":
                faults.setattr(site.outputs._space, "compose", broken(Unavailable("later")))
            case "rows":
                faults.setattr(site.tasks.database, "write", broken(Unavailable("later")))
            case _:
                faults.setattr(site.files, "remove", fail)
        if place == "blobs":  # no failure of the round: it is tried again
            assert await site.settle() == 0
        else:
            with pytest.raises((Unavailable, OSError)):
                await site.settle()
    await site.close()
    await site.open()  # as after a kill
    for run_id, content in printed.items():
        assert await site.outputs.read(run_id, 0, 2 * CHUNK_BYTES) == content
    await site.settle()
    assert site.names() == set()
    for run_id, content in printed.items():
        assert await site.outputs.read(run_id, 0, 2 * CHUNK_BYTES) == content


async def test_output_goes_with_its_time_and_never_before(site: Site) -> None:
    old, young = run(1), run(2, MADE_AT + 7_200)
    await site.outputs.append(old, 0, noise(1, 1_000))
    await site.settle()
    settled_at = site.clock.now()
    site.clock.advance(7_200)
    await site.outputs.append(young, 0, noise(2, 1_000))
    await site.settle()
    site.clock.advance(10 * LIMITS.kept_s)
    await Janitor(site.blobs, site.clock).run()
    assert await site.outputs.read(young, 0, 9_999) == noise(2, 1_000)
    assert await site.outputs.forget(MADE_AT + 3_600) == 1
    assert (await site.outputs.read(old, 0, 9), await site.outputs.size(old)) == (b"", 0)
    assert await site.stored() == [(2, 2_000)]  # it may be what a younger task printed too
    assert await site.outputs.forget(settled_at + 3_600 + 1) == 1
    await Janitor(site.blobs, site.clock).run()
    assert await site.stored() == [(1, 1_000)]


async def test_uploads_that_want_room_cost_no_output(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.limits = BlobLimits(min_free_bytes=0, max_bytes=2_000)
    await site.open()
    await site.outputs.append(run(1), 0, noise(1, 1_500))
    await site.settle()
    site.clock.advance(2 * LIMITS.kept_s)
    await Janitor(site.blobs, site.clock).make_room(1_500)
    assert await site.outputs.read(run(1), 0, 9_999) == noise(1, 1_500)
    await site.close()


async def test_no_client_can_name_where_output_is(site: Site) -> None:
    await site.outputs.append(run(1), 0, b"a secret slipped out")
    await site.settle()
    with pytest.raises(InvalidNamespace):
        Namespace.parse(OUTPUT_SPACE.name)
    common = site.blobs.namespace(Namespace.parse("blake3-zstd"))
    blob = OUTPUT_SPACE.blob(b"a secret slipped out")
    assert await common.missing([blob]) == [blob]


async def test_it_is_checked_and_indexed_anew_like_all_blobs(site: Site) -> None:
    printed = noise(1, CHUNK_BYTES + 1)
    await site.outputs.append(run(1), 0, printed)
    await site.settle()
    checked = await Check(site.blobs, site.root, print, 1.0, random.Random(1), site.clock.now()).run()
    assert checked.problems == 0
    await site.close()
    rebuilt = await Rebuild(site.root, site.clock, print).run()
    assert rebuilt.bad_ranges == 0
    await site.open()
    assert await site.outputs.read(run(1), 0, 2 * CHUNK_BYTES) == printed


async def test_damaged_output_is_told_of(site: Site) -> None:
    await site.outputs.append(run(1), 0, noise(1, 1_000))
    await site.settle()
    (pack,) = site.root.rglob("*.pack")
    content = bytearray(pack.read_bytes())
    content[-500] ^= 1
    pack.write_bytes(content)
    with pytest.raises(OutputLost, match="was damaged"):
        await site.outputs.read(run(1), 0, 9)
    assert await site.outputs.size(run(1)) == 1_000


@pytest.mark.parametrize("size_bytes", [1_000, CHUNK_BYTES + 1])
async def test_check_names_output_that_is_gone_as_often_as_it_is_asked(site: Site, size_bytes: int) -> None:
    said: list[str] = []

    async def checked() -> Checked:
        check = Check(site.blobs, site.root, said.append, 1.0, random.Random(1), site.clock.now())
        await check.run()
        return await check.outputs(site.tasks.database)

    await site.outputs.append(run(1), 0, noise(1, size_bytes))
    await site.settle()
    assert ((await checked()).problems, said) == (0, [])
    (pack,) = site.root.rglob("*.pack")
    content = bytearray(pack.read_bytes())
    content[500] ^= 1
    pack.write_bytes(content)
    assert (found := await checked()).bad_records == found.lost_outputs == 1
    again = await checked()
    assert (again.bad_records, again.lost_outputs) == (0, 1)
    assert said[-1].startswith(f"What run {run(1)} printed is gone")
    site.clock.advance(7_200)
    await site.outputs.forget(site.clock.now())
    assert (await checked()).lost_outputs == 0


async def full_site(root: Path, max_bytes: int) -> Site:
    site = Site(root)
    site.limits = BlobLimits(min_free_bytes=0, max_bytes=max_bytes)
    await site.open()
    return site


async def test_what_does_not_fit_keeps_back_nothing_that_does(tmp_path: Path) -> None:
    site = await full_site(tmp_path, 2 << 20)
    printed = {run(0): noise(0, 6_000_000), run(30): noise(30, 3_000_000)}
    printed |= {run(serial): noise(serial, 100) for serial in range(1, 21)}
    for run_id, content in printed.items():
        await site.outputs.append(run_id, 0, content)
    assert await site.settle() == 20
    assert site.names() == {run(0), run(30), run(0)[:-11]}
    assert await site.stored() == [(20, 2_000)]  # no chunk of what did not fit
    for run_id, content in printed.items():
        assert await site.outputs.read(run_id, 0, 1 << 30) == content
    problems = site.monitor.problems
    assert len(problems) == 1
    assert "does not fit and stays a file" in str(problems[0])
    assert "2.0 MiB" in str(problems[0])
    await site.close()


async def test_what_does_not_fit_is_tried_again_after_growing_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await full_site(tmp_path, 1_000)
    await site.outputs.append(run(0), 0, noise(0, 5_000))
    tried_s: list[float] = []
    settle_one = site.outputs._settle

    async def noted(batch: Sequence[Quiet]) -> None:
        tried_s.append(site.clock.monotonic() - started_s)
        await settle_one(batch)

    monkeypatch.setattr(site.outputs, "_settle", noted)
    started_s = site.clock.monotonic()
    for _ in range(1_200):
        assert await site.settle() == 0
        site.clock.advance(15.0)
    pauses_s = [later - before for before, later in pairwise(tried_s)]
    assert pauses_s[:8] == [60.0, 120.0, 240.0, 480.0, 960.0, 1_920.0, 3_600.0, 3_600.0]
    assert len(site.monitor.problems) == 1
    site.blobs.limits = LIMITS
    site.clock.advance(3_600)
    assert await site.settle() == 1
    assert await site.outputs.read(run(0), 0, 9_999) == noise(0, 5_000)
    site.blobs.limits = BlobLimits(min_free_bytes=0, max_bytes=1_000)
    await site.outputs.append(run(1), 0, noise(1, 5_000))
    assert await site.settle() == 0
    assert len(site.monitor.problems) == 2  # another shortage
    await site.close()


async def test_text_that_fits_when_it_is_packed_is_stored(tmp_path: Path) -> None:
    site = await full_site(tmp_path, 1 << 20)
    await site.outputs.append(run(0), 0, b"a line of a log\n" * 500_000)
    assert await site.settle() == 1
    assert site.names() == set()
    await site.close()


async def test_a_full_store_costs_a_bounded_number_of_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = await full_site(tmp_path, 10)
    for serial in range(200):
        await site.outputs.append(run(serial), 0, noise(serial, 50))
    tries = 0

    async def refused(_: object) -> None:
        nonlocal tries
        tries += 1
        raise NoSpace("full")

    monkeypatch.setattr(site.outputs, "_settle", refused)
    assert (await site.settle(), tries) == (0, module.REFUSALS)
    assert (await site.settle(), tries) == (0, module.REFUSALS)
    assert len(site.names()) == 201
    await site.close()


async def test_many_rows_are_forgotten_in_small_steps(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FORGOTTEN_ROWS", 10)
    for serial in range(25):
        await site.outputs.append(run(serial), 0, b"text")
    await site.settle()
    assert await site.outputs.forget(MADE_AT + 1) == 25
    database = sqlite3.connect(site.root / "tasks.sqlite")
    assert database.execute("SELECT COUNT(*) FROM outputs").fetchone() == (0,)
    database.close()
