"""What an installed script imports: quiet from the call of a door on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from isolate import entry

COMMANDS = ("isolate", "isolateserver", "run_isolated", "swarming", "swarming-server", "swarming-bot")


def start(command: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as its installed script does."""
    door = command.replace("-", "_")
    script = f"import sys; from isolate.entry import {door}; sys.exit({door}())"
    words = [sys.executable, "-c", script, *arguments]
    return subprocess.run(words, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.mark.parametrize("command", COMMANDS)
def test_an_interruption_while_modules_are_imported_is_quiet(command: str, tmp_path: Path) -> None:
    # Python leaves an interrupt ignored that was ignored when it started, as shells have it in the background.
    lines = (
        "import signal",
        "signal.signal(signal.SIGINT, signal.default_int_handler)",
        "signal.raise_signal(signal.SIGINT)",
    )
    (tmp_path / "click.py").write_text("\n".join(lines))
    done = start(command, "--help", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(("event", "name"), [("call", "cb"), ("c_return", "acquire_lock")])
def test_a_signal_amid_the_import_machinery_is_neither_lost_nor_leaves_it_locked(
    number: str, event: str, name: str
) -> None:
    # An exception is ignored in the one place; in the other it comes between the taking of a lock and its `try`.
    script = f"""
import _imp, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from isolate.entry import isolate
def look(frame, event, argument):
    if event == {event!r} and (argument.__name__ if argument else frame.f_code.co_name) == {name!r}:
        sys.setprofile(None)
        os.kill(os.getpid(), signal.{number})
os._exit = lambda status: sys.exit(status + 1000 * _imp.lock_held())
sys.setprofile(look)
isolate()
"""
    words = [sys.executable, "-c", script, "--version"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (128 + getattr(signal, number), "", "")


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_amid_a_later_import_is_not_lost_either(number: str) -> None:
    script = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import difflib, isolate.cli  # the parser imports the one when it meets a short flag
from isolate.entry import isolate
def look(frame, event, argument):
    if event == "call" and frame.f_code.co_name == "cb":
        sys.setprofile(None)
        os.kill(os.getpid(), signal.{number})
sys.setprofile(look)
isolate()
"""
    words = [sys.executable, "-c", script, "download", "-I", "http://127.0.0.1:9", "-s", "0" * 64, "-t", "/nowhere"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (128 + getattr(signal, number), "")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("command", ["isolate", "run_isolated", "swarming"])
def test_the_other_spelling_is_quiet_before_its_door_is_there(command: str) -> None:
    script = f"""
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
def look(frame, event, argument):
    if frame.f_code.co_name == "_step_aside":
        sys.setprofile(None)
        signal.raise_signal(signal.SIGINT)
sys.setprofile(look)
runpy.run_path({str(Path(entry.__file__).parent / "bin" / command)!r} + ".py", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_nothing_heavy_is_imported_before_the_handler_stands() -> None:
    script = "import isolate.entry, sys; print(*[m for m in sys.modules if m.startswith(('isolate', 'click'))])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["isolate", "isolate.entry"]


def test_the_interrupted_status_is_that_of_the_terminal() -> None:
    from isolate.terminal import EXIT_INTERRUPTED

    assert entry.EXIT_INTERRUPTED == EXIT_INTERRUPTED


def test_a_profile_comes_behind_the_output_when_it_is_asked_for() -> None:
    plain = start("isolate", "--version")
    done = start("isolate", "--version", SWARMING_PROFILE="1")
    assert done.returncode == 0
    assert done.stdout.startswith(plain.stdout)
    assert "function calls" in done.stdout.removeprefix(plain.stdout)


@pytest.mark.parametrize(
    ("command", "number", "ignored"),
    [
        ("swarming", "SIGTERM", False), ("swarming", "SIGHUP", False), ("swarming", "SIGTERM", True),
        ("isolate", "SIGTERM", False), ("isolateserver", "SIGHUP", False),
    ],
)  # fmt: skip
def test_a_signal_that_ends_a_command_has_its_status(command: str, number: str, ignored: bool, tmp_path: Path) -> None:
    lines = (
        "import signal",
        f"signal.signal(signal.SIGINT, {'signal.SIG_IGN' if ignored else 'signal.default_int_handler'})",
        f"signal.raise_signal(signal.{number})",
    )
    (tmp_path / "click.py").write_text("\n".join(lines))
    done = start(command, "--help", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (128 + getattr(signal, number), "", "")


@pytest.mark.parametrize(
    ("command", "words", "status", "said"),
    [
        ("swarming", "bots >&-", 1, "swarming: error: Stdout is closed, where results are to go\n"),
        ("swarming", "bot-delete b7 <&-", 2, "Stdin is closed, where the answer is to come from"),
        ("swarming", "post tasks/new <&-", 2, "Stdin is closed, where the JSON to post is to come from"),
        ("swarming", "bots -S http://127.0.0.1:9 2>&-", 1, ""),
        ("isolate", "ls x >&-", 1, "isolate: error: Stdout is closed, where results are to go\n"),
        ("isolate", "fmt - <&-", 2, "Stdin is closed, where the text is to come from"),
        ("isolate", "nonsense 2>&-", 2, ""),
        ("isolate", "nonsense 2>/dev/full", 2, ""),
        ("isolateserver", "archive x >&-", 1, "isolateserver: error: Stdout is closed, where results are to go\n"),
        ("isolateserver", "archive - <&-", 2, "Stdin is closed, where the list of paths is to come from"),
    ],
)
def test_streams_that_are_closed(command: str, words: str, status: int, said: str) -> None:
    script = f"import sys; from isolate.entry import {command}; sys.exit({command}())"
    line = ["sh", "-c", f'"$0" -c "$1" {words}', sys.executable, script]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == status
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == bool(said)


def test_a_stdout_that_takes_no_more_is_one_line(tmp_path: Path) -> None:
    script = "import sys; from isolate.entry import swarming; sys.exit(swarming())"
    line = ["sh", "-c", 'ulimit -f 0; "$0" -c "$1" --version > "$2"', sys.executable, script, str(tmp_path / "out")]
    done = subprocess.run(line, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "swarming: error: Cannot write to stdout: File too large\n")


def test_a_small_tree_does_not_pay_for_what_large_ones_and_isolate_files_need() -> None:
    needed = "isolate.cli, isolate.steps, isolate.storing, isolate.config, isolate.cas.remote"
    script = f"import {needed}, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "isolate.archive" in loaded
    assert not {"isolate.pool", "msgspec", "isolate.selection", "isolate.choosing", "rich"} & {*loaded}
