"""Values with a meaning to the server, reported by real bots; and what a bot does when its machine is ill."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.flow.bots import API, bot_info, dimensions_of, give, result, running_bot, state_of, submit
from tests.flow.servers import ServerProcess


def test_a_bot_that_leaves_soon_takes_only_what_ends_before(server: ServerProcess, tmp_path: Path) -> None:
    give(server, "import time\ndef get_state(bot): return {'lease_expiration_ts': time.time() + 1000}")
    with running_bot(server, tmp_path / "leaving", "bot-1") as bot:
        long = submit(server, ["true"], execution_timeout_secs=900)  # 900 + 3 * 30 + 300 is too much
        short = submit(server, ["true"], execution_timeout_secs=60)
        bot.expect("exit code 0")
        assert [result(server, task)["state"] for task in (long, short)] == ["PENDING", "COMPLETED"]
        status, reply = server.call("POST", f"{API}/bot/bot-1/terminate", {})
        assert status == 200  # leaving is always possible
        assert bot.wait() == 0
        assert result(server, reply["task_id"])["state"] == "COMPLETED"


@pytest.mark.parametrize(
    ("hook", "reason"),
    [
        (
            "def get_state(bot): return {'periodic_reboot_secs': 1, 'running_time': 100.0}",
            "Periodic reboot: running longer than",
        ),
        ("def setup_bot(bot): return False", "setup_bot() has changed something that needs a reboot"),
    ],
)
def test_a_machine_is_rebooted_when_it_ran_for_long_or_was_set_up(
    server: ServerProcess, tmp_path: Path, hook: str, reason: str
) -> None:
    flag = tmp_path / "rebooted"
    give(server, hook)
    with running_bot(server, tmp_path / "bot", "bot-1", "--reboot-command", f"touch {flag}") as bot:
        bot.expect(f"asks for a reboot of this machine: {reason}")
        bot.signal()
        assert bot.wait() == 0
        assert flag.exists()


def test_a_machine_that_may_not_be_rebooted_is_out_of_service(server: ServerProcess, tmp_path: Path) -> None:
    give(server, "asked = False\ndef on_handshake(bot): bot.host_reboot('new driver')")
    with running_bot(server, tmp_path / "bot", "bot-1") as bot:
        bot.expect("asks for a reboot of this machine: new driver")
        bot.expect("The server keeps this bot in quarantine")
        assert "may not reboot its machine; it was asked to: new driver" in state_of(server)["quarantined"]


def test_a_dimension_or_a_state_quarantines(server: ServerProcess, tmp_path: Path) -> None:
    give(server, "def get_dimensions(bot): return {**bot.dimensions, 'quarantined': ['1']}")
    with running_bot(server, tmp_path / "bot", "bot-1") as bot:
        bot.expect("The server keeps this bot in quarantine")
        assert bot_info(server)["quarantined"] is True
    give(server, "def get_state(bot): return {'quarantined': 'a fan is broken'}")
    with running_bot(server, tmp_path / "bot", "bot-1") as bot:
        bot.expect("The server keeps this bot in quarantine")
        assert state_of(server)["quarantined"] == "a fan is broken"


def test_a_bot_in_maintenance_gets_no_task_until_it_is_over(server: ServerProcess, tmp_path: Path) -> None:
    flag = tmp_path / "over"
    source = f"over = lambda: os.path.exists({str(flag)!r})\nimport os\n"
    source += "def get_state(bot): return {} if over() else {'maintenance': 'new OS'}"
    give(server, source)
    with running_bot(server, tmp_path / "bot", "bot-1") as bot:
        task = submit(server, ["true"])
        bot.expect("The server keeps this bot in quarantine")
        assert bot_info(server)["maintenance_msg"] == "new OS"
        assert result(server, task)["state"] == "PENDING"
        flag.touch()
        bot.expect("exit code 0")
        assert result(server, task)["state"] == "COMPLETED"


def test_what_an_hour_costs_is_what_the_hook_says(server: ServerProcess, tmp_path: Path) -> None:
    give(server, "def get_state(bot): return {'cost_usd_hour': 3600000.0}")
    with running_bot(server, tmp_path / "bot", "bot-1", "--cost-usd-hour", "0.1") as bot:
        task = submit(server, ["true"])
        bot.expect("exit code 0")
        assert result(server, task)["costs_usd"][0] > 1  # a millisecond costs a dollar


def test_dimensions_of_a_hook_are_matched(server: ServerProcess, tmp_path: Path) -> None:
    give(server, "def get_dimensions(bot): return {**bot.dimensions, 'colour': ['red', 'blue'], 'id': ['other']}")
    with running_bot(server, tmp_path / "bot", "bot-1") as bot:
        submit(server, ["true"], dimensions={"colour": "blue"})
        bot.expect("exit code 0")
        assert dimensions_of(server)["colour"] == ["red", "blue"]
        assert dimensions_of(server)["id"] == ["bot-1"]  # which is nobody else's


def test_a_machine_without_space_is_out_of_service(server: ServerProcess, tmp_path: Path) -> None:
    """Settings that no disk can meet; those of the next file can."""
    give(server, "def get_settings(bot): return {'free_partition': {'bot': {'min_percent': 101}}}")
    with running_bot(server, tmp_path / "bot", "bot-1") as bot:
        task = submit(server, ["true"])
        bot.expect("The server keeps this bot in quarantine")
        assert state_of(server)["quarantined"].startswith("Not enough free disk space on ")
        give(server, "def get_settings(bot): return {}")
        bot.expect("exit code 0")
        assert result(server, task)["state"] == "COMPLETED"


def test_a_directory_that_broke_and_was_repaired(server: ServerProcess, tmp_path: Path) -> None:
    """The bot is ill while a file stands where its cache should be, and well again without being told."""
    cache = tmp_path / "bot" / "isolated_cache"
    with running_bot(server, tmp_path / "bot", "bot-1") as bot:
        submit(server, ["true"])
        bot.expect("exit code 0")
        bot.signal(signal.SIGSTOP)  # it must not look in between
        shutil.rmtree(cache)
        cache.touch()
        bot.signal(signal.SIGCONT)
        give(server, "")  # ends its long poll, and so the wait for the next look
        bot.expect("The server keeps this bot in quarantine")
        assert state_of(server)["quarantined"] == f"Cannot write to {cache}: File exists"
        cache.unlink()
        task = submit(server, ["true"])
        bot.expect("exit code 0")
        assert result(server, task)["state"] == "COMPLETED"
        assert cache.is_dir()
