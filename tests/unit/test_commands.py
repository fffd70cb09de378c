"""isolate.commands: abbreviations, near misses, defaults from a file, completion."""

from __future__ import annotations

from collections.abc import Mapping

import click
import pytest

from isolate.commands import CommandGroup
from isolate.settings import Settings, parse
from isolate.terminal import run_command


def tool() -> CommandGroup:
    group = CommandGroup("tool")

    @group.command("collect")
    @click.option("--task-name", "--task", default="-")
    @click.option("--task-output-dir", default="-")
    @click.option("--task-output-stdout", type=click.Choice(["all", "none"]), default="all")
    @click.option("-d", "--dimension", "dimensions", nargs=2, multiple=True)
    @click.option("--decorate", is_flag=True)
    @click.option("--priority", type=int, default=200)
    @click.option("-S", "--swarming", envvar="TOOL_SERVER", default="-")
    def collect(**given: object) -> None:
        click.echo(" ".join(f"{key}={value}" for key, value in sorted(given.items())))

    @group.command("bot-delete")
    def bot_delete() -> None:
        click.echo("deleted")

    @group.command("bots")
    def bots() -> None:
        click.echo("listed")

    return group


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0, settings: Settings | None = None) -> str:
    assert run_command("tool", tool(), arguments, lambda: settings or Settings()) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--task", "x"], "task_name=x"),  # spelt out, although it begins three others
        (["--task-n", "x"], "task_name=x"),
        (["--task-output-d=x"], "task_output_dir=x"),
        (["--deco"], "decorate=True"),
        (["--dim", "k", "--deco"], "dimensions=(('k', '--deco'),)"),  # a value is no option
        (["-d", "k", "v"], "dimensions=(('k', 'v'),)"),
        (["--task-output-s", "none"], "task_output_stdout=none"),
        (["--prio", "7"], "priority=7"),
    ],
)
def test_long_options_may_be_abbreviated(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert expected in said(capsys, "collect", *arguments)


@pytest.mark.parametrize("option", ["--task-output", "--d", "--nonsense", "--decorated"])
def test_what_means_two_things_or_none_is_refused(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert f"No such option '{option}'" in said(capsys, "collect", option, status=2)


def test_help_is_short_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--decorate" in said(capsys, "collect", "-h")
    assert "bot-delete" in said(capsys, "-h")


@pytest.mark.parametrize("name", ["bot-delete", "bot_delete", "bot-d", "bot-delte", "bot_del"])
def test_a_command_by_any_name_that_can_be_no_other(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert said(capsys, name) == "deleted\n"


@pytest.mark.parametrize("name", ["bot", "b", "zzz", "c0"])
def test_a_name_that_could_be_several_or_none_is_refused(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert f"No such command '{name}'" in said(capsys, name, status=2)


def test_flags_win_over_the_environment_and_that_over_the_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = parse("swarming = 'file'\n[collect]\npriority = 5\ndimension = [['k', 'v']]", "config.toml")
    text = said(capsys, "collect", settings=settings)
    assert "dimensions=(('k', 'v'),)" in text
    assert "priority=5" in text
    assert "swarming=file" in text
    monkeypatch.setenv("TOOL_SERVER", "env")
    assert "swarming=env" in said(capsys, "collect", settings=settings)
    assert "swarming=flag" in said(capsys, "collect", "-S", "flag", settings=settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[collect]\nnonsense = 1", "config.toml: [collect] knows no 'nonsense'"),
        ("[collect]\npriority = 'high'", "'high' is not a valid integer"),
        ("nonsense = 1", "config.toml: 'nonsense' is none of"),
        ("[collect]\npriority = 2020-01-01", "config.toml: collect.priority is no text, number"),
        ("swarming = ", "config.toml: Invalid value"),
        ("swarming = 5", "config.toml: swarming must be the URL of a server, in quotes, not 5"),
        ("[collect]\nuser = ['x']", 'config.toml: collect.user must be a name, in quotes, not ["x"]'),
    ],
)
def test_a_file_that_makes_no_sense_is_one_line(capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    run_command("tool", tool(), ["collect"], lambda: parse(text, "config.toml"))
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_a_table_of_another_program_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert "priority=200" in said(capsys, "collect", settings=parse("[archive]\nx = 1", "config.toml"))


ALSO = {
    "bash": "complete -o nosort -F _swarming_completion swarming.py",
    "zsh": "compdef _swarming_completion swarming.py",
    "fish": 'complete --no-files --command swarming.py --arguments "(_swarming_completion)"',
}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_program(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    assert "_TOOL_COMPLETE" in said(capsys, "completion", shell)
    assert "tool.py" not in said(capsys, "completion", shell)
    assert run_command("swarming", tool(), ["completion", shell]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == ALSO[shell]


def completions(words: str) -> Mapping[str, str]:
    from click.shell_completion import ShellComplete

    *before, incomplete = words.split(" ")
    found = ShellComplete(tool(), {}, "tool", "_TOOL_COMPLETE").get_completions(before, incomplete)
    return {item.value: str(item.help) for item in found}


def test_shells_are_told_commands_and_options() -> None:
    assert set(completions("b")) == {"bots", "bot-delete"}
    assert set(completions("collect --task-o")) == {"--task-output-dir", "--task-output-stdout"}
    assert set(completions("collect --task-output-stdout ")) == {"all", "none"}
