"""What the `run_isolated` command takes from a file of arguments and from its environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.test_run_isolated import COMMAND, run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def test_arguments_come_from_a_file(root: Path, tmp_path: Path) -> None:
    (tmp_path / "args.json").write_text(json.dumps(["--root-dir", str(root), "sh", "-c", "echo $0; exit 5", "it"]))
    done = run(root, "-a", tmp_path / "args.json")
    assert (done.returncode, done.stdout) == (5, "it\n")


def test_arguments_in_a_file_name_no_other_file(root: Path, tmp_path: Path) -> None:
    (tmp_path / "args.json").write_text('["-a", "args.json"]')
    done = run(root, "-a", "args.json")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "'args.json': --argsfile goes with no other argument" in done.stderr


@pytest.mark.parametrize("given", [{}, {"LC_CTYPE": "C.UTF-8"}])
def test_a_command_gets_no_locale_that_nobody_set(root: Path, given: dict[str, str]) -> None:
    known = {"PATH": os.environ["PATH"], "HOME": str(root.parent), **given}
    command = [COMMAND, "--root-dir", str(root), "--no-log", "--", "/usr/bin/env"]
    done = subprocess.run(command, capture_output=True, text=True, env=known, cwd=root.parent)
    told = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert {name: value for name, value in told.items() if name.startswith("LC_")} == given
