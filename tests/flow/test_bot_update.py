"""Bots that came from a server become what the server has: through versions that work and versions that do not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from swarming.bot_archive import write_archive
from swarming.unpack import FOLDER, platform_key
from tests.flow.bots import API, BotProcess, Gate, result, submit
from tests.flow.servers import COMMAND, ServerProcess

BASE = os.path.realpath(sys.executable)  # a Python that knows nothing of this project
KEY = platform_key()
TRIAL_S = 0.5


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an archive, made by the command."""
    data = tmp_path_factory.mktemp("data")
    done = subprocess.run([COMMAND, "bot-archive", "build", "--data", str(data)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{KEY}  ")
    with zipfile.ZipFile(data / "bot_archives" / f"{KEY}.zip") as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def publish(server: ServerProcess, files: Mapping[str, bytes]) -> str:
    folder = server.data_dir / "bot_archives"
    folder.mkdir(exist_ok=True)
    version = write_archive(folder / ".fresh", files)
    (folder / ".fresh").replace(folder / f"{KEY}.zip")
    return version


class BootstrappedBot(BotProcess):
    """A bot that `curl URL/bootstrap | python3` brought up."""

    def __init__(self, server: ServerProcess, directory: Path) -> None:
        directory.mkdir()
        self.directory, self.bot_id, self.said = directory, "bot-1", ""
        _, headers, script = server.raw("GET", "/bootstrap")
        assert headers["Content-Type"].startswith("text/x-python")
        self.process = subprocess.Popen(
            [BASE, "-I", "-", "--id", "bot-1", "--trial-time", str(TRIAL_S)],
            cwd=directory,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": str(directory.parent)},
        )
        assert self.process.stdin is not None
        self.process.stdin.write(script)
        self.process.stdin.close()


@contextmanager
def bootstrapped(server: ServerProcess, directory: Path) -> Iterator[BootstrappedBot]:
    bot = BootstrappedBot(server, directory)
    try:
        bot.expect("Connected as bot-1")
        yield bot
    finally:
        bot.end()


def ran(server: ServerProcess, bot: BotProcess) -> str:
    """Run a task and return the version of the bot that ran it."""
    task = submit(server, [sys.executable, "-c", "import sys; sys.exit('PYTHONPATH' in __import__('os').environ)"])
    bot.expect("exit code 0")
    found = result(server, task)
    assert found["state"] == "COMPLETED"
    return str(found["bot_version"])


def in_use(bot: BotProcess) -> dict[str, str]:
    slots = bot.directory / FOLDER
    return {name: os.readlink(slots / name) for name in ("current", "previous") if (slots / name).is_symlink()}


# Fails the handshake of its trial.
BROKEN_AT_ONCE = {"swarming/bot/portrait.py": b"raise RuntimeError('broken on purpose')\n"}
WORKING = {"swarming/third.py": b'"""New."""\n'}


def broken_later(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return a version that shakes hands, and dies of the first answer to a poll, an offer as it may be."""
    source = files["swarming/bot/protocol.py"]
    head = b"def parse_command(reply: object) -> Command:\n"
    assert head in source
    return {**files, "swarming/bot/protocol.py": source.replace(head, head + b"    import os\n    os._exit(3)\n")}


def broken_after_a_task(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return a version that brings one task to its end, and then dies at once."""
    source = files["swarming/bot/protocol.py"]
    head = b'        every = reply.get("update_every_s")\n'
    assert head in source
    dying = b'        if "duration" in fields:\n            import os\n            os._exit(4)\n'
    return {**files, "swarming/bot/protocol.py": source.replace(head, head + dying)}


def child_of(bot: BotProcess) -> int:
    """Return the process of the version that a guard watches."""
    (child,) = Path(f"/proc/{bot.pid}/task/{bot.pid}/children").read_text().split()
    return int(child)


@pytest.mark.slow
def test_versions_that_work_and_versions_that_do_not(
    server: ServerProcess, tmp_path: Path, archive: dict[str, bytes]
) -> None:
    """Each comes while a task runs, which is not touched by it."""
    first = publish(server, archive)
    gate = Gate(tmp_path / "gate")

    def during_a_task(files: Mapping[str, bytes]) -> str:
        in_flight = submit(server, gate.task())
        gate.wait_for_task()
        version = publish(server, files)
        gate.let_pass()
        gate.wait_for_end()
        bot.expect("exit code 0")
        found = result(server, in_flight)
        assert (found["state"], found["bot_version"]) == ("COMPLETED", first)
        return version

    with bootstrapped(server, tmp_path / "bot") as bot:
        assert ran(server, bot) == first == server.call("GET", f"{API}/server/details")[1]["bot_version"]
        broken = during_a_task({**archive, **BROKEN_AT_ONCE})
        bot.expect(f"Version {broken[:10]} does not work here, this one stays")
        assert ran(server, bot) == first
        assert broken in server.call("GET", f"{API}/bot/bot-1/get")[1]["state"]

        broken = during_a_task(broken_later(archive))
        bot.expect(f"Updating to {broken}")
        waiting = submit(server, ["true"])  # perhaps offered to the version that dies of it
        bot.expect(f"Version {broken[:10]} does not work here, back to the one before: it ended with status 3")
        bot.expect("exit code 0")
        found = result(server, waiting)
        assert (found["state"], found["bot_version"]) == ("COMPLETED", first)
        assert in_use(bot) == {"current": first}
        assert not (bot.directory / FOLDER / broken).exists()
        assert ran(server, bot) == first
        assert broken in server.call("GET", f"{API}/bot/bot-1/get")[1]["state"]

        broken = during_a_task(broken_after_a_task(archive))
        bot.expect(f"Updating to {broken}")
        tasks = [submit(server, ["true"]), submit(server, ["true"])]
        bot.expect(f"Version {broken[:10]} does not work here, back to the one before: it ended with status 4")
        bot.expect("exit code 0")
        assert [result(server, task)["state"] for task in tasks] == ["COMPLETED", "COMPLETED"]
        assert [result(server, task)["bot_version"] for task in tasks] == [broken, first]
        assert in_use(bot) == {"current": first}

        third = during_a_task({**archive, **WORKING})
        bot.expect(f"Updating to {third}")
        bot.expect("Connected as bot-1")
        assert ran(server, bot) == third
        in_flight = submit(server, gate.task(), idempotent=True)
        gate.wait_for_task()
        bot.expect(f"Version {third[:10]} works and stays")
        assert in_use(bot) == {"current": third, "previous": first}
        folders = [entry.name for entry in (bot.directory / FOLDER).iterdir() if entry.name in {first, third, broken}]
        assert sorted(folders) == sorted([first, third])
        # It dies: it is started again at once, which ends its run for the server.
        os.kill(child_of(bot), signal.SIGKILL)
        gate.wait_for_end()
        bot.expect("ended with signal 9, starting it again in 1 s")
        bot.expect("Connected as bot-1")
        assert result(server, in_flight)["state"] == "PENDING"  # for another bot
        assert ran(server, bot) == third
        # The guard of the version goes as the bot goes, and takes it along when it is killed.
        submit(server, gate.task())
        gate.wait_for_task()
        bot.signal(signal.SIGKILL)
        gate.wait_for_end()
    gate.close()


def test_a_platform_without_an_archive_is_named(server: ServerProcess, tmp_path: Path) -> None:
    status, _, body = server.raw("GET", "/bot_code?platform=cp")
    assert (status, json.loads(body)["error"][:32]) == (404, "This server has no bot for cp; i")  # a plain string
    bot = BootstrappedBot(server, tmp_path / "bot")
    try:
        line = bot.expect("has no bot for")
        assert line.startswith("swarming-bot: error: This server has no bot for ")
        assert f"swarming-server bot-archive build --platform {KEY}" in line
        assert bot.wait() == 1
        assert not list(bot.directory.iterdir())
    finally:
        bot.end()


def test_a_bot_that_was_installed_is_left_alone(
    server: ServerProcess, tmp_path: Path, archive: dict[str, bytes]
) -> None:
    publish(server, archive)
    bot = BotProcess(server.url, tmp_path / "bot", "bot-1")
    try:
        bot.expect("Connected as")
        version = ran(server, bot)
        assert version not in {path.name for path in tmp_path.iterdir()}
        assert not (tmp_path / "bot" / FOLDER).exists()
    finally:
        bot.end()
    shutil.rmtree(tmp_path / "bot")
