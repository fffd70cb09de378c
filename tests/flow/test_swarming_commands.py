"""The rest of the `swarming` commands, terminals and interruptions, against a real server with real bots."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flow.bots import Gate, running_bot
from tests.flow.fleet import Fleet, running_fleet, task_id_in, write_task
from tests.flow.terminals import on_terminal

SCRIPT = """\
import os, sys
print(*sys.argv[2:], os.environ['SWARMING_TASK_ID'] == 'reproduce', os.environ.get('A'))
for name in ('a.txt', 'logs/b.txt'):
    path = os.path.join(sys.argv[1], name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as file:
        file.write(name)
sys.exit(4)
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("fleet")) as running:
        yield running


@pytest.fixture(scope="module")
def task(fleet: Fleet) -> str:
    """A task that has ended: a tree with a command, extra arguments, outputs, exit status 4."""
    write_task(fleet.home, SCRIPT)
    printed = fleet.ok("isolate", "archive", "-i", "tree/t.isolate", "-s", "t.isolated")
    trigger = ["swarming", "trigger", "-s", printed.split()[0], "-T", "kept", "-e", "A", "5", "--", "extra"]
    task_id = task_id_in(fleet.ok(*trigger))
    assert fleet.run("swarming", "collect", task_id).returncode == 4
    return task_id


def test_what_trigger_prints(fleet: Fleet) -> None:
    url = fleet.server.url
    printed = fleet.ok("swarming", "trigger", "--raw-cmd", "-T", "printed", "--", "true")
    task_id = task_id_in(printed)
    assert printed == (
        f"Triggered task: printed\nTo collect results, use:\n  swarming.py collect -S {url} {task_id}\n"
        f"Or visit:\n  {url}/user/task/{task_id}\n"
    )
    (bot,) = {line.partition(":")[0] for line in fleet.ok("swarming", "collect", task_id).splitlines()}
    assert fleet.ok("swarming", "collect", task_id) == f"{bot}: {task_id} 0\n"


def test_run_prints_output_while_the_task_runs(fleet: Fleet, gate: Gate) -> None:
    command = gate.task(before="print('caf\\u00e9', flush=True)", after="print('done')")
    run = subprocess.Popen(
        ["swarming", "run", "--raw-cmd", "-T", "live", "--", *command],
        env=fleet.env, stdout=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip
    with run:
        assert run.stdout is not None
        assert [run.stdout.readline().partition(":")[0] for _ in range(2)] == ["Triggered task", "Task"]
        assert run.stdout.readline() == "  café\n"  # the task waits at its gate
        gate.let_pass()
        rest = run.stdout.read().splitlines()
        assert rest[0] == "  done"
        assert rest[1].endswith(" 0")
        assert len(rest) == 2
    assert run.returncode == 0


def test_run_does_not_wait_when_told_so(fleet: Fleet, gate: Gate) -> None:
    done = fleet.run("swarming", "run", "--raw-cmd", "-T", "unwatched", "--timeout", "-1", "--", *gate.task())
    assert done.returncode == 1
    assert done.stdout.splitlines()[2].endswith(" None")
    late = fleet.run("swarming", "run", "--raw-cmd", "-T", "late", "-t", "0.1", "--", *gate.task())
    assert late.returncode == 1
    missing, _, again = late.stderr.splitlines()
    assert missing == "Results from some shards are missing: 0"
    assert fleet.run(*again.split(), "-t", "-1").returncode == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_trigger_says_what_it_triggered(fleet: Fleet, number: signal.Signals, status: int) -> None:
    trigger = subprocess.Popen(
        ["swarming", "trigger", "-v", "--raw-cmd", "-T", "many", "-d", "os", "Amiga", "--shards", "5000",
         "--dump-json", "some tasks.json", "--", "true"],
        env=fleet.env, cwd=fleet.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert trigger.stderr is not None
    while ": 200 in " not in trigger.stderr.readline():
        pass
    trigger.send_signal(number)
    out, err = trigger.communicate(timeout=60)
    assert trigger.returncode == status
    tasks = json.loads((fleet.home / "some tasks.json").read_text())["tasks"]
    assert 1 <= len(tasks) < 5000
    assert f"Only {len(tasks)} shard(s) out of 5000 were triggered\n" in err
    assert f"collect -S {fleet.server.url} --json 'some tasks.json'\n" in out
    assert out.count("/user/task/") == len(tasks)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_without_a_terminal_an_interrupted_run_is_left_running(
    fleet: Fleet, gate: Gate, number: signal.Signals, status: int
) -> None:
    run = subprocess.Popen(
        ["swarming", "run", "--raw-cmd", "-T", "left", "--", *gate.task(after="print('ended well')")],
        env=fleet.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    gate.wait_for_task()
    run.send_signal(number)
    out, err = run.communicate(timeout=60)
    assert run.returncode == status
    assert out.startswith("Triggered task: left\n")
    first, second = err.splitlines()
    assert first == "Left running. To collect results, use:"
    gate.let_pass()
    collected = fleet.ok(*second.split())
    assert "  ended well\n" in collected


@pytest.mark.parametrize(
    ("answer", "said", "state"), [("y\n", "Cancelled: task", "KILLED"), ("n\n", "Left running", "COMPLETED")]
)
def test_on_a_terminal_an_interrupted_run_asks_once(
    fleet: Fleet, gate: Gate, answer: str, said: str, state: str
) -> None:
    argv = ["swarming", "run", "--raw-cmd", "-T", f"asked-{state}", "--", *gate.task()]
    with on_terminal(argv, fleet.env, str(fleet.home)) as command:
        gate.wait_for_task()
        command.type("\x03")
        command.expect("Cancel the task?")
        command.type(answer)
        assert command.end() == 130
        assert said in command.said
    if state == "COMPLETED":
        gate.let_pass()
    fleet.run("swarming", "collect", f"asked-{state}", "--task-summary-json", "asked.json")
    (shard,) = json.loads((fleet.home / "asked.json").read_text())["shards"]
    assert shard["state"] == state


def test_a_table_of_shards_on_a_terminal_only(fleet: Fleet, gate: Gate) -> None:
    task_id = task_id_in(fleet.ok("swarming", "trigger", "--raw-cmd", "-T", "watched", "--", *gate.task()))
    gate.wait_for_task()
    with on_terminal(["swarming", "collect", task_id], fleet.env, str(fleet.home)) as command:
        command.expect("0 of 1 shards ended")
        gate.let_pass()
        assert command.end() == 0
        assert f": {task_id} 0\r\n" in command.said
    assert "shards ended" not in fleet.ok("swarming", "collect", task_id)


def test_results_go_to_the_pipe_while_a_table_is_on_the_screen(fleet: Fleet, gate: Gate) -> None:
    task_id = task_id_in(fleet.ok("swarming", "trigger", "--raw-cmd", "-T", "piped", "--", *gate.task()))
    shell = ["sh", "-c", f"swarming collect {task_id} > results.txt"]
    with on_terminal(shell, fleet.env, str(fleet.home)) as command:
        command.expect("0 of 1 shards ended")
        gate.let_pass()
        assert command.end() == 0
    assert f": {task_id} 0\n" in (fleet.home / "results.txt").read_text()


def test_only_the_outputs_that_match_come(fleet: Fleet, task: str) -> None:
    fleet.run("swarming", "collect", task, "--task-output-dir", "some", "--filepath-filter", "logs/", "--verbose")
    assert sorted(path.name for path in (fleet.home / "some").rglob("*.txt")) == ["b.txt"]


def test_reproduce_runs_the_same_here(fleet: Fleet, task: str) -> None:
    done = fleet.run("swarming", "reproduce", task, "--leak", "--", "more")
    assert (done.returncode, done.stdout) == (4, "extra more True 5\n"), done.stderr
    assert (fleet.home / "out/logs/b.txt").read_text() == "logs/b.txt"
    assert (fleet.home / "work/script.py").is_file()
    again = fleet.run("swarming", "reproduce", "kept")
    assert (again.returncode, again.stdout) == (2, "")
    assert "'work' exists" in again.stderr
    assert fleet.run("swarming", "reproduce", "kept", "--work", "other").returncode == 4
    assert not (fleet.home / "other").exists()


def test_reproduce_says_what_is_not_as_on_the_bot(fleet: Fleet) -> None:
    task = ["-T", "cached", "-d", "os", "Amiga", "--named-cache", "git", "sub/git"]
    fleet.ok(
        "swarming", "trigger", "--raw-cmd", *task, "--", "sh", "-c", "ls -a sub/git > $0/list", "${ISOLATED_OUTDIR}"
    )
    (fleet.home / "left").mkdir()
    reproduce = ["swarming", "reproduce", "cached", "--work", "cached", "--output", "left"]
    first = fleet.run(*reproduce)
    assert (first.returncode, first.stdout) == (0, ""), first.stderr
    assert first.stderr.count("\n") == 1
    assert "Named caches stay with the bots, and are empty here: git" in first.stderr
    assert (fleet.home / "left" / "list").read_text() == ".\n..\n"
    assert "left holds files already" in fleet.run(*reproduce).stderr


def test_tasks_as_a_table_and_as_json(fleet: Fleet, task: str) -> None:
    lines = fleet.ok("swarming", "tasks", "--state", "completed_failure").splitlines()
    assert lines[0].split()[:4] == ["TASK", "STATE", "NAME", "USER"]
    assert any(line.split()[:4] == [task, "EXIT", "4", "kept"] for line in lines)
    listed = json.loads(fleet.ok("swarming", "tasks", "--tag", "user:root", "--json", "-", "-L", "1"))
    assert len(listed["items"]) <= 1


def test_why_a_task_is_pending(fleet: Fleet) -> None:
    trigger = ["swarming", "trigger", "--raw-cmd", "-d", "os", "Amiga", "--wait-for-capacity", "-T", "stuck"]
    task_id = task_id_in(fleet.ok(*trigger, "--", "true"))
    said = fleet.ok("swarming", "tasks", "why", "stuck")
    assert said.startswith(f"{task_id} stuck: PENDING\n")
    assert "    None of 2 bots has the dimensions asked for\n    2 lacks os:Amiga (" in said
    fleet.ok("swarming", "cancel", task_id)
    assert "It is not pending" in fleet.ok("swarming", "tasks", "why", task_id)
    done = fleet.run("swarming", "collect", task_id, "--decorate")
    assert done.returncode == 1
    assert "s  CANCELED " in done.stdout


def test_post_is_what_it_says(fleet: Fleet) -> None:
    request = {"name": "posted", "priority": 100, "evaluate_only": True}
    piece = {"expiration_secs": 60, "properties": {"command": ["true"], "execution_timeout_secs": 60}}
    piece["properties"] = {"dimensions": [{"key": "pool", "value": "default"}], "grace_period_secs": 30,
                           "command": ["true"], "execution_timeout_secs": 60}  # fmt: skip
    done = fleet.run("swarming", "post", "tasks/new", stdin=json.dumps({**request, "task_slices": [piece]}))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["request"]["name"] == "posted"
    refused = fleet.run("swarming", "post", "tasks/new", stdin="{}")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("No response!")
    assert len(refused.stderr.splitlines()) == 1


def test_what_can_be_queried(fleet: Fleet) -> None:
    lines = fleet.ok("swarming", "query-list").splitlines()
    assert "swarming:v1" in lines
    assert "- tasks.list: tasks/list" in lines
    assert not any("tasks.new" in line for line in lines)
    fleet.ok("swarming", "query_list", "--json", "apis.json")
    assert "swarming:v1" in json.loads((fleet.home / "apis.json").read_text())


def test_bots_come_and_go(fleet: Fleet, tmp_path: Path) -> None:
    with running_bot(fleet.server, tmp_path / "b", "brief") as bot:
        task_id = fleet.ok("swarming", "terminate", "brief").strip()
        assert bot.wait() == 0
        assert fleet.ok("swarming", "collect", task_id).startswith(f"brief: {task_id} ")
    asked = fleet.run("swarming", "bot-delete", "brief", stdin="n\n")
    assert (asked.returncode, asked.stdout) == (
        1,
        "Delete the following bots?\n  brief\nContinue? [y/N] Goodbye.\n",
    )
    assert fleet.run("swarming", "bot_delete", "brief", stdin="y\n").returncode == 0
    again = fleet.run("swarming", "bot-delete", "--force", "brief")
    assert (again.returncode, again.stderr) == (1, "Deleting brief failed. Probably already gone\n")
    assert fleet.ok("swarming", "bots", "--bare").split() == ["bot-1", "bot-2"]


def test_the_configuration_file_and_verbose_requests(fleet: Fleet) -> None:
    place = fleet.home / ".config" / "isolate"
    place.mkdir(parents=True)
    (place / "config.toml").write_text(f"swarming = '{fleet.server.url}'\n[bots]\nbare = true\n")
    env = {key: value for key, value in fleet.env.items() if key != "SWARMING_SERVER"}
    done = subprocess.run(["swarming", "bots", "-v"], env=env, capture_output=True, text=True, timeout=60)
    (place / "config.toml").unlink()
    assert done.stdout.split() == ["bot-1", "bot-2"]
    assert f"GET {fleet.server.url}/_ah/api/swarming/v1/bots/list?" in done.stderr
    assert ": 200 in " in done.stderr


@pytest.mark.parametrize(("typed", "offered"), [("swarming terminate bot", "bot-1"), ("swarming collect ke", "kept")])
def test_shells_complete_names_of_the_server(fleet: Fleet, task: str, typed: str, offered: str) -> None:
    env = {"COMP_WORDS": typed, "COMP_CWORD": "2", "_SWARMING_COMPLETE": "bash_complete"}
    done = subprocess.run(["swarming"], env=fleet.env | env, capture_output=True, text=True, timeout=60)
    assert f"plain,{offered}" in done.stdout.splitlines()
    env |= {"_SWARMING_COMPLETE": "zsh_complete"}
    zsh = subprocess.run(["swarming"], env=fleet.env | env, capture_output=True, text=True, timeout=60)
    assert offered in zsh.stdout.splitlines()
    env |= {"_SWARMING_COMPLETE": "fish_complete", "COMP_CWORD": typed.rsplit(maxsplit=1)[-1]}
    fish = subprocess.run(["swarming"], env=fleet.env | env, capture_output=True, text=True, timeout=60)
    assert f"plain,{offered}" in fish.stdout.splitlines()
    env |= {"_SWARMING_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    gone = fleet.env | env | {"SWARMING_SERVER": "http://127.0.0.1:9"}
    silent = subprocess.run(["swarming"], env=gone, capture_output=True, text=True, timeout=60)
    assert (silent.stdout.strip(), silent.stderr) == ("", "")


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["terminate", "nobody"], 1, "Failed to ask for termination: Bot 'nobody' is not known"),
        (["query", "task/1234567890abcd10/result"], 1, "/_ah/api/swarming/v1/task/1234567890abcd10/result: Task"),
        (["query", "task/zz/result"], 1, "/_ah/api/swarming/v1/task/zz/result: zz is an invalid key."),
        (["query", "-L", "0"], 2, "--limit must be at least 1"),
        (["bots", "--busy", "--idle"], 2, "Use only one of --busy or --idle"),
        (["run", "--raw-cmd", "echo"], 2, "Arguments with --raw-cmd should be passed after -- as command delimiter."),
        (["run", "--task-out", "x"], 2, "No such option '--task-out'"),
        (["tasks", "why", "nobody"], 1, "No task is called 'nobody'"),
        (["tasks", "--state", "odd"], 2, "odd"),
        (["reproduce", "nobody"], 1, "No task is called 'nobody'"),
        (["collect", "x", "--task-output-dir", "o", "--filepath-filter", "("], 2, "'(' is no regular expression"),
        (["run", "--raw-cmd", "--filepath-filter", "x", "--", "true"], 2, "--task-output-dir brings: give both"),
        (["collect", "1a10"], 1, "Task 1a10 not found"),
        (["collect", "f" * 30 + "10"], 1, "No task is called"),
        (["cancel", "no/../id"], 1, "Deleting no/../id failed: it is no task id"),
        (["terminate", "\udcff"], 1, "Failed to ask for termination: Bot "),
        (["-S", "http://x", "bots"], 2, "options come after the command, as in 'swarming COMMAND -S'"),
        (["collect", "x", "--timeout", "-2"], 2, "-2 is neither a number of seconds nor -1"),
        (["run", "--raw-cmd", "-t", "nan", "--", "true"], 2, "nan is neither a number of seconds nor -1"),
        (["collect", "1a10", "--task-summary-json", "/dev/null/x"], 1, "Cannot write /dev/null/x"),
        (["colect-them-all"], 2, "No such command 'colect-them-all'"),
        (["trigger", "--raw-cmd", "--cipd-package", "x", "--", "true"], 2, "path:package:version"),
        (["trigger", "--raw-cmd", "--", "\udcff"], 2, "command: '\\udcff' is not UTF-8"),
        (["trigger", "--raw-cmd", "-T", "two\nlines", "--", "true"], 2, "must be one line"),
        (["trigger", "--raw-cmd", "--expiration", "9" * 20, "--", "true"], 2, "or more seconds than can be told"),
        (["trigger", "--raw-cmd", "--priority", "0", "--", "true"], 2, "0 is not in the range 1<=x<=255"),
    ],
)
def test_bad_input_is_one_line(fleet: Fleet, argv: list[str], status: int, said: str) -> None:
    done = fleet.run("swarming", *argv)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("command", "flag"), [("trigger", "--dump-json"), ("run", "--task-summary-json"), ("run", "--task-output-dir")]
)
def test_nothing_is_triggered_that_could_not_be_kept(fleet: Fleet, command: str, flag: str) -> None:
    done = fleet.run("swarming", command, "--raw-cmd", "-T", "unkept", flag, "/dev/null/x", "--", "true")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("swarming: error: Cannot write /dev/null/x")
    assert len(done.stderr.splitlines()) == 1
    assert "No task is called" in fleet.run("swarming", "collect", "unkept").stderr
