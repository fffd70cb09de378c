"""The flags several commands of `swarming` share, and arguments after `--`.

A root. Knows no command and reads no environment itself: click fills in the variables that the flags name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from isolate import __version__
from isolate.commands import Command
from isolate.terminal import Console, log_options

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

AFTER = "swarming.after"
OUT_FILE = click.Path(dir_okay=False, path_type=Path)
IN_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)


class DelimitedCommand(Command):
    """A command whose arguments after `--` are kept apart, in `ctx.meta[AFTER]`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        place = args.index("--") if "--" in args else len(args)
        ctx.meta[AFTER] = tuple(args[place + 1 :])
        return super().parse_args(ctx, args[:place])


def pair_option(*names: str, metavar: str, text: str) -> Callable[[Decorated], Decorated]:
    """Add an option that takes two words and may be repeated."""
    return click.option(*names, nargs=2, multiple=True, type=str, metavar=metavar, help=text)


def options(*decorators: Callable[[Decorated], Decorated]) -> Callable[[Decorated], Decorated]:
    """Join option decorators into one, in the order they are to be listed in."""

    def apply(command: Decorated) -> Decorated:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


def _ignore(ctx: click.Context, parameter: click.Parameter, value: object) -> None:
    """Take what 2020's tools were told about logging in; who named an account hears that it is not used."""
    console = ctx.find_object(Console)
    if value and parameter.name in _ACCOUNTS and console is not None:
        console.warn(f"{parameter.opts[0]} has no effect: the server asks for no login")


_ACCOUNTS = frozenset({"auth_service_account_json", "auth_client_id", "auth_client_secret"})


def unused(*names: str, **how: Any) -> Callable[[Decorated], Decorated]:
    """Add an option of 2020 that is accepted and changes nothing."""
    return click.option(
        *names, hidden=True, expose_value=False, callback=_ignore, help="Accepted, without effect.", **how
    )


def _timeout(_ctx: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and (math.isnan(value) or (value < 0 and value != -1)):
        raise click.BadParameter(f"{value:g} is neither a number of seconds nor -1.")
    return value


def _regex(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(value) if value else None
    except re.error as error:
        raise click.BadParameter(f"{value!r} is no regular expression: {error}.") from error


class Seconds(click.types.IntParamType):
    """Whole seconds. What is too long for a task is the server's to say; past the limit it is no number of them."""

    name = "seconds"
    limit = 1 << 31

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            seconds = int(value)
        except ValueError:
            self.fail(f"{value!r} is no whole number of seconds.", param, ctx)
        if not 0 <= seconds < self.limit:
            self.fail(f"{value} is less than 0, or more seconds than can be told.", param, ctx)
        return seconds


SECONDS = Seconds()
server_option = options(
    click.option("-S", "--swarming", envvar="SWARMING_SERVER", metavar="URL", help="The server [env SWARMING_SERVER]."),
    click.version_option(__version__, message="%(prog)s %(version)s"),
    unused("--auth-disabled", is_flag=True),
    unused("--auth-no-local-webserver", is_flag=True),
    unused("--auth-tokens-cache"),
    unused("--auth-host-port"),
    unused("--auth-service-account-json", metavar="FILE"),
    unused("--auth-client-id"),
    unused("--auth-client-secret"),
    log_options,
)  # fmt: skip
trigger_options = options(
    click.option("-I", "--isolate-server", envvar="ISOLATE_SERVER", metavar="URL",
                 help="Where the inputs are [env ISOLATE_SERVER; default: the swarming server]."),
    click.option("--namespace", help="Namespace of the hash [default: by its length]."),
    click.option("-s", "--isolated", metavar="HASH", help="What to run: the hash `isolate archive` printed."),
    pair_option("-d", "--dimension", "dimensions", metavar="KEY VALUE", text="What the bot must be; repeatable."),
    click.option("--optional-dimension", "optional", nargs=3, type=(str, str, int), multiple=True,
                 metavar="KEY VALUE SECONDS", help="Insist on it for so long only; repeatable."),
    click.option("-T", "--task-name", "--task", metavar="NAME", help="Name of the task."),
    pair_option("-e", "--env", "env", metavar="KEY VALUE", text="Set a variable; repeatable."),
    pair_option("--env-prefix", "env_prefixes", metavar="KEY PATH", text="Prepend a path; repeatable."),
    click.option("--idempotent", is_flag=True, help="Reuse the result of an equal task that succeeded."),
    click.option("--shards", default=1, show_default=True, metavar="NUMBER", help="Tasks to split the work over."),
    click.option("--priority", default=200, show_default=True, metavar="NUMBER", type=click.IntRange(1, 255),
                 help="Lower is more urgent."),
    click.option("--tags", multiple=True, metavar="KEY:VALUE", help="Tag of the task; repeatable."),
    click.option("--user", help="Who asks [default: the current user]."),
    click.option("--expiration", "--deadline", "expiration_s", default=21600, show_default=True,
                 type=SECONDS, help="Seconds to wait for a bot."),
    click.option("--hard-timeout", "hard_timeout_s", default=3600, show_default=True, type=SECONDS,
                 help="Seconds to run."),
    click.option("--io-timeout", "io_timeout_s", default=1200, show_default=True, type=SECONDS,
                 help="Seconds without output; 0 for any."),
    click.option("--raw-cmd", "raw_command", is_flag=True, help="What follows -- is the whole command."),
    click.option("--relative-cwd", metavar="DIR", help="Where a raw command runs."),
    click.option("-o", "--output", "outputs", multiple=True, metavar="PATH",
                 help="Also bring back; repeatable."),
    pair_option("--named-cache", "named_caches", metavar="NAME PATH", text="Keep PATH on the bot; repeatable."),
    click.option("--secret-bytes-path", "secret", type=click.File("rb"), help="Give the task this secret."),
    click.option("--service-account", help="Account the task runs as."),
    click.option("--pool-task-template", default="AUTO", hidden=True,
                 type=click.Choice(["AUTO", "CANARY_PREFER", "CANARY_NEVER", "SKIP"])),
    click.option("--realm", hidden=True),
    click.option("--resultdb", is_flag=True, hidden=True),
    click.option("--cipd-package", "cipd_packages", multiple=True, hidden=True, metavar="PATH:NAME:VERSION"),
    click.option("--wait-for-capacity", is_flag=True, help="Wait even when no bot like this is known."),
    click.option("--lower-priority", is_flag=True, help="Run at a lower process priority."),
    click.option("--containment-type", "containment", default="NONE", hidden=True,
                 type=click.Choice(["NONE", "AUTO", "JOB_OBJECT"])),
)  # fmt: skip
collect_options = options(
    click.option("-t", "--timeout", "timeout_s", type=float, callback=_timeout, metavar="SECONDS",
                 help="Seconds to wait; 0 for ever, -1 not at all."),
    click.option("--decorate", is_flag=True, help="Put boxes around the output of each shard."),
    click.option("--print-status-updates", is_flag=True, help="Say every 300 s what is still awaited."),
    click.option("--task-summary-json", type=OUT_FILE, help="Write what the server says."),
    click.option("--task-output-dir", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
                 help="Put outputs into DIR/<shard>/."),
    click.option("--task-output-stdout", default="all", type=click.Choice(["all", "json", "console", "none"]),
                 show_default=True, help="Where the tasks' stdout goes."),
    click.option("--filepath-filter", metavar="REGEX", callback=_regex,
                 help="Bring only outputs whose path begins so; with --task-output-dir."),
    click.option("--perf", is_flag=True, help="Add performance statistics to the summary."),
)  # fmt: skip
