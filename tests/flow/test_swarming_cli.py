"""The `swarming` commands against a real server with real bots, in the older forms and in those of 2020."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flow.bots import Gate
from tests.flow.fleet import Fleet, running_fleet, task_id_in, write_task

SCRIPT = """\
import os, sys
print('shard', os.environ.get('GTEST_SHARD_INDEX'), *sys.argv[2:])
with open(os.path.join(sys.argv[1], 'result.txt'), 'w') as file:
    file.write('from shard ' + os.environ.get('GTEST_SHARD_INDEX', '-'))
sys.exit(int(os.environ.get('EXIT', '0')))
"""


BOX = r"""\+-(-+)-\+
\| Shard \d  http://127\.0\.0\.1:\d+/user/task/\w+ +\|
\+-(-+)-\+
shard \d
\+-(-+)-\+
\| End of shard \d +\|
\|  Pending: \d+\.\ds  Duration: \d+\.\ds  Bot: bot-[12]  Exit: 0 +\|
\+-(-+)-\+
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("fleet")) as running:
        yield running


@pytest.fixture(scope="module")
def digest(fleet: Fleet) -> str:
    """The hash of a tree with a `.isolate` that runs a script; `tests.isolated` is kept in the home directory."""
    write_task(fleet.home, SCRIPT)
    printed = fleet.ok("isolate", "archive", "-i", "tree/t.isolate", "-s", "t.isolated")
    found, name = printed.split()
    assert name == "t"
    return found


def test_the_form_of_the_user_guide(fleet: Fleet, digest: str) -> None:
    """`run --swarming H --isolate-server I HASH`, and the same with the path of a `.isolated` file."""
    url = fleet.server.url
    for what in (digest, "t.isolated"):
        printed = fleet.ok("swarming.py", "run", "--swarming", url, "--isolate-server", url, what)
        assert "shard None" in printed


@pytest.mark.parametrize("command", ["trigger", "run"])
def test_a_tree_whose_files_the_server_lacks(fleet: Fleet, digest: str, command: str) -> None:
    manifest = json.loads((fleet.home / "t.isolated").read_text())
    manifest["files"]["script.py"]["h"] = "ab" * 32
    (fleet.home / "lost.isolated").write_text(json.dumps(manifest))
    done = fleet.run("swarming", command, "lost.isolated")
    assert (done.returncode, done.stdout) == (1, "")
    said = f"lost.isolated cannot be used, archive again: the server lacks 1 of its 1 files, such as {'ab' * 32}"
    assert done.stderr == f"swarming: error: {said}\n"


def test_trigger_by_name_and_collect_by_name(fleet: Fleet, digest: str) -> None:
    printed = fleet.ok("swarming", "trigger", "--task", "named", digest, "--", "extra", "words")
    assert printed.startswith("Triggered task: named\nTo collect results, use:\n")
    for _ in range(2):  # as often as one likes
        collected = fleet.ok("swarming", "collect", "named", "--task-output-dir", "named-out")
        assert f": {task_id_in(printed)} 0\n  shard None extra words\n\n" in collected
        assert (fleet.home / "named-out/0/result.txt").read_text() == "from shard -"


def test_shards_by_file(fleet: Fleet, digest: str) -> None:
    trigger = ["swarming", "trigger", "-s", digest, "-T", "sharded", "-d", "pool", "default", "--shards", "3"]
    printed = fleet.ok(*trigger, "--dump-json", "tasks.json")
    assert f"collect -S {fleet.server.url} --json tasks.json" in printed
    collect = ["swarming", "collect", "--json", "tasks.json", "--task-summary-json", "summary.json", "--decorate"]
    collected = fleet.ok(*collect, "--task-output-dir", "out")
    assert re.fullmatch(rf"({BOX}\n){{2}}{BOX}Total duration: [0-9.]+s\n", collected), collected
    assert set(re.findall(r"/user/task/(\w+)", collected)) == set(re.findall(r"/user/task/(\w+)", printed))
    text = (fleet.home / "tasks.json").read_text()
    dumped = json.loads(text)
    assert text == json.dumps(dumped, sort_keys=True, separators=(",", ":")) + "\n"
    assert sorted(dumped) == ["base_task_name", "request", "tasks"]
    assert (dumped["base_task_name"], dumped["request"]["name"]) == ("sharded", "sharded")
    assert "env" not in dumped["request"]["task_slices"][0]["properties"]
    task_id = dumped["tasks"]["sharded:1:3"]["task_id"]
    url = f"{fleet.server.url}/user/task/{task_id}"
    assert dumped["tasks"]["sharded:1:3"] == {"shard_index": 1, "task_id": task_id, "view_url": url}
    shards = json.loads((fleet.home / "summary.json").read_text())["shards"]
    assert [shard["name"] for shard in shards] == ["sharded:0:3", "sharded:1:3", "sharded:2:3"]
    assert [shard["output"] for shard in shards] == [f"shard {index}\n" for index in range(3)]
    for index in range(3):
        assert (fleet.home / f"out/{index}/result.txt").read_text() == f"from shard {index}"
    assert json.loads((fleet.home / "out/summary.json").read_text())["shards"] == shards


def test_the_exit_status_is_that_of_the_task(fleet: Fleet, digest: str) -> None:
    done = fleet.run("swarming", "run", "-s", digest, "-e", "EXIT", "7", "--task-output-stdout", "none")
    assert done.returncode == 7, done.stderr


def test_an_idempotent_task_runs_once(fleet: Fleet, digest: str) -> None:
    trigger = ["swarming", "trigger", "-s", digest, "--idempotent", "-e", "ONCE", "1"]
    first = task_id_in(fleet.ok(*trigger, "-T", "first"))
    fleet.ok("swarming", "collect", first)
    second = task_id_in(fleet.ok(*trigger, "-T", "second"))
    fleet.ok("swarming", "collect", second, "--task-summary-json", "second.json")
    (shard,) = json.loads((fleet.home / "second.json").read_text())["shards"]
    assert shard["deduped_from"][:-1] == first[:-1]
    assert shard["name"] == "second"
    assert shard["output"] == "shard None\n"


def test_idempotent_tasks_join_while_the_first_runs(fleet: Fleet, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    command = gate.task(after="print('ran')")
    trigger = ["swarming", "trigger", "--raw-cmd", "--idempotent", "-T"]
    first = task_id_in(fleet.ok(*trigger, "first-joined", "--", *command))
    gate.wait_for_task()
    second = task_id_in(fleet.ok(*trigger, "second-joined", "--", *command))
    gate.let_pass()  # once: a second run would wait for ever
    collected = fleet.ok("swarming", "collect", first, second, "--task-summary-json", "joined.json")
    assert collected.count("  ran\n") == 2
    shards = json.loads((fleet.home / "joined.json").read_text())["shards"]
    assert [shard["task_id"] for shard in shards] == [first, second]
    gate.close()


def test_dimensions_choose_the_bot(fleet: Fleet) -> None:
    for flavor, bot in (("sweet", "bot-1"), ("sour", "bot-2")):
        run = ["swarming", "run", "--raw-cmd", "--task", "chosen", "-d", "flavor", flavor, "--", "true"]
        assert f"{bot}: " in fleet.ok(*run)


def test_bots_and_query(fleet: Fleet) -> None:
    assert fleet.ok("swarming", "bots", "--bare").split() == ["bot-1", "bot-2"]
    assert fleet.ok("swarming", "bots", "-b", "-d", "flavor", "sour").split() == ["bot-2"]
    listed = json.loads(fleet.ok("swarming", "query"))
    sour = {pair["key"]: pair["value"] for pair in listed["items"][1]["dimensions"]}
    assert fleet.ok("swarming", "bots", "-d", "flavor", "sour") == f"bot-2\n  {json.dumps(sour, sort_keys=True)}\n"
    assert {bot["bot_id"] for bot in listed["items"]} == {"bot-1", "bot-2"}
    assert json.loads(fleet.ok("swarming", "query", "bots/count"))["count"] == "2"
    many = json.loads(fleet.ok("swarming", "query", "-L", "2", "tasks/list?state=ALL"))
    assert len(many["items"]) <= 2


def test_cancel_a_running_task(fleet: Fleet, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    task_id = task_id_in(fleet.ok("swarming", "trigger", "--raw-cmd", "-T", "endless", "--", *gate.task()))
    gate.wait_for_task()
    refused = fleet.run("swarming", "cancel", task_id)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"Deleting {task_id} failed: it is running, and ends only with --kill-running\n"
    fleet.ok("swarming", "cancel", "--kill-running", task_id)
    gate.wait_for_end()
    done = fleet.run("swarming", "collect", task_id, "--task-summary-json", "killed.json")
    (shard,) = json.loads((fleet.home / "killed.json").read_text())["shards"]
    assert shard["state"] == "KILLED"
    assert done.returncode != 0
    again = fleet.run("swarming", "cancel", task_id)
    assert (again.returncode, again.stderr) == (1, f"Deleting {task_id} failed. Probably already gone\n")
    gate.close()


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["trigger", "-s", "ab"], 2, "'ab' is neither a hash nor a .isolated file: `isolate archive` makes both"),
        (["trigger", "-s", "0" * 64], 2, "the .isolated itself) is missing from the store"),
        (["trigger", "missing.isolated"], 2, "Cannot read missing.isolated"),
        (["trigger"], 2, "Specify at least one of --raw-cmd or --isolated"),
        (["trigger", "--raw-cmd"], 2, "after -- as command delimiter"),
        (["trigger", "--raw-cmd", "-d", "bad key", "x", "--", "true"], 2, "bad key"),
        (["trigger", "--raw-cmd", "--priority", "256", "--", "true"], 2, "priority"),
        (["trigger", "--nonsense"], 2, "No such option"),
        (["collect"], 2, "Must specify at least one task id or --json"),
        (["collect", "no-such-name"], 1, "No task is called 'no-such-name'"),
        (["collect", "1234567890abcd10"], 1, "not found"),
        (["collect", "--json", "none.json"], 2, "none.json"),
        (["query", "no/such"], 1, "No such page or call"),
        (["collect", "-S", "http://127.0.0.1:9", "1234567890abcd10"], 1, "Cannot reach http://127.0.0.1:9"),
        (["bots", "-S", "ftp://x"], 2, "scheme must be http or https"),
    ],
)
def test_bad_input_is_one_line(fleet: Fleet, argv: list[str], status: int, message: str) -> None:
    done = fleet.run("swarming", *argv)
    assert (done.returncode, done.stdout) == (status, "")
    assert message.lower() in done.stderr.lower()
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_task_no_bot_can_run_ends_at_once(fleet: Fleet) -> None:
    done = fleet.run("swarming", "run", "--raw-cmd", "-d", "os", "Amiga", "--decorate", "--", "true")
    assert done.returncode == 1
    assert "lack of capacity" in done.stdout
    plain = fleet.run("swarming", "run", "--raw-cmd", "-d", "os", "Amiga", "--", "true")
    assert plain.returncode == 1
    assert plain.stderr.startswith("Shard 0 NO_RESOURCE: no bot has these dimensions")


def test_every_flag_of_trigger_is_in_the_request(fleet: Fleet, digest: str) -> None:
    (fleet.home / "secret").write_bytes(b"hunter2")
    trigger = (
        f"swarming trigger -I {fleet.server.url} --namespace blake3-zstd -d os Amiga -d pool default"
        f" --optional-dimension flavor sweet 120 -s {digest} -e A 1 --env-prefix PATH bin --env-prefix PATH lib"
        " --idempotent --secret-bytes-path secret --hard-timeout 60 --io-timeout 50 --lower-priority"
        " --containment-type AUTO --raw-cmd --relative-cwd sub --named-cache build_c build -o out/a -o out/b"
        " --service-account bot --pool-task-template SKIP --wait-for-capacity --priority 150 -T every --tags k:v"
        " --tags k:w --user someone --deadline 600 --realm r -- echo x"
    )
    request = json.loads(fleet.ok("swarming", "query", f"task/{task_id_in(fleet.ok(*trigger.split()))}/request"))
    first, last = request["task_slices"]
    assert [piece["expiration_secs"] for piece in (first, last)] == ["120", "480"]
    assert [piece["wait_for_capacity"] for piece in (first, last)] == [False, True]
    assert {"key": "flavor", "value": "sweet"} in first["properties"]["dimensions"]
    found = last["properties"]
    assert found["dimensions"] == [{"key": "os", "value": "Amiga"}, {"key": "pool", "value": "default"}]
    assert found["inputs_ref"] == {
        "isolated": digest, "isolatedserver": fleet.server.url, "namespace": "blake3-zstd"
    }  # fmt: skip
    assert found["env"] == [{"key": "A", "value": "1"}]
    assert found["env_prefixes"] == [{"key": "PATH", "value": ["bin", "lib"]}]
    assert (found["command"], found["relative_cwd"], found["idempotent"]) == (["echo", "x"], "sub", True)
    assert (found["execution_timeout_secs"], found["io_timeout_secs"], found["grace_period_secs"]) == ("60", "50", "30")
    assert found["containment"] == {"containment_type": "AUTO", "lower_priority": True}
    assert found["caches"] == [{"name": "build_c", "path": "build"}]
    assert found["outputs"] == ["out/a", "out/b"]
    assert "hunter2" not in json.dumps(request)
    assert found["secret_bytes"]
    assert (request["name"], request["priority"], request["user"]) == ("every", "150", "someone")
    assert (request["service_account"], request["realm"]) == ("bot", "r")
    assert {"k:v", "k:w"} <= set(request["tags"])


def test_files_that_are_named_come_back(fleet: Fleet) -> None:
    script = "mkdir -p out/deep && echo a > out/deep/a && echo b > out/b && echo c > c"
    run = ["swarming", "run", "--raw-cmd", "-o", "out/deep/a", "-o", "missing", "--task-output-dir", "named"]
    fleet.ok(*run, "--", "sh", "-c", script)
    assert [path.relative_to(fleet.home / "named/0").as_posix() for path in (fleet.home / "named/0").rglob("*")
            if path.is_file()] == ["out/deep/a"]  # fmt: skip
