"""The guard of a version on trial, with real processes: the versions are scripts that play a bot."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from swarming.bot import slots
from swarming.bot.guard import SHORT_S, TOO_MANY, Deaths
from tests.clock import ManualClock
from tests.loopback import serving, unused_url
from tests.processes import is_running

OLD, NEW, NEXT = "old", "new", "next"
# The way back starts `sys.executable`, which here is a script that says so.
DRIVER = """
import sys
from pathlib import Path
from swarming.bot.guard import Guard
folder, server, silent_s, pause_s = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
sys.executable = str(folder / "old" / "bin" / "python")
Guard(folder, "new", server, ["run", "--id", "b"], silent_s=silent_s, pauses_s=(pause_s,) * 4).run()
"""
# Descriptor and guard are the last two words.
PRELUDE = '#!/bin/sh\neval "fd=\\${$(($# - 1))}"\nsay() { echo "$*" >&"$fd"; }\n'


class Slots:
    """A folder with versions, and a guard that runs them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.server, self.silent_s = folder, unused_url(), 60.0
        self.pause_s = 0.0
        self.play(OLD, 'echo "old runs: $*"')
        (folder / "current").symlink_to(OLD)

    def play(self, version: str, script: str) -> None:
        python = self.folder / version / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text((PRELUDE if version != OLD else "#!/bin/sh\n") + script)
        python.chmod(0o755)

    def start(self) -> subprocess.Popen[str]:
        arguments = [str(self.folder), self.server, str(self.silent_s), str(self.pause_s)]
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self) -> tuple[int, str, str]:
        process = self.start()
        said, told = process.communicate(timeout=60)
        return process.returncode, said, told

    @property
    def current(self) -> str:
        return os.readlink(self.folder / "current")


@pytest.fixture
def versions(tmp_path: Path) -> Slots:
    return Slots(tmp_path)


def test_a_version_that_works_stays(versions: Slots) -> None:
    versions.play(NEW, "say heard\nsay works\nsay done\nexit 7")
    assert versions.run() == (7, "", "swarming-bot: Version new works and stays\n")
    assert versions.current == NEW
    assert os.readlink(versions.folder / "previous") == OLD
    assert slots.refusal(versions.folder) is None


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 3", "status 3"),
        ("say heard\nexit 0", "status 0"),
        ("say heard\nkill -9 $$", "signal 9"),
    ],
)
def test_a_version_that_ends_before_it_worked_is_given_up(versions: Slots, script: str, reason: str) -> None:
    versions.play(NEW, script)
    status, said, told = versions.run()
    assert (status, said) == (0, "old runs: -P -m swarming.bot.cli run --id b\n")
    text = f"Version new does not work here, back to the one before: it ended with {reason}"
    assert text in told
    assert versions.current == OLD
    found = slots.refusal(versions.folder)
    assert found is not None
    assert found.version == NEW
    assert found.reason.startswith(text)


def test_a_version_that_cannot_be_started_is_given_up(versions: Slots) -> None:
    status, said, told = versions.run()
    assert (status, said.partition(":")[0]) == (0, "old runs")
    assert "it cannot be started: No such file or directory" in told


def test_an_end_that_somebody_wanted_is_no_fault(versions: Slots) -> None:
    versions.play(NEW, "say heard\nsay done\nexit 1")
    assert versions.run() == (1, "", "")
    assert versions.current == OLD
    assert slots.refusal(versions.folder) is None


def test_a_version_that_dies_after_it_was_chosen_is_started_again(versions: Slots) -> None:
    once = versions.folder / "once"
    versions.play(NEW, f"test -e {once} && say done && exit 0\ntouch {once}\nsay works\nkill -9 $$")
    status, said, told = versions.run()
    assert (status, said) == (0, "")
    assert "Version new ended with signal 9, starting it again in 0 s" in told
    assert versions.current == NEW
    assert slots.refusal(versions.folder) is None


def test_a_chosen_version_that_dies_again_and_again_gives_way_to_the_one_before(versions: Slots) -> None:
    lives = versions.folder / "lives"
    versions.play(NEW, f"echo x >> {lives}\nsay works\nexit 3")
    status, said, told = versions.run()
    assert (status, said) == (0, "old runs: -P -m swarming.bot.cli run --id b\n")
    assert lives.read_text().count("x") == TOO_MANY
    text = "Version new does not work here, back to the one before: it worked, and then died too often, at last with "
    assert f"{text}status 3" in told
    assert versions.current == OLD
    assert not (versions.folder / "previous").is_symlink()
    found = slots.refusal(versions.folder)
    assert found is not None
    assert found.version == NEW


def test_without_a_version_before_the_one_that_dies_is_kept_alive(versions: Slots) -> None:
    lives = versions.folder / "lives"
    (versions.folder / "current").unlink()
    enough = f"test $(wc -l < {lives}) -gt {2 * TOO_MANY} && say done && exit 0"
    versions.play(NEW, f"echo x >> {lives}\n{enough}\nsay works\nexit 3")
    assert versions.run()[:2] == (0, "")
    assert versions.current == NEW


def test_a_signal_ends_the_pause_before_a_start(versions: Slots) -> None:
    versions.pause_s = 1000.0
    versions.play(NEW, "say works\nexit 3")
    process = versions.start()
    assert process.stderr is not None
    assert "works and stays" in process.stderr.readline()
    assert "starting it again in 1000 s" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 3
    process.communicate()


def test_deaths_are_counted_as_long_as_they_are_recent() -> None:
    clock, deaths = ManualClock(), Deaths()
    pauses_s = []
    for _ in range(6):
        deaths.add(clock.monotonic())
        pauses_s.append(deaths.pause_s)
        clock.advance(10)
    assert pauses_s == [1, 10, 60, 300, 300, 300]
    assert deaths.are_too_many
    clock.advance(SHORT_S)
    for _ in range(2 * TOO_MANY):
        deaths.add(clock.monotonic())
        assert (deaths.pause_s, deaths.are_too_many) == (1, False)
        clock.advance(SHORT_S)


def test_a_restart_while_on_trial_is_another_try(versions: Slots) -> None:
    once = versions.folder / "once"
    versions.play(NEW, f"test -e {once} && say works && say done && exit 0\ntouch {once}\nsay again\nexit 0")
    assert versions.run()[0] == 0
    assert versions.current == NEW


def test_a_restart_after_it_worked_keeps_the_guard(versions: Slots) -> None:
    once = versions.folder / "once"
    versions.play(NEW, f"test -e {once} && say done && exit 0\ntouch {once}\nsay works\nsay again\nexit 0")
    assert versions.run() == (0, "", "swarming-bot: Version new works and stays\n")
    assert versions.current == NEW


def test_the_next_version_is_guarded_by_the_one_that_worked(versions: Slots) -> None:
    script = 'test "$3" = swarming.bot.guard && echo "guard: $*" && exit 0\nsay works\nsay become next\nexit 0'
    versions.play(NEW, script)
    expected = f"guard: -P -m swarming.bot.guard {versions.folder} next {versions.server} run --id b\n"
    assert versions.run()[:2] == (0, expected)


def test_another_version_may_come_before_one_has_worked(versions: Slots) -> None:
    versions.play(NEW, "say become next\nexit 0")
    versions.play(NEXT, "say works\nsay done\nexit 0")
    assert versions.run()[0] == 0
    assert versions.current == NEXT


async def test_a_version_that_hears_nothing_of_a_server_that_is_there_is_given_up(versions: Slots) -> None:
    async def ping(_: web.Request) -> web.Response:
        return web.Response(text="Server up")

    versions.play(NEW, "exec sleep 1000")
    versions.silent_s = 0.2
    async with serving([web.get(slots.PING, ping)]) as url:
        versions.server = url
        status, said, told = await asyncio.to_thread(versions.run)
    assert (status, said.partition(":")[0]) == (0, "old runs")
    assert "it heard nothing of the server for 0.2 s" in told


@pytest.fixture
def waiting(versions: Slots) -> Iterator[tuple[Slots, subprocess.Popen[str], int]]:
    """A guard whose candidate waits for the end, and the candidate."""
    versions.play(NEW, "trap 'say done; exit 5' TERM\necho $$\nwhile :; do sleep 0.05; done")
    process = versions.start()
    assert process.stdout is not None
    child = int(process.stdout.readline())
    yield versions, process, child
    process.kill()
    process.communicate()


def test_a_server_that_is_away_is_no_fault_of_a_version(versions: Slots) -> None:
    versions.silent_s = 0.05
    versions.play(NEW, "sleep 1\nsay works\nsay done\nexit 0")  # many times as long
    assert versions.run()[0] == 0
    assert versions.current == NEW


def test_signals_are_for_the_bot(waiting: tuple[Slots, subprocess.Popen[str], int]) -> None:
    versions, process, child = waiting
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 5
    assert not is_running(child)
    assert versions.current == OLD


def test_a_refusal_survives_what_may_be_in_its_file(tmp_path: Path) -> None:
    for text in ("", "{", "[]", json.dumps({"version": "x"})):
        (tmp_path / "refused.json").write_text(text)
        assert slots.refusal(tmp_path) is None
    told = slots.Refusal("v", "no äöü", is_told=True)
    slots.refuse(tmp_path, told)
    assert slots.refusal(tmp_path) == told
    assert [path.name for path in tmp_path.iterdir()] == ["refused.json"]
