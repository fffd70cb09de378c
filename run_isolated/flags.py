"""The flags of `run_isolated` beside those about the command itself: caches, isolation, the log, and some of 2020.

Knows how flags are spelt and what they default to, no run. The invariant: a flag that would be silently without effect,
and whose effect a caller counts on, is refused with the reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from isolate.flags import all_of
from run_isolated.ways import DEFAULT, WAYS

LOG_FILE = "run_isolated.log"  # as in 2020
_CIPD = "run_isolated.cipd_enabled"
_WITHOUT_CIPD = "put what it installs into the tree, or into a named cache"
_REFUSED = {
    "--cipd-package": f"CIPD packages are not supported: {_WITHOUT_CIPD}",
    "--cas-instance": "Trees in a remote CAS are not supported: use --isolated and --isolate-server",
    "--cas-digest": "Trees in a remote CAS are not supported: use --isolated and --isolate-server",
    "--cas-cache": "Trees in a remote CAS are not supported: the cache is --cache",
}
# They only say how CIPD is to work, and old callers always give them.
_IDLE_WITHOUT_CIPD = ("--cipd-server", "--cipd-client-package", "--cipd-client-version", "--cipd-cache")


class _Place(click.Path):
    """A path that is not empty: that would be the current directory, which nobody means."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


class _Number(click.IntRange):
    """A range that is called what people call it."""

    name = "number"


def _say_without_effect(ctx: click.Context, option: click.Parameter, value: int | None) -> None:
    if value and ctx.obj is not None:
        ctx.obj.warn(f"{option.opts[0]} has no effect: it limits job objects, which only Windows has")


DIRECTORY = _Place(path_type=Path, file_okay=False)
FILE = _Place(path_type=Path, dir_okay=False)

caching = all_of(
    click.option("--cache", "cache_dir", type=DIRECTORY, help="Where files are kept."),
    click.option("--max-cache-size", type=_Number(0), default=50 << 30, metavar="BYTES", show_default=True),
    click.option("--min-free-space", type=_Number(0), default=2 << 30, metavar="BYTES", show_default=True),
    click.option("--max-items", type=_Number(0), default=100_000, metavar="N", show_default=True),
    click.option("--named-cache", "named_caches", nargs=3, multiple=True, metavar="NAME PATH HINT",
                 help="Directory that outlives the run, and its size if it is new. Repeatable."),
    click.option("--named-cache-root", type=DIRECTORY, help="Where those are kept."),
)  # fmt: skip
inputs = all_of(
    click.option("--map", "mapping", type=click.Choice(WAYS), default=DEFAULT, show_default=True,
                 help="How files get from the cache into the tree; auto links, reflink shares the bytes of files "
                      "of their own, and both copy where they cannot; overlay mounts a tree that is kept (Linux), "
                      "and is auto where it cannot."),
    click.option("--verify-inputs", is_flag=True, help="Hash what the cache has before it is used."),
)  # fmt: skip
isolation = all_of(
    click.option("--no-network", is_flag=True, help="Give the command nothing but a loopback (Linux)."),
    click.option("--lower-priority", is_flag=True, help="Be nice to the rest of this machine."),
    click.option("--switch-to-account", metavar="ID", help="Default account in the LUCI_CONTEXT of the command."),
    click.option("--containment-type", "containment", type=click.Choice(["NONE", "AUTO", "JOB_OBJECT"]), default="NONE",
                 help="Windows only: AUTO has no effect elsewhere, JOB_OBJECT fails."),
    *(click.option(name, type=_Number(0), callback=_say_without_effect, hidden=True, expose_value=False)
      for name in ("--limit-processes", "--limit-total-committed-memory")),
)  # fmt: skip
logs = all_of(
    click.option("-l", "--log-file", type=_Place(path_type=Path), default=LOG_FILE,
                 show_default=True, help="Where to note what is done, if that can be written."),
    click.option("--no-log", is_flag=True, help="Note it nowhere."),
    click.option("--report-on-exception", is_flag=True, hidden=True, expose_value=False),  # to nowhere
)  # fmt: skip


def _refuse(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    if value:
        raise click.UsageError(_REFUSED[option.opts[0]], ctx)


def _refuse_cipd(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    """Refuse a setting of CIPD unless it is switched off."""
    if value and ctx.meta.get(_CIPD) is not False:
        raise click.UsageError(f"{option.opts[0]}: CIPD is not supported (--cipd-enabled=false): {_WITHOUT_CIPD}", ctx)


def _only_false(ctx: click.Context, _: click.Parameter, value: bool | None) -> None:
    if value:
        raise click.UsageError(f"CIPD is not supported (--cipd-enabled=false): {_WITHOUT_CIPD}", ctx)
    ctx.meta[_CIPD] = value


_HIDDEN: dict[str, Any] = {"hidden": True, "expose_value": False}
elsewhere = all_of(
    click.option(
        "--cipd-enabled", type=bool, is_flag=False, flag_value="true", is_eager=True, callback=_only_false, **_HIDDEN
    ),
    *(click.option(name, callback=_refuse_cipd, **_HIDDEN) for name in _IDLE_WITHOUT_CIPD),
    *(click.option(name, multiple=True, callback=_refuse, **_HIDDEN) for name in _REFUSED),
)
