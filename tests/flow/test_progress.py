"""Bars on a real terminal: what they show, and that they leave it before a command gets it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flow.terminals import on_terminal

PROGRAM = """
import sys
from isolate import bars
from isolate.terminal import Console

bars._QUIET_S = bars._PLAIN_S = 0.01
with Console("tool").watch() as monitor:
    monitor.expect("uploaded_blobs", 10)
    monitor.expect("uploaded_bytes", 4_000)
    monitor.count("archived_bytes", 8_000)
    monitor.count("uploaded_bytes", 1_000)
    monitor.count("uploaded_blobs", 2)
    sys.stdin.readline()
    monitor.count("started_commands")
    print("the command speaks")
    sys.stdin.readline()
    monitor.count("uploaded_blobs", 3)
print("over")
"""

SPEAKING = """
import sys
import termios
from isolate import bars
from isolate.terminal import Console

bars._QUIET_S = 0.01
modes = termios.tcgetattr(0)
modes[3] &= ~termios.ECHO
termios.tcsetattr(0, termios.TCSANOW, modes)
console = Console("tool")
console.verbosity = 1
with console.watch() as monitor:
    for stage in ("hashed_files", "uploaded_blobs"):
        monitor.expect(stage, 10)
    sys.stdin.readline()
    console.result("deadbeef  tree")
    console.note("tree: 1 file")
    sys.stdin.readline()
    monitor.problem("gone")
    console.error("lost")
    sys.stdin.readline()
"""


def seen(said: str) -> list[str]:
    """Return the lines of a screen that got `said`, without those that are empty."""
    lines, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", said):
        if piece == "\r":
            column = 0
        elif piece == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif piece == "\x1b[1A":
            row -= 1
        elif not piece.startswith("\x1b"):
            lines[row] = lines[row][:column].ljust(column) + piece + lines[row][column + len(piece) :]
            column += len(piece)
    return [line.rstrip() for line in lines if line.strip()]


def test_what_is_said_meanwhile_stays_above_the_bars(tmp_path: Path) -> None:
    env = {**os.environ, "NO_COLOR": "1", "COLUMNS": "80"}
    said = ["deadbeef  tree", "tool: tree: 1 file", "tool: warning: gone", "tool: error: lost"]
    with on_terminal([sys.executable, "-c", SPEAKING], env, str(tmp_path)) as terminal:
        terminal.expect("uploading")
        for told in (2, 4):
            terminal.type("\n")
            terminal.expect(said[told - 1])
            terminal.expect("uploading")
            assert seen(terminal.said)[:told] == said[:told]
        terminal.type("\n")
        assert terminal.end() == 0
    assert seen(terminal.said) == said


@pytest.mark.parametrize(
    ("term", "shown"),
    [
        ("xterm", r"1/4 kB  2/10 files  (\S+ \wB/s  )?dedup 2.0:1"),
        ("dumb", r"tool: uploading 25%  1/4 kB  2/10 files  (\S+ \wB/s  )?dedup 2.0:1"),
    ],
)
def test_bars_leave_the_terminal_before_a_command_gets_it(tmp_path: Path, term: str, shown: str) -> None:
    env = {**os.environ, "NO_COLOR": "1", "COLUMNS": "80"}
    # The double says that its terminal is an xterm; what is no terminal to draw on says so itself.
    program = PROGRAM if term == "xterm" else f"import os\nos.environ['TERM'] = {term!r}\n{PROGRAM}"
    with on_terminal([sys.executable, "-c", program], env, str(tmp_path)) as terminal:
        terminal.expect("dedup 2.0:1")
        assert re.search(shown, terminal.said)
        terminal.type("\n")
        terminal.expect("the command speaks")
        before, after = terminal.said.split("the command speaks")
        terminal.type("\n")
        terminal.expect("over")
        assert terminal.end() == 0
    assert "uploading" in before
    assert "uploading" not in terminal.said.split("the command speaks")[1]
    assert after.strip() == ""
    if term == "xterm":
        assert before.endswith("\x1b[2K")  # the last thing that was drawn is erased
        assert "\x1b[3" not in before  # NO_COLOR


def test_a_line_now_and_then_where_there_is_no_terminal() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("tool: uploading 25%  1/4 kB  2/10 files")
        said, error = process.communicate("\n\n", timeout=60)
    assert said == "the command speaks\nover\n"
    assert "\x1b" not in error
