"""doc/user-guide.md and the older guide: every example, typed as it is written."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flow.fleet import Fleet, running_fleet, task_id_in

GUIDE = Path(__file__).parent.parent.parent / "doc" / "user-guide.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_TYPED = ("swarming-server serve", "swarming.py run --swarming <host>")  # started by the test; tested below


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("fleet")) as running:
        yield running


def typed(fleet: Fleet, script: str) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=fleet.env, cwd=fleet.home, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_guide_does_what_it_says(fleet: Fleet) -> None:
    found = BLOCK.findall(GUIDE.read_text())
    blocks = [block for language, block in found if not language and not block.startswith(NOT_TYPED)]
    waiting = ["swarming", "trigger", "--raw-cmd", "-d", "os", "Amiga", "--wait-for-capacity", "--", "true"]
    task = task_id_in(fleet.ok(*waiting))
    printed = []
    for block in blocks:
        script = block.replace("http://127.0.0.1:8080", fleet.server.url)
        first, _, second = script.partition("isolate archive hello\n")
        if second:  # a reader copies the hash that was printed
            second = f"HASH=$(isolate archive hello | cut -d' ' -f1)\n{second.replace(' HASH', ' $HASH')}"
        printed.append(typed(fleet, first + second.replace("TASK", task) if second else first.replace("TASK", task)))
    everything = "\n".join(printed)
    for expected in (
        "  hello\n",
        "  42\n",
        "lacks os:Amiga",
        "result\n",
        "  done\n",
        "tests [0, 3, 6, 9]",
        "[2, 5, 8]",
    ):
        assert expected in everything, expected
    assert len(printed) == len(blocks) > 6


def test_the_older_guide_typed_as_written(fleet: Fleet) -> None:
    host = fleet.server.url.removeprefix("http://")  # a bare host on this machine
    (fleet.home / "old").mkdir()
    (fleet.home / "old" / "go.py").write_text("print('went')")
    (fleet.home / "old" / "go.isolate").write_text(
        "{'variables': {'command': ['python3', 'go.py'], 'files': ['go.py']}}"
    )
    printed = fleet.ok("isolate.py", "archive", "-I", host, "-i", "old/go.isolate", "-s", "go.isolated")
    digest = printed.split()[0]
    for what in (digest, "go.isolated"):
        assert "  went\n" in fleet.ok("swarming.py", "run", "--swarming", host, "--isolate-server", host, what)
    fleet.ok("swarming.py", "trigger", "--swarming", host, "--isolate-server", host, "--task", "base_unittests", digest)
    for _ in range(2):  # "can be collected multiple times"
        assert "  went\n" in fleet.ok("swarming.py", "collect", "--swarming", host, "base_unittests")
    assert '"bot-1"' in fleet.ok("swarming.py", "query", "--swarming", host)
    assert "trigger" in fleet.ok("swarming.py", "help")
    assert "--idempotent" in fleet.ok("swarming.py", "help", "trigger")
