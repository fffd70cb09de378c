"""The bot API as a bot of 2020 sees it: a client that shares no code with the server, and spellings written by hand."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.flow.raw_swarming import BOT, asked, bot, get, post, said
from tests.flow.servers import ServerProcess, running_server
from tests.processes import wait_until

MANIFEST = (
    "bot_authenticated_as bot_id caches cas_input_root cipd_input command containment dimensions env env_prefixes "
    "extra_args grace_period hard_timeout host io_timeout isolated outputs realm relative_cwd resultdb secret_bytes "
    "service_accounts task_id"
)


def started(server: ServerProcess, name: str, **properties: Any) -> tuple[str, dict[str, Any]]:
    """Have bot `name` begin a task that is for it alone; returns the run id and the manifest."""
    bot(server, "handshake", said(name))
    post(server, "tasks/new", asked("raw", bot_id=name, **properties))
    manifest = bot(server, "poll", said(name))["manifest"]
    run_id = str(manifest["task_id"])
    assert bot(server, "task_update", about(name, run_id, cost_usd=0.0)) == {"must_stop": False, "ok": True}
    return run_id, manifest


def about(name: str, run_id: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "task_id": run_id, **fields}


def test_a_manifest_has_the_keys_and_kinds_that_bots_compare(rest_server: ServerProcess) -> None:
    caches = [{"name": "git", "path": "c/git"}]
    _, manifest = started(rest_server, "keys", caches=caches, env=[{"key": "A", "value": "b"}], io_timeout_secs=60)
    assert " ".join(sorted(manifest)) == MANIFEST
    assert (manifest["bot_id"], manifest["host"]) == ("keys", rest_server.url)
    assert (manifest["command"], manifest["extra_args"], manifest["relative_cwd"]) == (["true"], None, None)
    assert manifest["dimensions"] == {"id": ["keys"], "pool": ["default"]}
    assert (manifest["env"], manifest["env_prefixes"], manifest["outputs"]) == ({"A": "b"}, None, [])
    assert [manifest[key] for key in ("hard_timeout", "io_timeout", "grace_period")] == [60, 60, 30]
    (cache,) = manifest["caches"]
    assert (sorted(cache), cache["hint"]) == (["hint", "name", "path"], str(int(cache["hint"])))
    assert manifest["isolated"] == {"input": None, "namespace": "default-gzip", "server": rest_server.url}
    assert " ".join(sorted(manifest["containment"])) == (
        "containment_type limit_processes limit_total_committed_memory lower_priority"
    )
    assert {manifest["service_accounts"][whose]["service_account"] for whose in ("system", "task")} == {"none"}


REFUSED: list[tuple[str, str, Any, int, str]] = [
    ("GET", "handshake", None, 405, "POST"),
    ("POST", "server_ping", {}, 405, "GET"),
    ("POST", "dance", {}, 404, "No such"),
    ("POST", "handshake", b"{", 400, "Invalid JSON"),
    ("POST", "handshake", [], 400, "object"),
    ("POST", "event", {**said("refused"), "event": "task_completed", "message": "m"}, 400, "Unsupported event type"),
    ("POST", "task_update", {"id": "refused", "task_id": "x"}, 400, "invalid key"),
    ("POST", "task_error", {"id": "refused", "task_id": "5cee488008811", "message": "m"}, 400, "5cee488008811"),
    ("POST", "oauth_token", {"id": "refused", "account_id": "root", "scopes": ["a"]}, 400, "account_id"),
    ("POST", "oauth_token", {"id": "refused", "account_id": "task", "scopes": ["a"]}, 400, "task_id"),
]


@pytest.mark.parametrize(("method", "call", "body", "status", "reason"), REFUSED)
def test_an_error_is_a_plain_string(
    rest_server: ServerProcess, method: str, call: str, body: Any, status: int, reason: str
) -> None:
    found, reply = rest_server.call(method, BOT + call, body)
    assert (found, reason in reply["error"]) == (status, True), reply


def test_another_kind_of_body_and_another_host_are_refused(rest_server: ServerProcess) -> None:
    status, reply = rest_server.call("POST", BOT + "poll", said("x"), {"Content-Type": "text/plain"})
    assert (status, reply["error"].startswith("Expecting JSON body")) == (400, True)
    status, reply = rest_server.call("POST", BOT + "poll", said("x"), {"Host": "elsewhere"})
    assert (status, reply["text"]) == (403, reply["error"])


def test_a_task_is_of_one_bot(rest_server: ServerProcess) -> None:
    run_id, _ = started(rest_server, "owner")

    def says(call: str, **body: Any) -> tuple[int, Any]:
        return rest_server.call("POST", BOT + call, body)

    thief, mine = about("thief", run_id), about("owner", run_id)
    assert says("task_error", **thief, message="m")[0] == 400
    assert says("task_update", **thief) == (200, {"must_stop": True, "ok": True})
    assert says("task_update", **thief, exit_code=0, duration=1.0)[0] == 409
    token = {"account_id": "task", "scopes": ["email"]}
    assert says("oauth_token", **thief, **token)[0] == 400
    assert says("oauth_token", **mine, **token) == (200, {"service_account": "none"})
    last = {"exit_code": 1, "duration": 1.5, "output": "eA==", "output_chunk_start": 0}
    for _ in range(2):
        assert says(f"task_update/{run_id}", **mine, **last) == (200, {"must_stop": False, "ok": True})
    assert says("task_update", **mine, exit_code=2, duration=1.5)[0] == 409
    assert says("oauth_token", **mine, **token)[0] == 400
    assert get(rest_server, f"task/{run_id[:-1]}0/result")["exit_code"] == "1"


def test_an_error_of_the_bot_is_answered_with_nothing_at_all(rest_server: ServerProcess) -> None:
    run_id, _ = started(rest_server, "broken")
    for call in ("task_error", f"task_error/{run_id}"):
        assert bot(rest_server, call, about("broken", run_id, message="no disk")) == {}
    assert get(rest_server, f"task/{run_id[:-1]}0/result")["state"] == "BOT_DIED"


def test_groups_and_a_pause(tmp_path: Path) -> None:
    """Nobody is asked who they are in a pause; then a stranger is refused, and a bot of 2020 becomes what it should."""
    config, archives = tmp_path / "data" / "config", tmp_path / "data" / "bot_archives"
    config.mkdir(parents=True)
    archives.mkdir()
    (config / "bots.toml").write_text('[[group]]\nids = ["old"]\nbot_archive = "of-2020.zip"\n')
    (config / "server.toml").write_text("[scheduler]\npause_bots = true\n")
    with zipfile.ZipFile(archives / "of-2020.zip", "w") as packed:
        packed.writestr("__main__.py", "print()")
    with running_server(tmp_path / "data") as server:
        asleep = {"cmd": "sleep", "duration": 60.0, "quarantined": True}
        assert [bot(server, "poll", said(name)) for name in ("old", "stranger")] == [asleep, asleep]
        (config / "server.toml").unlink()
        assert wait_until(lambda: server.call("POST", BOT + "poll", said("stranger"))[0] == 403)
        version = bot(server, "handshake", said("old"))["bot_version"]
        assert re.fullmatch("[0-9a-f]{64}", version)
        assert bot(server, "poll", said("old")) == {"cmd": "update", "version": version}
        status, headers, code = server.raw("GET", f"{BOT}bot_code/{version}")
        assert (status, headers["Content-Type"]) == (200, "application/octet-stream")
        assert zipfile.ZipFile(io.BytesIO(code)).namelist() == ["__main__.py"]
        assert bot(server, "poll", said("old") | {"version": version})["cmd"] == "sleep"
