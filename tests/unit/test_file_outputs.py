"""Outputs in files."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from isolate.errors import InvalidInput, NoSpace, Unavailable
from server.stores import outputs as module
from server.stores.outputs import FileOutputs
from swarming import ids
from swarming.store import MAX_OUTPUT_BYTES
from tests.tasks import MemoryOutputs

RUN, OTHER = "65e8b6f0004b3911", "65e8b6f0004b3912"


@pytest.fixture
async def outputs(tmp_path: Path) -> AsyncIterator[FileOutputs]:
    opened = FileOutputs(tmp_path / "outputs")
    yield opened
    await opened.close()


@pytest.mark.parametrize("kind", ["memory", "files"])
async def test_bytes_go_where_they_belong(kind: str, outputs: FileOutputs) -> None:
    store = outputs if kind == "files" else MemoryOutputs()
    assert (await store.read(RUN, 0, 10), await store.size(RUN)) == (b"", 0)
    await store.append(RUN, 0, b"abc")
    await store.append(RUN, 6, b"gh")
    await store.append(RUN, 0, b"abc")
    assert await store.read(RUN, 0, 100) == b"abc\0\0\0gh"
    assert await store.read(RUN, 2, 3) == b"c\0\0"
    assert await store.read(RUN, 7, 0) == b""
    assert await store.read(RUN, 8, 5) == b""
    assert (await store.size(RUN), await store.size(OTHER)) == (8, 0)


async def test_many_appends_at_once_are_all_there(outputs: FileOutputs) -> None:
    runs = [f"65e8b6f{number:07x}11" for number in range(50)]
    await asyncio.gather(*(outputs.append(run, 4 * part, b"%04d" % part) for run in runs for part in range(10)))
    for run in runs:
        assert await outputs.read(run, 0, 100) == b"".join(b"%04d" % part for part in range(10))


async def test_what_is_too_much_is_dropped(outputs: FileOutputs) -> None:
    await outputs.append(RUN, MAX_OUTPUT_BYTES - 2, b"abcd")
    await outputs.append(RUN, MAX_OUTPUT_BYTES, b"x")
    await outputs.append(RUN, MAX_OUTPUT_BYTES + 5, b"x")
    assert await outputs.size(RUN) == MAX_OUTPUT_BYTES
    assert await outputs.read(RUN, MAX_OUTPUT_BYTES - 3, 10) == b"\0ab"


async def test_output_survives_the_process_that_took_it(outputs: FileOutputs, tmp_path: Path) -> None:
    await outputs.append(RUN, 0, b"kept")
    again = FileOutputs(tmp_path / "outputs")
    assert await again.read(RUN, 0, 10) == b"kept"
    await again.close()


@pytest.mark.parametrize("run_id", ["../../etc/passwd", "", "65e8b6f0004b3911/../x", "65E8B6F0004B3911"])
async def test_only_ids_become_paths(outputs: FileOutputs, run_id: str) -> None:
    with pytest.raises(InvalidInput):
        await outputs.append(run_id, 0, b"x")
    with pytest.raises(InvalidInput):
        await outputs.read(run_id, 0, 1)


@pytest.mark.parametrize(
    ("code", "error"), [(errno.ENOSPC, NoSpace), (errno.EDQUOT, NoSpace), (errno.EIO, Unavailable)]
)
@pytest.mark.parametrize("call", ["open", "pwrite", "fsync"])
async def test_a_disk_that_fails_is_an_answer(
    outputs: FileOutputs, monkeypatch: pytest.MonkeyPatch, call: str, code: int, error: type[Exception]
) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, "broken")

    with monkeypatch.context() as broken:
        broken.setattr(os, call, fail)
        with pytest.raises(error):
            await outputs.append(RUN, 0, b"lost")
    await outputs.append(RUN, 0, b"kept")
    assert await outputs.read(RUN, 0, 10) == b"kept"


async def test_appends_are_synced_before_they_are_answered(
    outputs: FileOutputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def recording(file: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{file}")).name)
        fsync(file)

    monkeypatch.setattr(os, "fsync", recording)
    await outputs.append(RUN, 0, b"a")
    assert synced == [RUN, RUN[:-11], "outputs"]
    synced.clear()
    await outputs.append(RUN, 1, b"b")
    assert synced == [RUN]


async def test_too_much_that_waits_is_refused(outputs: FileOutputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 10)
    results = await asyncio.gather(
        outputs.append(RUN, 0, b"x" * 50), outputs.append(OTHER, 0, b"x"), return_exceptions=True
    )
    assert results[0] is None
    assert isinstance(results[1], Unavailable)
    await outputs.append(OTHER, 0, b"x")


async def test_a_closed_store_takes_nothing(outputs: FileOutputs) -> None:
    await outputs.close()
    with pytest.raises(Unavailable):
        await outputs.append(RUN, 0, b"x")


async def test_old_output_goes_directory_by_directory(tmp_path: Path) -> None:
    outputs = FileOutputs(tmp_path / "outputs")
    try:
        old, young = (ids.pack(ids.number(at, 7), 1) for at in (1_700_000_000.0, 1_700_010_000.0))
        for run_id in (old, young):
            await outputs.append(run_id, 0, b"text")
        assert await outputs.forget(1_700_000_000.0) == 0
        assert await outputs.forget(1_700_005_000.0) == 1
        assert await outputs.read(old, 0, 10) == b""
        assert await outputs.read(young, 0, 10) == b"text"
    finally:
        await outputs.close()
