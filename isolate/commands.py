"""Commands as users type them: abbreviated, with `-` or `_`, with defaults from a file, completed by shells.

Knows no command and no terminal. The invariant: what is typed means one thing or is refused; what is spelt out is never
taken for another.
"""

from __future__ import annotations

from typing import Any

import click

from isolate.settings import Settings

SHELLS = ("bash", "zsh", "fish")
_ALSO_COMPLETES = {
    "bash": "complete -o nosort -F {function} {program}",
    "zsh": "compdef {function} {program}",
    "fish": 'complete --no-files --command {program} --arguments "({function})"',
}
_WITH_OLDER_SPELLING = ("isolate", "isolateserver", "swarming")  # installed as `<name>.py`, too
CLOSE = 0.75  # how like a command a word must be: one letter wrong or missing in five
_SHORT = 1  # letters of a short option, which is never an abbreviation


class Command(click.Command):
    """A command whose long options may be abbreviated, as those of 2020's tools, and have defaults in a file."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        extra.setdefault("token_normalize_func", self._spelt_out)
        settings = getattr(parent.find_root().obj, "settings", None) if parent else None
        if isinstance(settings, Settings):
            extra.setdefault("default_map", settings.defaults(self.name or "", self.long_options()))
        return super().make_context(self.name or info_name, args, parent, **extra)

    def long_options(self) -> dict[str, str]:
        """Return the parameter that each long option sets, by the option's name without dashes."""
        return {
            name[2:]: parameter.name
            for parameter in self.params
            if isinstance(parameter, click.Option) and parameter.name
            for name in (*parameter.opts, *parameter.secondary_opts)
            if name.startswith("--")
        }

    def _spelt_out(self, word: str) -> str:
        """Return the one long option that begins with `word`, else `word`."""
        known = self.long_options()
        known.setdefault("help", "help")
        if len(word) <= _SHORT or word in known:
            return word
        meant = {known[name]: name for name in sorted(known, reverse=True) if name.startswith(word)}
        return next(iter(meant.values())) if len(meant) == 1 else word


class CommandGroup(click.Group):
    """Commands that may be abbreviated, `help [COMMAND]` and `completion`; runs `default` when none is given."""

    command_class = Command

    def __init__(self, *args: Any, default: str = "help", **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {}).setdefault("help_option_names", ["-h", "--help"])
        super().__init__(*args, **kwargs)
        self._default = default
        self.add_command(_help)
        self.add_command(_completion)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command; unless it says otherwise its help ends as that of the group, with the exit statuses."""
        cmd.epilog = cmd.epilog or self.epilog
        super().add_command(cmd, name)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command that is meant: spelt out, its beginning, or a near miss that can be no other."""
        word = cmd_name.replace("_", "-")
        names = self.list_commands(ctx)
        meant = [word] if word in names else [name for name in names if name.startswith(word)]
        if not meant:
            import difflib  # only for who mistypes

            meant = difflib.get_close_matches(word, names, n=2, cutoff=CLOSE)
        return super().get_command(ctx, meant[0]) if len(meant) == 1 else None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {option for parameter in self.get_params(ctx) for option in parameter.opts}
        if ctx.resilient_parsing:  # a shell asks what could come next
            return super().parse_args(ctx, args)
        is_foreign = bool(args) and args[0].startswith("-") and not _is_of(own, args[0])
        if is_foreign and self._default == "help":
            hint = f"options come after the command, as in '{ctx.command_path} COMMAND {args[0]}'"
            raise click.UsageError(f"No such option {args[0]!r}: {hint}", ctx)
        if not args or is_foreign:
            args = [self._default, *args]
        return super().parse_args(ctx, args)


def _is_of(own: set[str], word: str) -> bool:
    """Say whether `word` is one of the options `own`, or several short ones of them written together."""
    together = [f"-{letter}" for letter in word[1:]]
    return word.partition("=")[0] in own or (bool(together) and own.issuperset(together))


@click.command("help", short_help="Print help, of a command if one is named.")
@click.argument("command", nargs=-1)
@click.pass_context
def _help(ctx: click.Context, command: tuple[str, ...]) -> None:
    """Print help, of COMMAND if one is named."""
    shown = ctx.parent
    assert shown is not None, "help is part of a group"
    for name in command:
        found = shown.command.get_command(shown, name) if isinstance(shown.command, click.Group) else None
        if found is None:
            raise click.UsageError(f"No such command {name!r}.", ctx.parent)
        shown = click.Context(found, info_name=found.name, parent=shown)
    click.echo(shown.get_help())


@click.command("completion", short_help="Print what makes a shell complete this command.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def _completion(ctx: click.Context, shell: str) -> None:
    """Print a script that makes SHELL complete this command; for bash: eval "$(COMMAND completion bash)"."""
    from click.shell_completion import get_completion_class

    root = ctx.find_root()
    program = root.info_name or ""
    completion = get_completion_class(shell)
    assert completion is not None, "every shell of SHELLS is known to click"
    variable = f"_{program}_COMPLETE".replace("-", "_").upper()
    found = completion(root.command, {}, program, variable)
    click.echo(found.source())
    if program in _WITH_OLDER_SPELLING:
        click.echo(_ALSO_COMPLETES[shell].format(function=found.func_name, program=f"{program}.py"))
