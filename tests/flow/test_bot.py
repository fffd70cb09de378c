"""Real bots on a real server: what a user sees of a task, and what is left when something is killed."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarming.bot.runner import NICE, OOM_SCORE
from tests.flow.bots import API, COMMAND, BotProcess, Gate, result, running_bot, stdout, submit
from tests.flow.servers import ServerProcess, running_server

ESCAPE = """
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1000)
"""
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


@pytest.fixture
def bot(server: ServerProcess, tmp_path: Path) -> Iterator[BotProcess]:
    with running_bot(server, tmp_path / "bot", "bot-1") as process:
        yield process


def test_a_task_runs_and_its_result_comes_back(server: ServerProcess, bot: BotProcess) -> None:
    script = 'echo hello; echo oops >&2; echo made > "$1/made.txt"; exit 3'
    task = submit(server, ["sh", "-c", script, "sh", "${ISOLATED_OUTDIR}"])
    bot.expect("exit code 3")
    found = result(server, task)
    assert (found["state"], found["exit_code"], found["failure"]) == ("COMPLETED", "3", True)
    assert found["bot_id"] == "bot-1"
    assert found["bot_version"] == server.call("GET", f"{API}/server/details")[1]["bot_version"]
    assert stdout(server, task) == "hello\noops\n"
    assert found["outputs_ref"]["namespace"] == "blake3-zstd"
    assert len(found["outputs_ref"]["isolated"]) == 64
    assert found["performance_stats"]["bot_overhead"] > 0


def test_a_task_knows_where_it_runs(server: ServerProcess, bot: BotProcess) -> None:
    code = "import json, os; c = os.environ; print(json.dumps([dict(c), json.load(open(c['LUCI_CONTEXT']))]))"
    task = submit(
        server,
        [sys.executable, "-c", code],
        env=[{"key": "MINE", "value": "x"}],
        secret_bytes=base64.b64encode(b"secret").decode(),
    )
    bot.expect("exit code 0")
    env, context = json.loads(stdout(server, task))
    assert env["SWARMING_HEADLESS"] == "1"
    assert env["SWARMING_BOT_ID"] == "bot-1"
    assert env["SWARMING_SERVER"] == server.url
    assert env["SWARMING_TASK_ID"] == result(server, task)["run_id"]
    assert env["MINE"] == "x"
    assert base64.b64decode(context["swarming"]["secret_bytes"]) == b"secret"
    assert not Path(env["LUCI_CONTEXT"]).exists()


def test_much_output_arrives_byte_for_byte(server: ServerProcess, bot: BotProcess) -> None:
    lines = 60_000
    task = submit(server, [sys.executable, "-c", f"for n in range({lines}): print(f'line {{n}} äöü')"])
    bot.expect("exit code 0")
    assert stdout(server, task) == "".join(f"line {n} äöü\n" for n in range(lines))


def test_killing_the_bot_ends_its_tasks(server: ServerProcess, bot: BotProcess, gate: Gate, tmp_path: Path) -> None:
    submit(server, gate.task(before=STUBBORN + ESCAPE))
    gate.wait_for_task()
    bot.signal(signal.SIGKILL)
    gate.wait_for_end()
    bot.wait()
    left = list((bot.directory / "w").iterdir())
    assert left
    with running_bot(server, bot.directory, "bot-1") as successor:
        assert successor.pid != bot.pid
        assert not any(entry.exists() for entry in left)


def test_the_task_of_a_killed_bot_is_tried_on_another(
    server: ServerProcess, bot: BotProcess, gate: Gate, tmp_path: Path
) -> None:
    task = submit(server, gate.task(), idempotent=True)
    gate.wait_for_task()
    bot.signal(signal.SIGKILL)
    gate.wait_for_end()
    with running_bot(server, bot.directory, "bot-1"), running_bot(server, tmp_path / "other", "bot-2") as other:
        gate.wait_for_task()
        gate.let_pass()
        other.expect("exit code 0")
        found = result(server, task)
        assert (found["state"], found["try_number"], found["bot_id"]) == ("COMPLETED", "2", "bot-2")


def test_killing_the_runner_fails_the_task_and_ends_it(server: ServerProcess, bot: BotProcess, gate: Gate) -> None:
    task = submit(server, gate.task(before="print('last words', flush=True)" + ESCAPE))
    gate.wait_for_task()
    children = Path(f"/proc/{bot.pid}/task/{bot.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    gate.wait_for_end()
    bot.expect("runner ended with signal 9")
    assert result(server, task)["state"] == "BOT_DIED"
    assert "last words" in stdout(server, task)
    again = submit(server, ["true"])
    bot.expect("exit code 0")
    assert result(server, again)["state"] == "COMPLETED"


def test_a_server_that_is_started_again_gets_the_result(tmp_path: Path, gate: Gate) -> None:
    data = tmp_path / "data"
    with running_server(data) as server, running_bot(server, tmp_path / "bot", "bot-1") as bot:
        task = submit(server, gate.task(before="print('before', flush=True)", after="print('after')"))
        gate.wait_for_task()
        server.kill()
        gate.let_pass()
        gate.wait_for_end()
        with running_server(data, port=server.port) as successor:
            bot.expect("exit code 0")
            assert result(successor, task)["state"] == "COMPLETED"
            assert stdout(successor, task) == "before\nafter\n"


def test_a_bot_waits_for_its_server(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server:
        port, url = server.port, server.url
    bot = BotProcess(url, tmp_path / "bot", "bot-1")
    try:
        bot.expect("trying again until it works")
        with running_server(tmp_path / "data", port=port):
            bot.expect("Connected as bot-1")
    finally:
        bot.end()


def test_a_task_that_is_cancelled_is_killed_with_all_it_started(
    server: ServerProcess, bot: BotProcess, gate: Gate
) -> None:
    task = submit(server, gate.task(before="print('hello', flush=True)" + ESCAPE))
    gate.wait_for_task()
    status, reply = server.call("POST", f"{API}/task/{task}/cancel", {"kill_running": True})
    assert (status, reply) == (200, {"ok": True, "was_running": True})
    gate.wait_for_end()
    bot.expect("exit code -15")
    assert result(server, task)["state"] == "KILLED"
    assert stdout(server, task) == "hello\n"


def test_a_stubborn_task_is_killed_when_its_grace_is_over(server: ServerProcess, bot: BotProcess, gate: Gate) -> None:
    task = submit(server, gate.task(before=STUBBORN), grace_period_secs=1)
    gate.wait_for_task()
    server.call("POST", f"{API}/task/{task}/cancel", {"kill_running": True})
    gate.wait_for_end()
    bot.expect("exit code -9")
    assert result(server, task)["state"] == "KILLED"


@pytest.mark.parametrize("limit", ["execution_timeout_secs", "io_timeout_secs"])
def test_a_task_that_takes_too_long_or_is_silent_too_long(
    server: ServerProcess, bot: BotProcess, gate: Gate, limit: str
) -> None:
    limits: dict[str, Any] = {limit: 3}  # more than a Python needs to start on a busy machine and reach the gate
    task = submit(server, gate.task(), **limits)
    gate.wait_for_task()
    gate.wait_for_end()
    bot.expect("exit code -15")
    found = result(server, task)
    assert (found["state"], found["exit_code"], found["failure"]) == ("TIMED_OUT", "-15", True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_the_task_finish(server: ServerProcess, bot: BotProcess, gate: Gate, number: int) -> None:
    task = submit(server, gate.task(after="print('done')"))
    gate.wait_for_task()
    bot.signal(number)
    bot.expect("Ending after the task at hand")
    gate.let_pass()
    assert bot.wait() == 0
    assert result(server, task)["state"] == "COMPLETED"
    assert stdout(server, task) == "done\n"


def test_the_end_of_a_terminal_is_nothing_to_a_bot_under_nohup(
    server: ServerProcess, tmp_path: Path, gate: Gate
) -> None:
    command = ["nohup", COMMAND, "--server", server.url, "--dir", str(tmp_path / "bot"), "--id", "b"]
    bot = BotProcess(server.url, tmp_path / "bot", "b", command=command)
    try:
        bot.expect("Connected as")
        task = submit(server, gate.task())
        gate.wait_for_task()
        bot.signal(signal.SIGHUP)
        bot.signal(signal.SIGTERM)  # after another signal it would end the task
        bot.expect("Ending after the task at hand")
        gate.let_pass()
        assert bot.wait() == 0
        assert result(server, task)["state"] == "COMPLETED"
    finally:
        bot.end()


def test_a_second_signal_ends_the_task(server: ServerProcess, bot: BotProcess, gate: Gate) -> None:
    task = submit(server, gate.task(before=ESCAPE))
    gate.wait_for_task()
    bot.signal(signal.SIGINT)
    bot.expect("Ending after the task at hand")
    bot.signal(signal.SIGINT)
    gate.wait_for_end()
    assert bot.wait() == 0
    assert result(server, task)["state"] == "BOT_DIED"


def test_bots_take_only_what_they_match(server: ServerProcess, tmp_path: Path) -> None:
    flavours = ["sweet", "sour", "bitter"]
    with (
        running_bot(server, tmp_path / "a", "bot-sweet", "--dimension", "flavour", "sweet") as sweet,
        running_bot(server, tmp_path / "b", "bot-sour", "--dimension", "flavour", "sour") as sour,
        running_bot(server, tmp_path / "c", "bot-bitter", "--dimension", "flavour", "bitter") as bitter,
    ):
        tasks = {flavour: submit(server, ["true"], dimensions={"flavour": flavour}) for flavour in flavours}
        for process in (sweet, sour, bitter):
            process.expect("exit code 0")
        assert {result(server, task)["bot_id"]: flavour for flavour, task in tasks.items()} == {
            f"bot-{flavour}": flavour for flavour in flavours
        }


def test_a_bot_that_is_terminated_ends(server: ServerProcess, bot: BotProcess) -> None:
    status, reply = server.call("POST", f"{API}/bot/bot-1/terminate", {})
    assert status == 200
    assert bot.wait() == 0
    assert result(server, reply["task_id"])["state"] == "COMPLETED"


def test_a_second_bot_in_the_directory_is_refused(server: ServerProcess, bot: BotProcess) -> None:
    second = subprocess.run(
        [COMMAND, "--server", server.url, "--dir", str(bot.directory), "--id", "bot-2"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert f"process {bot.pid}" in second.stderr
    assert "--id" in second.stderr


def test_a_second_bot_with_the_id_takes_over(server: ServerProcess, bot: BotProcess, tmp_path: Path) -> None:
    with running_bot(server, tmp_path / "elsewhere", "bot-1") as successor:
        bot.expect("Another bot has taken over")
        assert bot.wait() == 1
        submit(server, ["true"])
        successor.expect("exit code 0")


def test_a_named_cache_comes_back_with_the_next_task(server: ServerProcess, bot: BotProcess) -> None:
    caches = [{"name": "ccache", "path": "kept/cc"}]
    first = submit(server, ["sh", "-c", "ls kept/cc; echo x > kept/cc/object"], caches=caches)
    bot.expect("exit code 0")
    second = submit(server, ["sh", "-c", "ls kept/cc"], caches=caches, dimensions={"caches": "ccache"})
    bot.expect("exit code 0")
    assert (stdout(server, first), stdout(server, second)) == ("", "object\n")
    found = server.call("GET", f"{API}/bot/bot-1/get")[1]
    assert {"key": "caches", "value": ["ccache"]} in found["dimensions"]
    assert "ccache" in json.loads(found["state"])["named_caches"]


def test_a_machine_prefers_the_bot_to_its_task(server: ServerProcess, bot: BotProcess) -> None:
    code = "import os; print(os.nice(0), open('/proc/self/oom_score_adj').read())"
    task = submit(server, [sys.executable, "-c", code])
    bot.expect("exit code 0")
    nice, score = stdout(server, task).split()
    assert int(nice) == min(19, os.getpriority(os.PRIO_PROCESS, bot.pid) + NICE)
    assert int(score) >= int(OOM_SCORE)
    assert int(Path(f"/proc/{bot.pid}/oom_score_adj").read_text()) < int(score)


HOG = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
for _ in range(20):
    if os.fork() == 0:
        while True:
            pass
kept = []
try:
    while True:
        kept.append(bytearray(1 << 20))
except MemoryError:
    pass
"""


def test_a_task_that_eats_what_it_can_does_not_silence_its_bot(
    server: ServerProcess, bot: BotProcess, gate: Gate
) -> None:
    task = submit(server, gate.task(before=HOG))
    gate.wait_for_task()
    seen: set[str] = set()
    while len(seen) < 4:  # heartbeats, one a second
        seen.add(server.call("GET", f"{API}/bot/bot-1/get")[1]["last_seen_ts"])
    assert result(server, task)["state"] == "RUNNING"
    gate.let_pass()
    gate.wait_for_end()
    bot.expect("exit code 0")
    assert result(server, task)["state"] == "COMPLETED"
