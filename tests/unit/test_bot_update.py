"""Becoming another version: what is held against it, and what against the moment. Trials are real processes."""

from __future__ import annotations

import asyncio
import errno
import shutil
import zipfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from isolate.errors import InternalFailure, NoSpace, Unavailable
from swarming import unpack
from swarming.bot import slots, update
from swarming.bot.update import PAUSES_S, SLOW_TRIALS, TRIAL_S, Updater
from swarming.bot_archive import write_archive
from tests.clock import ManualClock
from tests.unit.bot_doubles import until

FULL = OSError(errno.ENOSPC, "No space left on device")


class ScriptedHttp:
    """Serves one archive; an exception in the script is raised instead."""

    def __init__(self, archive: bytes) -> None:
        self.archive, self.script = archive, list[Exception]()

    def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[Any]:
        return self._reply()

    @asynccontextmanager
    async def _reply(self) -> AsyncIterator[ScriptedHttp]:
        yield self

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self.archive[:100]
        if self.script:
            raise self.script.pop(0)
        yield self.archive[100:]


class Scene:
    """A bot that is to become a version, whose trial is a program of the test."""

    def __init__(self, tmp_path: Path, program: str) -> None:
        self.folder, self.clock = tmp_path / unpack.FOLDER, ManualClock()
        self.folder.mkdir()
        packages = dict.fromkeys(("swarming/__init__.py", "swarming/bot/__init__.py"), b"")
        file = tmp_path / "archive"
        self.version = write_archive(file, {**packages, "swarming/bot/cli.py": program.encode()})
        self.http = ScriptedHttp(file.read_bytes())
        self.updater = Updater(self.http, self.folder, [], {}, self.clock)

    async def fails(self, reason: str) -> None:
        with pytest.raises(InternalFailure, match=reason):
            await self.updater.update(self.version)
        assert self.updater.chosen is None

    @property
    def left(self) -> list[str]:
        return [entry.name for entry in self.folder.iterdir()]


@pytest.fixture(autouse=True)
def _from_an_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "own_version", lambda: "a" * 64)


@pytest.mark.parametrize("error", [FULL, TimeoutError(), Unavailable("away"), NoSpace("full"), ConnectionResetError()])
async def test_a_bad_moment_passes(tmp_path: Path, error: Exception) -> None:
    scene = Scene(tmp_path, "")
    scene.http.script = [error, error]
    for pause_s in PAUSES_S[:2]:
        assert not scene.updater.refused
        await scene.fails(f"now, trying again in {pause_s:g} s")
        assert scene.updater.refused == scene.version
        assert scene.left == []
        scene.clock.advance(pause_s)
    await scene.updater.update(scene.version)
    assert (scene.updater.refused, scene.updater.chosen) == (None, scene.version)


async def test_a_version_that_does_not_work_is_refused_and_deleted(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "raise SystemExit('broken')")
    await scene.fails("does not work here, this one stays: its trial ended with status 1: broken")
    scene.clock.advance(10 * PAUSES_S[-1])
    assert (scene.updater.refused, scene.left) == (scene.version, [])


async def test_a_trial_may_say_that_it_was_the_moment(tmp_path: Path) -> None:
    scene = Scene(tmp_path, f"raise SystemExit({slots.NOT_NOW})")
    for pause_s in [*PAUSES_S, PAUSES_S[-1]]:
        await scene.fails("now, trying again")
        scene.clock.advance(pause_s)
        assert scene.updater.refused is None


async def test_a_trial_that_takes_too_long_is_repeated_but_not_for_ever(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "import time; time.sleep(1000)")

    async def pass_time() -> None:
        await until(lambda: bool(scene.clock._sleepers))
        scene.clock.advance(TRIAL_S)

    for reason in [*["now, trying again"] * (SLOW_TRIALS - 1), "does not work here"]:
        await asyncio.gather(scene.fails(f"{reason}.* within 120 s"), pass_time())
        scene.clock.advance(PAUSES_S[-1])
    assert scene.updater.refused == scene.version


def test_half_an_archive_does_not_stay(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"no zip")
    folder = tmp_path / "code"
    with pytest.raises(zipfile.BadZipFile):
        unpack.unpack(tmp_path / "archive", folder, "a" * 64)
    assert list(folder.iterdir()) == []


def test_what_would_be_started_is_not_discarded(tmp_path: Path) -> None:
    for letter in "abc":
        (tmp_path / (letter * 64)).mkdir()
    unpack.choose(tmp_path, "a" * 64)
    (tmp_path / ("b" * 64)).mkdir(exist_ok=True)
    for letter in "ab":
        unpack.discard(tmp_path, letter * 64)
    assert [entry.name for entry in tmp_path.iterdir() if not entry.is_symlink()] == ["a" * 64]


def test_half_a_version_has_no_name_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is being deleted, or was when the machine stopped, is not taken for a version."""
    version = "a" * 64
    (tmp_path / version / "lib").mkdir(parents=True)
    names: list[list[str]] = []

    def rmtree(path: Path, **options: Any) -> None:
        names.append([entry.name for entry in tmp_path.iterdir()])
        real(path, **options)

    real = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    unpack.discard(tmp_path, version)
    assert list(tmp_path.iterdir()) == []
    (name,) = names[-1]
    assert name != version  # which `choose` and `unpack` would believe
    (tmp_path / name).mkdir()
    (tmp_path / ".somebody's").mkdir()
    unpack.choose(tmp_path, "b" * 64)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".somebody's", unpack.CURRENT]
