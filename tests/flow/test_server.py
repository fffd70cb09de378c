"""The server as a process: how it starts, how it refuses to, how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.flow.hand import API, BOT, hello, new_task, state, trigger
from tests.flow.servers import COMMAND, ServerProcess, running_server


def attempt(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Start a server that is expected to give up."""
    return subprocess.run([COMMAND, "serve", *arguments], capture_output=True, text=True, timeout=60)


def test_a_start_and_a_stop(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server:
        assert server.ready_line == f"Serving http://127.0.0.1:{server.port}/ from {tmp_path / 'data'}\n"
        status, reply = server.call("GET", "/healthz")
        assert (status, reply["status"]) == (200, "ok")
        stdout = server.process.stdout
        assert stdout is not None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        assert stdout.read() == b""
        assert server.log() == ""


def test_ctrl_c_is_a_stop_too(server: ServerProcess) -> None:
    assert server.stop(signal.SIGINT) == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "example.com", "::"])
def test_it_listens_on_loopback_only(tmp_path: Path, host: str) -> None:
    given = attempt("--data", str(tmp_path / "data"), "--host", host, "--port", "0")
    assert given.returncode == 2
    assert "without authentication" in given.stderr
    assert given.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        given = attempt("--data", str(tmp_path / "data"), "--port", str(other.getsockname()[1]))
    assert given.returncode == 1
    assert "in use" in given.stderr
    assert given.stderr.count("\n") == 1
    assert given.stdout == ""


def test_a_directory_in_use(server: ServerProcess) -> None:
    given = attempt("--data", str(server.data_dir), "--port", "0")
    assert given.returncode == 1
    assert "Another server is using" in given.stderr
    assert given.stderr.count("\n") == 1


def test_a_directory_of_a_newer_version(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server:
        assert server.stop() == 0
    (tmp_path / "data" / "format.json").write_text(json.dumps({"format": 999}))
    given = attempt("--data", str(tmp_path / "data"), "--port", "0")
    assert given.returncode == 1
    assert "newer version" in given.stderr
    assert given.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("--port", "x"), ("--port", "65536"), ("--nonsense",), ("stray",)])
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    given = attempt(*arguments)
    assert given.returncode == 2
    assert "Traceback" not in given.stderr


def test_every_open_file_the_system_grants(server: ServerProcess) -> None:
    limits = Path(f"/proc/{server.pid}/limits").read_text()
    soft, hard = next(line for line in limits.splitlines() if line.startswith("Max open files")).split()[3:5]
    assert soft == hard


def test_a_drain_releases_long_polls(server: ServerProcess) -> None:
    replies: list[tuple[int, Any]] = []
    headers = {"X-Isolate-Session": "s1", "X-Isolate-Wait": "30"}
    waiting = threading.Thread(
        target=lambda: replies.append(server.call("POST", BOT + "poll", hello(), headers)), daemon=True
    )
    waiting.start()
    while server.call("GET", API + "bots/count")[1]["count"] == "0":  # until the poll has come in
        assert waiting.is_alive()
    assert server.stop() == 0
    waiting.join(30)
    assert replies == [(200, {"cmd": "sleep", "duration": 1.0, "quarantined": False})]


def test_a_drain_lets_work_in_progress_finish(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as server:
        body = json.dumps(new_task()).encode()
        head = f"POST {API}tasks/new HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: {len(body)}\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
            raw.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
            assert b"100 Continue" in raw.recv(4096)  # it is inside now, and waits for the body
            server.process.send_signal(signal.SIGTERM)
            while _answers(server):
                pass
            raw.sendall(body)
            reply = raw.makefile("rb").read()
        assert reply.startswith(b"HTTP/1.1 200 ")
        task_id = json.loads(reply.partition(b"\r\n\r\n")[2])["task_id"]
        assert server.process.wait(60) == 0
    with running_server(tmp_path / "data") as server:
        assert state(server, task_id) == "PENDING"


def _answers(server: ServerProcess) -> bool:
    try:
        return server.call("GET", "/healthz")[0] == 200
    except OSError:  # refused, or cut off in its queue
        return False


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with running_server(data_dir) as server:
        port = server.port
        server.call("POST", BOT + "handshake", hello(), {"X-Isolate-Session": "s1"})
        running = trigger(server, name="running")
        _, command = server.call("POST", BOT + "poll", hello(), {"X-Isolate-Session": "s1"})
        run_id = command["manifest"]["task_id"]
        update = {"id": "bot1", "task_id": run_id, "output": "aGVsbG8K", "output_chunk_start": 0}
        assert server.call("POST", BOT + "task_update", update, {"X-Isolate-Session": "s1"})[0] == 200
        waiting = [trigger(server, name=f"waiting {number}") for number in range(20)]
        server.kill()
    with running_server(data_dir, port=port) as server:
        assert [state(server, task_id) for task_id in waiting] == ["PENDING"] * 20
        assert state(server, running) == "RUNNING"
        assert server.call("GET", f"{API}task/{running}/stdout")[1]["output"] == "hello\n"
        # The bot did not notice: it goes on where it was.
        ending = {"id": "bot1", "task_id": run_id, "exit_code": 0, "duration": 1.0}
        assert server.call("POST", BOT + "task_update", ending, {"X-Isolate-Session": "s1"})[0] == 200
        assert state(server, running) == "COMPLETED"
        assert server.call("GET", API + "bots/list")[1]["items"][0]["bot_id"] == "bot1"
        assert server.stop() == 0
    assert "Traceback" not in server.log()


FOREIGN = [
    {"Host": "evil.example"},
    {"Host": "evil.example:PORT"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


def test_foreign_pages_and_names_create_no_task(server: ServerProcess) -> None:
    for template in FOREIGN:
        headers = {key: value.replace("PORT", str(server.port)) for key, value in template.items()}
        for content_type in ("application/json", "text/plain"):
            status, found, body = server.raw(
                "POST", API + "tasks/new", new_task(), {"Content-Type": content_type, **headers}
            )
            assert status == 403, headers
            assert found["Content-Type"].startswith("application/json")
            assert "Access-Control-Allow-Origin" not in found
            assert json.loads(body)["error"]["code"] == "refused"
    assert "items" not in server.call("GET", API + "tasks/list")[1]


def test_our_own_pages_may(server: ServerProcess) -> None:
    headers = {"Origin": server.url.replace("127.0.0.1", "localhost"), "Sec-Fetch-Site": "same-origin"}
    assert server.call("POST", API + "tasks/new", new_task(), headers)[0] == 200


def test_the_tools_of_2020_learn_who_they_are(server: ServerProcess) -> None:
    assert server.call("GET", "/auth/api/v1/accounts/self") == (
        200,
        {"identity": "bot:whitelisted-ip", "ip": "127.0.0.1"},
    )
    assert server.call("GET", "/auth/api/v1/server/oauth_config")[1]["primary_url"] == server.url


def test_hostile_requests_do_not_hurt(server: ServerProcess) -> None:
    assert server.call("POST", API + "tasks/new", b"{" * 1000)[0] == 400
    assert server.call("POST", API + "tasks/new", b"x" * (17 << 20))[0] == 413
    assert server.call("GET", "/../../etc/passwd")[0] == 404
    for garbage in (b"\x16\x03\x01 not http\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nBad\x00Header: 1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
            raw.sendall(garbage)
            assert b" 400 " in raw.recv(4096)
    assert server.call("GET", "/healthz")[0] == 200
