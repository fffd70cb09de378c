"""Settings of a real server: refused at the start when wrong, read again when they change."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tests.flow.servers import COMMAND, START_S, ServerProcess, running_server

DETAILS = "/_ah/api/swarming/v1/server/details"
TEMPLATE = '[pages]\ndisplay_server_url_template = "https://logs/{}/%s"\n'


def shown(server: ServerProcess) -> str | None:
    found: str | None = server.call("GET", DETAILS)[1].get("display_server_url_template")
    return found


def test_a_running_server_follows_its_files_and_survives_mistakes(tmp_path: Path) -> None:
    config = tmp_path / "data" / "config"
    config.mkdir(parents=True)
    file = config / "server.toml"
    file.write_text(TEMPLATE.format("one"))
    with running_server(tmp_path / "data") as server:
        assert shown(server) == "https://logs/one/%s"
        file.write_text("[pages]\nnonsense = 1\n")
        until_s = time.monotonic() + START_S
        while "server.toml:2: Unknown key nonsense" not in server.log() and time.monotonic() < until_s:
            time.sleep(0.05)  # the interval of a poll
        assert shown(server) == "https://logs/one/%s"
        file.write_text(TEMPLATE.format("two"))
        while shown(server) != "https://logs/two/%s" and time.monotonic() < until_s:
            time.sleep(0.05)
        assert shown(server) == "https://logs/two/%s"


def test_a_server_does_not_start_with_wrong_settings(tmp_path: Path) -> None:
    config = tmp_path / "data" / "config"
    config.mkdir(parents=True)
    (config / "bots.toml").write_text("[[group]]\nids = ['a', 'a']\ncolour = 'red'\n")
    serve = [COMMAND, "serve", "--data", str(tmp_path / "data"), "--port", "0"]
    for command in (serve, [COMMAND, "config", "check", "--data", str(tmp_path / "data")]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_S)
        assert done.returncode == 2
        place = "" if "check" in command else f"{config}/"
        said = [
            f"{place}bots.toml:2: Bot 'a' is in two groups, or twice in one",
            f"{place}bots.toml:3: Unknown key colour",
        ]
        assert done.stderr.splitlines() == said
