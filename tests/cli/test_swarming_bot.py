"""The commands of `swarming-bot` that run no bot."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

COMMAND = str(Path(sys.executable).parent / "swarming-bot")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)


def test_the_configuration_is_shown(tmp_path: Path) -> None:
    done = run("config", "-S", "localhost:1", "--id", "b", "--dir", str(tmp_path), "--dimension", "os", "X")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "archive": None,
        "cost_usd_hour": 0.0,
        "dimensions": {"os": ["X"]},
        "directory": str(tmp_path),
        "external_setup": False,
        "id": "b",
        "server": "http://localhost:1",
    }


def test_the_environment_says_what_no_flag_does(tmp_path: Path) -> None:
    env = {"SWARMING_SERVER": "localhost:1", "SWARMING_BOT_ID": "from-env", "SWARMING_EXTERNAL_BOT_SETUP": "1"}
    done = subprocess.run(
        [COMMAND, "config"], capture_output=True, text=True, env={**env, "HOME": str(tmp_path), "PATH": os.defpath}
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["server"], found["id"], found["external_setup"]) == ("http://localhost:1", "from-env", True)
    assert found["directory"] == str(tmp_path / ".local/share/swarming-bot/from-env")


def test_the_version_is_a_hash() -> None:
    done = run("version")
    assert re.fullmatch(r"[0-9a-f]{64}\n", done.stdout)
    assert json.loads(run("attributes").stdout)["version"] == done.stdout.strip()


def test_installing_writes_a_unit_and_says_how_to_start_it(tmp_path: Path) -> None:
    unit = tmp_path / "units" / "bot.service"
    flags = ("-S", "localhost:1", "--id", "b", "--dir", str(tmp_path / "my bot"), "--dimension", "os", "X")
    done = run("install", *flags, "--unit", str(unit))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{unit}\n"
    assert "The bot works for http://localhost:1\n" in done.stderr
    assert done.stderr.endswith(f" && systemctl --user enable --now {unit}\n")  # by its name it would not be found
    line = next(line for line in unit.read_text().splitlines() if line.startswith("ExecStart="))
    assert f'--server http://localhost:1 --dir "{tmp_path}/my bot" --id b --dimension os X' in line


def test_a_unit_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("install", "-S", "localhost:1", "--id", "b", "--unit", str(tmp_path / "file" / "x.service"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "Cannot write" in done.stderr
    done = run("install", "-S", "localhost:1", "--id", "b", "--unit", str(tmp_path / "unit"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "ends in .service" in done.stderr
