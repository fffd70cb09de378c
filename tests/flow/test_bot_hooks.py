"""Hooks with real processes: an administrator gives `bot_config.py` to the server, and bots do what it says."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarming.bot.runner import NICE
from tests.flow.bots import API, EVENT_S, bot_info, dimensions_of, give, result, running_bot, state_of, stdout, submit
from tests.flow.servers import ServerProcess, running_server

QUICK = ("--hook-timeout", "1")
# Tells a FIFO about every hook but those of every poll, with a counter that only a surviving process can have.
RECORDER = """
import json
count = 0

def record(*what):
    global count
    count += 1
    with open({fifo!r}, "w") as fifo:
        fifo.write(json.dumps([count, *what]) + "\\n")

def setup_bot(bot): record("setup_bot", bot.id)
def on_bot_startup(bot): record("on_bot_startup", bot.server)
def on_handshake(bot): record("on_handshake", bool(bot.server_version))
def on_bot_shutdown(bot): record("on_bot_shutdown", bot.base_dir)
def on_before_task(bot, bot_file, runner_cmd, runner_env):
    with open(bot_file, "w") as file:
        json.dump({{"device": "d1"}}, file)
    runner_env["FROM_HOOK"] = "yes"
    record("on_before_task")
def on_after_task(bot, failure, internal_failure, dimensions, summary):
    record("on_after_task", failure, internal_failure, dimensions["pool"], summary["exit_code"])
"""


class Knocks:
    """A FIFO into which hooks write lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._end = os.open(path, os.O_RDWR)  # always open, so no line is lost between two writers

    def wait(self) -> str:
        """Return the next line."""
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._end], [], [], EVENT_S)
            assert ready, "no hook came"
            line += os.read(self._end, 1)
        return line.decode().rstrip()

    def until(self, name: str) -> list[list[Any]]:
        """Return what was recorded, up to the hook `name`."""
        seen: list[list[Any]] = []
        while not seen or seen[-1][1] != name:
            seen.append(json.loads(self.wait()))
        return seen

    def close(self) -> None:
        os.close(self._end)


@pytest.fixture
def knocks(tmp_path: Path) -> Iterator[Knocks]:
    made = Knocks(tmp_path / "knocks")
    yield made
    made.close()


def test_every_hook_of_a_life_is_called_in_one_process(server: ServerProcess, tmp_path: Path, knocks: Knocks) -> None:
    give(server, RECORDER.format(fifo=str(knocks.path)))
    with running_bot(server, tmp_path / "bot", "bot-1") as bot:
        started = knocks.until("on_handshake")
        code = "import json, os, sys; print(os.environ['FROM_HOOK'], json.load(open(sys.argv[1])))"
        task = submit(server, [sys.executable, "-c", code, "${SWARMING_BOT_FILE}"])
        during = knocks.until("on_after_task")
        bot.expect("exit code 0")
        assert stdout(server, task) == "yes {'device': 'd1'}\n"
        bot.signal()
        ended = knocks.until("on_bot_shutdown")
        assert bot.wait() == 0
    assert started == [[1, "setup_bot", "bot-1"], [2, "on_bot_startup", server.url], [3, "on_handshake", True]]
    assert during == [[4, "on_before_task"], [5, "on_after_task", False, False, ["default"], 0]]
    assert ended == [[6, "on_bot_shutdown", str(bot.directory)]]


def test_hooks_around_a_poll_and_while_idle(server: ServerProcess, tmp_path: Path, knocks: Knocks) -> None:
    source = f"def tell(*what): open({str(knocks.path)!r}, 'w').write(repr(what) + chr(10))\n"
    source += "def get_state(bot): return {'maintenance': 'so that a poll does not wait'}\n"
    source += "def on_before_poll(bot): tell('before')\ndef on_after_poll(bot, cmd): tell('after', cmd)\n"
    source += "def on_bot_idle(bot, since_last_action): tell('idle', since_last_action >= 0)"
    give(server, source)
    with running_bot(server, tmp_path / "bot", "bot-1"):
        assert [knocks.wait() for _ in range(4)] == [
            "('before',)",
            "('after', 'sleep')",
            "('idle', True)",
            "('before',)",
        ]


def test_a_machine_that_is_set_up_elsewhere_is_left_alone(
    server: ServerProcess, tmp_path: Path, knocks: Knocks
) -> None:
    give(server, RECORDER.format(fifo=str(knocks.path)))
    with running_bot(server, tmp_path / "bot", "bot-1", env={"SWARMING_EXTERNAL_BOT_SETUP": "1"}):
        assert [name for _, name, *_ in knocks.until("on_handshake")] == ["on_bot_startup", "on_handshake"]


def test_a_hook_may_change_how_the_runner_is_started(server: ServerProcess, tmp_path: Path) -> None:
    give(server, "def on_before_task(bot, bot_file, runner_cmd, runner_env): runner_cmd[:0] = ['nice', '-n', '7']")
    with running_bot(server, tmp_path / "bot", "bot-1") as bot:
        task = submit(server, [sys.executable, "-c", "import os; print(os.nice(0))"])
        bot.expect("exit code 0")
        assert stdout(server, task) == f"{min(19, os.nice(0) + 7 + NICE)}\n"


def test_a_hook_that_breaks_the_runner_fails_one_task_and_not_all(server: ServerProcess, tmp_path: Path) -> None:
    give(server, "def on_before_task(bot, bot_file, cmd, env): cmd[:] = ['/nonexistent']")
    with running_bot(server, tmp_path / "bot", "bot-1") as bot:
        task = submit(server, ["true"])
        bot.expect("The server keeps this bot in quarantine")
        assert result(server, task)["state"] == "BOT_DIED"
        reason = "a command that cannot be started (No such file or directory): /nonexistent"
        assert state_of(server)["quarantined"] == f"Hook on_before_task() returned {reason}"


def test_other_hooks_start_bots_again(server: ServerProcess, tmp_path: Path, knocks: Knocks) -> None:
    """The version of the group's configuration in the state, and the command that comes of a stale one."""
    with running_bot(server, tmp_path / "bot", "bot-1") as bot:
        submit(server, ["true"])
        bot.expect("exit code 0")
        assert state_of(server)["bot_group_cfg_version"] == "default"
        given = give(server, f"def on_handshake(bot): open({str(knocks.path)!r}, 'w').write('new\\n')")
        bot.expect("Restarting: Restarting to pick up new bots.cfg config")
        assert knocks.wait() == "new"
        assert bot.process.poll() is None
        assert given["who"]
        status, reply = server.call("GET", f"{API}/server/get_bot_config")
        assert (status, reply["version"], "on_handshake" in reply["content"]) == (200, given["version"], True)


RAISES = "raise ValueError('no device')"
BROKEN = {
    RAISES: "failed: ValueError: no device",
    "import time; time.sleep(1000)": "hung: it did not return within 1 s",
    "import os; os.kill(os.getpid(), 9)": "ended the process it ran in, with signal 9",
}


@pytest.mark.parametrize(
    ("hook", "body"),
    [
        *(("get_dimensions", body) for body in BROKEN),
        *zip(("get_state", "on_before_poll", "on_bot_startup"), BROKEN, strict=True),
        ("on_handshake", RAISES),
        ("setup_bot", RAISES),
    ],
)
def test_a_hook_that_fails_quarantines_the_bot(server: ServerProcess, tmp_path: Path, hook: str, body: str) -> None:
    give(server, f"def {hook}(bot):\n    {body}")
    with running_bot(server, tmp_path / "bot", "bot-1", *QUICK) as bot:
        problem = f"Hook {hook}() {BROKEN[body]}"
        bot.expect(problem)
        bot.expect("The server keeps this bot in quarantine")
        info = bot_info(server)
        assert info["quarantined"] is True
        assert json.loads(info["state"])["quarantined"] == problem
        assert dimensions_of(server)["id"] == ["bot-1"]


@pytest.mark.parametrize("body", BROKEN)
@pytest.mark.parametrize("hook", ["on_before_task", "on_after_task"])
def test_a_hook_that_fails_loses_no_result(server: ServerProcess, tmp_path: Path, hook: str, body: str) -> None:
    give(server, f"def {hook}(bot, *rest):\n    {body}")
    with running_bot(server, tmp_path / "bot", "bot-1", *QUICK) as bot:
        task = submit(server, ["sh", "-c", "echo done; exit 3"])
        bot.expect(f"Hook {hook}() {BROKEN[body]}")
        bot.expect("The server keeps this bot in quarantine")
        found = result(server, task)
        assert (found["state"], found["exit_code"]) == ("COMPLETED", "3")
        assert stdout(server, task) == "done\n"
        assert bot_info(server)["quarantined"] is True


def test_a_hanging_hook_does_not_stop_the_heartbeat(server: ServerProcess, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    give(server, f"def on_before_task(bot): open({str(fifo)!r}, 'w').write('x')")
    with running_bot(server, tmp_path / "bot", "bot-1") as bot:
        task = submit(server, ["true"])
        bot.expect("started")
        seen = {bot_info(server)["last_seen_ts"]}
        while len(seen) < 3:  # the hook waits for a reader; the bot goes on to report once a second
            seen.add(bot_info(server)["last_seen_ts"])
        assert result(server, task)["state"] == "RUNNING"
        assert fifo.read_text() == "x"
        bot.expect("exit code 0")


def test_a_bot_recovers_with_its_hook(server: ServerProcess, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    give(
        server, f"import os\ndef get_state(bot):\n    assert os.path.exists({str(flag)!r}), 'no flag'\n    return {{}}"
    )
    with running_bot(server, tmp_path / "bot", "bot-1") as bot:
        bot.expect("The server keeps this bot in quarantine")
        flag.touch()
        bot.expect("Hook get_state() works again")
        task = submit(server, ["true"])
        bot.expect("exit code 0")
        assert result(server, task)["state"] == "COMPLETED"


def test_hooks_end_with_a_killed_bot(server: ServerProcess, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    give(server, f"alive = None\ndef on_handshake(bot):\n    global alive\n    alive = open({str(fifo)!r}, 'w')")
    with running_bot(server, tmp_path / "bot", "bot-1") as bot, fifo.open() as reader:
        bot.signal(signal.SIGKILL)
        assert reader.read() == ""  # nobody is left who could write


def test_the_code_is_kept_for_the_next_start_as_long_as_there_is_some(server: ServerProcess, tmp_path: Path) -> None:
    """A bot can say who it is before the server gives it newer code."""
    kept = tmp_path / "bot" / "config" / "bot_config.py"
    give(server, "def get_authentication_headers(bot): return {'X-Who': 'me'}, 4102444800")
    with running_bot(server, tmp_path / "bot", "bot-1") as bot:
        submit(server, ["true"])
        bot.expect("exit code 0")
        assert "X-Who" in kept.read_text()
    give(server, "")
    assert server.call("GET", f"{API}/server/get_bot_config") == (200, {"content": "", "version": "default"})
    with running_bot(server, tmp_path / "bot", "bot-1") as bot:
        submit(server, ["true"])
        bot.expect("exit code 0")
        assert not kept.exists()


def test_a_file_that_is_no_python_is_refused(server: ServerProcess) -> None:
    status, reply = server.call("POST", f"{API}/server/put_bot_config", {"content": "def ("})
    assert (status, reply["error"]["message"]) == (400, "bot_config.py, line 1: invalid syntax")


def test_a_group_of_bots_has_hooks_of_its_own(tmp_path: Path) -> None:
    """They come on top of those for all; other hooks start the bots of the group again, and only them."""
    settings = tmp_path / "data" / "config"
    settings.mkdir(parents=True)
    groups = '[[group]]\nids = ["bot-1"]\nbot_config_script = "gpu.py"\n[[group]]\n'
    (settings / "bots.toml").write_text(groups)
    with running_server(tmp_path / "data") as server:
        give(server, "def get_dimensions(bot): return {**bot.dimensions, 'of': ['all']}\ndef get_state(bot): return {}")
        give(server, "def get_dimensions(bot): return {**bot.dimensions, 'of': ['gpus']}", name="gpu.py")
        with (
            running_bot(server, tmp_path / "one", "bot-1") as one,
            running_bot(server, tmp_path / "two", "bot-2") as two,
        ):
            mine = submit(server, ["true"], dimensions={"of": "gpus"})
            other = submit(server, ["true"], dimensions={"of": "all"})
            one.expect("exit code 0")
            two.expect("exit code 0")
            assert [result(server, task)["bot_id"] for task in (mine, other)] == ["bot-1", "bot-2"]
            give(server, "def get_dimensions(bot): return {**bot.dimensions, 'of': ['more']}", name="gpu.py")
            one.expect("Restarting: Restarting to pick up new bots.cfg config")
            submit(server, ["true"], dimensions={"of": "more"})
            one.expect("exit code 0")
            assert "'more'" in server.call("GET", f"{API}/server/get_bot_config?name=gpu.py")[1]["content"]
            # A bot of 2020 has hooks for all in itself, and puts one script on top.
            state = {"running_time": 1.0, "sleep_streak": 0}
            hello = {"dimensions": {"id": ["bot-1--old"]}, "state": state, "version": "2020"}
            status, reply = server.call("POST", "/swarming/api/v1/bot/handshake", hello)
            assert (status, reply["bot_config_name"], "'more'" in reply["bot_config"]) == (200, "gpu.py", True)
            assert "group_bot_config" not in reply
            assert server.call("GET", f"{API}/server/get_bot_config?name=no")[0] == 400
