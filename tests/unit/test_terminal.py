"""isolate.terminal: exit statuses, one-line errors, groups of commands."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
import threading

import click
import pytest

from isolate import errors
from isolate.terminal import CommandGroup, Console, describe, run_command, verbose_option, version_option


def command_that(action: object) -> click.Command:
    @click.command()
    @verbose_option
    @version_option
    def tool() -> object:
        if isinstance(action, BaseException):
            raise action
        return action

    return tool


def tool_group(default: str = "help") -> CommandGroup:
    group = CommandGroup("tool", default=default)

    @group.command()
    @click.option("--number", type=int, default=0)
    def archive(number: int) -> int:
        click.echo(f"archived {number}")
        return number

    @group.command()
    def again() -> None:
        click.echo("again")

    return group


@pytest.mark.parametrize(
    ("action", "status"),
    [
        (None, 0),
        (7, 7),
        (errors.IsolateError("No"), 1),
        (errors.InvalidInput("No"), 2),
        (errors.InvalidManifest("No"), 1),
        (errors.InvalidIsolateFile("No"), 1),
        (errors.UploadFailed("No"), 101),
        (errors.Unavailable("No"), 1),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 1),
        (ValueError("a bug"), 1),
        (KeyboardInterrupt(), 130),
        (ExceptionGroup("g", [ValueError("x"), ExceptionGroup("h", [errors.UploadFailed("No")])]), 101),
    ],
)
def test_every_ending_has_its_status(action: object, status: int) -> None:
    assert run_command("tool", command_that(action), []) == status


def test_an_error_is_one_line_without_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    run_command("tool", command_that(errors.NotFound("Blob\n  is gone \udcff")), [])
    assert capsys.readouterr() == ("", "tool: error: Blob is gone \\udcff\n")


def test_twice_verbose_shows_the_traceback_before_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    run_command("tool", command_that(errors.NotFound("Gone")), ["-vv"])
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith("tool: error: Gone\n")


def test_an_unknown_option_is_a_usage_error_of_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("tool", command_that(None), ["--nonsense"]) == 2
    assert capsys.readouterr().err == "tool: error: No such option '--nonsense'. (try 'tool --help')\n"


def test_version_names_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("tool", command_that(None), ["--version"]) == 0
    assert capsys.readouterr().out.startswith("tool 0.")


@pytest.mark.parametrize("arguments", [[], ["help"], ["--help"]])
def test_help_in_three_ways(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("tool", tool_group(), arguments) == 0
    assert "archive" in capsys.readouterr().out


def test_help_of_one_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("tool", tool_group(), ["help", "archive"]) == 0
    assert "--number" in capsys.readouterr().out
    assert run_command("tool", tool_group(), ["help", "nonsense"]) == 2


@pytest.mark.parametrize(("typed", "status"), [("archive", 3), ("ar", 3), ("a", 2), ("x", 2)])
def test_a_unique_prefix_is_enough(typed: str, status: int) -> None:
    assert run_command("tool", tool_group(), [typed, "--number", "3"]) == status


@pytest.mark.parametrize("arguments", [[], ["--number=0"], ["--number", "0"]])
def test_the_default_command_takes_options(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("tool", tool_group(default="archive"), arguments) == 0
    assert capsys.readouterr().out == "archived 0\n"


def test_an_os_error_is_described_by_its_reason_and_path() -> None:
    assert describe(OSError(errno.EACCES, "Permission denied", "/secret")) == "Permission denied: '/secret'"
    assert describe(ValueError("odd")) == "Unexpected ValueError: odd (-vv shows where)"


def test_the_foreseeable_error_of_a_group_is_its_cause() -> None:
    known = errors.Refused("No")
    assert errors.first_cause(ExceptionGroup("g", [RuntimeError("late"), known])) is known


def test_watching_counts_and_shows_problems(capsys: pytest.CaptureFixture[str]) -> None:
    with Console("tool").watch() as monitor:
        monitor.count("hashed_files", 2)
        monitor.count("hashed_files")
        monitor.problem("Cache is unreadable")
    assert monitor.snapshot() == {"hashed_files": 3}
    assert capsys.readouterr().err == "tool: warning: Cache is unreadable\n"


def no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


def test_without_a_thread_nothing_is_shown_and_all_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    console = Console("tool")
    with console.watch() as monitor:
        monitor.count("hashed_files", 2)
        monitor.count("started_commands")  # takes the bars away, if there are any
        console.result("done")
        monitor.problem("Cache is unreadable")
    assert monitor.snapshot() == {"hashed_files": 2, "started_commands": 1}
    assert capsys.readouterr() == ("done\n", "tool: warning: Cache is unreadable\n")


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_what_the_system_does_not_give_is_named_with_its_limit(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    for raised in (error, ExceptionGroup("g", [error])):
        assert run_command("tool", command_that(raised), []) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert re.fullmatch(r"tool: error: N[^:]+: see the limits? on [^:]*\((ulimit -u, )?ulimit -v\)", line)
    assert errors.lacking(RuntimeError("odd")) == errors.lacking(errors.Refused("can't start new thread")) == ""


def test_a_variable_is_not_blamed_on_the_flag(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    group = CommandGroup("tool")
    group.command("look")(verbose_option(lambda: None))
    monkeypatch.setenv("ISOLATE_DEBUG", "loud")
    assert run_command("tool", group, ["look"]) == 2
    assert "ISOLATE_DEBUG (or verbose in config.toml) is no number: 'loud'" in capsys.readouterr().err


@pytest.mark.parametrize(("is_read", "said"), [(False, ""), (True, "tool: error: Broken pipe\n")])
def test_who_has_read_enough_needs_no_reason(is_read: bool, said: str) -> None:
    """A pipe that breaks is an error, unless it is our own stdout and nobody reads that."""
    program = """if True:
        import sys
        from isolate.terminal import CommandGroup, run_command
        group = CommandGroup("tool")

        @group.command("fail")
        def fail():
            raise ExceptionGroup("a group", [BrokenPipeError(32, "Broken pipe")])

        sys.stdin.read()
        sys.exit(run_command("tool", group, ["fail"]))
    """
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        if not is_read:
            process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == said
    assert process.returncode == 1
