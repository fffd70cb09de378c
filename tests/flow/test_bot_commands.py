"""A real bot and a scripted server: commands that a healthy server rarely sends."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from swarming.bot.slots import Refusal, refuse
from swarming.unpack import FOLDER
from tests.flow.bots import COMMAND, BotProcess
from tests.processes import wait_until


class ScriptedServer(ThreadingHTTPServer):
    """Answers polls from a script, and everything else as a contented server does."""

    daemon_threads = True

    def __init__(self, *commands: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commands = list(commands)
        self.calls: list[tuple[str, str, dict[str, Any]]] = []  # (call, session, body)
        self.heads: list[Mapping[str, str]] = []  # of the same calls
        self.hooks = ""

    def named(self, name: str) -> list[tuple[str, dict[str, Any]]]:
        return [(session, body) for call, session, body in self.calls if call == name]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, ScriptedServer)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = self.path.partition("/bot/")[2].partition("/")[0]
        server.calls.append((name, self.headers["X-Isolate-Session"], body))
        server.heads.append(dict(self.headers))
        greeting = {"server_version": "v1", "bot_group_cfg_version": "g", "bot_group_cfg": {"dimensions": {}}}
        replies: dict[str, Any] = {
            "handshake": {**greeting, "bot_config": server.hooks},
            "poll": server.commands.pop(0) if name == "poll" else None,
            "task_update": {"ok": True, "must_stop": False},
        }
        data = json.dumps(replies.get(name, {})).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def scene(
    tmp_path: Path,
    *commands: dict[str, Any],
    arguments: tuple[str, ...] = ("--id", "bot-1"),
    hooks: str = "",
    env: Mapping[str, str] | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Give the server and its bot, which has the address from its environment; the script ends with its end."""
    terminate = {"cmd": "terminate", "task_id": "t1"}
    with ScriptedServer(*commands, terminate) as server:
        server.hooks = hooks
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        command, known = [COMMAND, "--dir", str(tmp_path / "bot"), *arguments], {"SWARMING_SERVER": url, **(env or {})}
        bot = BotProcess(url, tmp_path / "bot", "bot-1", command=command, env=known)
        try:
            yield server, bot
        finally:
            bot.end()
            server.shutdown()


def test_a_restarted_bot_is_the_same_process_with_a_new_session(tmp_path: Path) -> None:
    with scene(tmp_path, {"cmd": "bot_restart", "message": "new configuration"}) as (server, bot):
        assert bot.wait() == 0
        (first, before), (second, after) = server.named("handshake")
        assert first != second
        assert before["state"]["pid"] == after["state"]["pid"] == bot.pid
        assert [body["event"] for _, body in server.named("event")] == ["bot_shutdown", "bot_shutdown"]
        assert server.named("task_update") == [
            (second, {"id": "bot-1", "task_id": "t1", "duration": 0, "exit_code": 0})
        ]


def test_a_machine_is_not_rebooted_unless_a_command_for_it_was_given(tmp_path: Path) -> None:
    with scene(tmp_path, {"cmd": "host_reboot", "message": "tired"}) as (server, bot):
        bot.expect("asks for a reboot of this machine: tired")
        bot.signal()
        assert bot.wait() == 0
        events = [(body["event"], body["message"]) for _, body in server.named("event")]
        assert events[0] == ("bot_rebooting", "tired")
        assert "may not reboot" in events[1][1]


def test_a_reboot_command_is_run(tmp_path: Path) -> None:
    flag = tmp_path / "rebooted"
    command = f'{sys.executable} -c \'open("{flag}", "w")\''
    reboot = {"cmd": "restart", "message": "Periodic reboot"}
    with scene(tmp_path, reboot, arguments=("--id", "bot-1", "--reboot-command", command)) as (server, bot):
        bot.expect("asks for a reboot")
        bot.signal()
        assert bot.wait() == 0
        assert flag.exists()
        assert [body["event"] for _, body in server.named("event")] == ["bot_rebooting", "bot_shutdown"]


def test_a_server_that_is_none_is_named(tmp_path: Path) -> None:
    with scene(tmp_path, {"cmd": "dance"}) as (server, bot):
        assert "'dance'" in bot.expect("dance")
        assert bot.wait() == 0
        assert len(server.named("handshake")) == 1


def test_a_version_that_was_given_up_is_told_of_once(tmp_path: Path) -> None:
    folder = tmp_path / "bot" / FOLDER
    folder.mkdir(parents=True)
    refuse(folder, Refusal("v" * 64, "Version vvv does not work here"))
    with scene(tmp_path, {"cmd": "bot_restart", "message": "again"}) as (server, bot):
        assert bot.wait() == 0
        assert len(server.named("handshake")) == 2
        told = [body["message"] for _, body in server.named("event") if body["event"] == "bot_error"]
        assert told == ["Version vvv does not work here"]


def test_a_signal_shows_what_a_bot_is_doing(tmp_path: Path) -> None:
    stacks = tmp_path / "bot" / "logs" / "stacks.log"
    with scene(tmp_path, {"cmd": "sleep", "duration": 1000, "quarantined": False}) as (_, bot):
        bot.expect("Connected as")
        bot.signal(signal.SIGUSR1)
        assert wait_until(lambda: b"most recent call first" in stacks.read_bytes())
        bot.signal()
        assert bot.wait() == 0


def test_what_hooks_ask_of_their_bot_and_what_they_send_with_each_call(tmp_path: Path) -> None:
    """`post_event`, `post_error`, `bot_restart`, headers for this start and the next; and an id of the environment."""
    hooks = "def get_authentication_headers(bot): return {'X-Who': bot.id}, 4102444800\n"
    hooks += "def on_bot_idle(bot, since_last_action):\n    bot.post_event('bot_log', 'hot')\n"
    hooks += "    bot.post_error('too hot')\n    bot.bot_restart('to cool down')\n"
    nothing = {"cmd": "sleep", "duration": 0, "quarantined": False}
    with scene(tmp_path, nothing, arguments=(), hooks=hooks, env={"SWARMING_BOT_ID": "named"}) as (server, bot):
        bot.expect("Restarting: to cool down")
        assert bot.wait() == 0
        assert [body["dimensions"]["id"] for _, body in server.named("handshake")] == [["named"], ["named"]]
        events = [(body["event"], body["message"]) for _, body in server.named("event")]
        assert events[:3] == [("bot_log", "hot"), ("bot_error", "too hot"), ("bot_shutdown", "About to restart")]
        # The first handshake brings the hooks; from then on every call is signed, that of the next start included.
        assert [head.get("X-Who") for head in server.heads] == [None] + ["named"] * (len(server.heads) - 1)
