"""The command `swarming-server`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from isolate import __version__
from isolate.terminal import EXIT_HELP, EXIT_USAGE, CommandGroup, run_command


@click.group(name="swarming-server", cls=CommandGroup, epilog=EXIT_HELP)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Keep blobs, schedule tasks on bots, and serve their APIs and web pages."""


Decorated = TypeVar("Decorated", bound=Callable[..., Any])

data_option = click.option(
    "--data",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of all data. [default: ~/.local/share/isolate-server, or below $XDG_DATA_HOME]",
)


def limit_options(command: Decorated) -> Decorated:
    """Add what decides how much is kept, and how long."""
    for option in (
        click.option("--keep", metavar="TIME", help="How long unused blobs are kept, as 36h or 14d. [default: 7d; "
                     "1d in namespaces that begin with 'temporary']"),
        click.option("--min-free", metavar="SIZE", help="Disk space to leave free. [default: 256M]"),
        click.option("--max-size", metavar="SIZE", help="Most disk space for blobs, as 200G. [default: no limit]"),
    ):  # fmt: skip
        command = option(command)
    return command


@cli.command(epilog=EXIT_HELP)
@data_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free port.")
@click.option("-v", "--verbose", is_flag=True, help="Log every request to stderr.")
@limit_options
def serve(
    data: Path | None,
    host: str,
    port: int,
    *,
    verbose: bool,
    max_size: str | None,
    min_free: str | None,
    keep: str | None,
) -> int:
    """Serve until SIGTERM or Ctrl-C, which let work in progress finish first.

    What nobody asked for within --keep is deleted, and the oldest earlier where --max-size or --min-free need it; but
    nothing within 6 hours after it was last asked for: then uploads are refused.

    Prints one line to stdout when ready: "Serving http://127.0.0.1:8080/ from DIR".

    Without authentication, which this version does not have, it listens on loopback only, every local caller is an
    administrator, and any bot may join.
    """
    from server.app import run
    from server.config import ServerConfig, blob_limits
    from server.settings import SETTINGS_DIR, InvalidSettings

    config = ServerConfig.from_flags(data, host, port, limits=blob_limits(max_size, min_free, keep))
    try:
        return run(config, announce=click.echo, verbose=verbose)
    except InvalidSettings as error:
        _say_problems([str(config.data_dir / SETTINGS_DIR / one) for one in error.problems])
        return EXIT_USAGE


def _read_share(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> float:
    number = (text or "0").removesuffix("%")
    if not number.replace(".", "", 1).isdigit() or not 0 <= float(number) <= 100:
        raise click.BadParameter(f"{text!r} is not a percentage: write --read-data=5%")
    return float(number) / 100


@cli.command(epilog="Exit status: 0 all is well, 1 something was bad, 2 usage, 130 interrupted.")
@data_option
@click.option(
    "--read-data",
    is_flag=False,
    flag_value="100%",
    metavar="[=N%]",
    callback=_read_share,
    help="Read and verify all contents, or N% of the records of each pack, rounded up; else only headers are read.",
)
@click.option("--seed", type=click.IntRange(min=0), metavar="NUMBER", help="Which N%. [default: others each time]")
@click.option("--rebuild-index", is_flag=True, help="First make the index of blobs anew, from the packs alone.")
def check(data: Path | None, read_data: float, seed: int | None, *, rebuild_index: bool) -> int:
    """Compare the index of blobs with the packs, while no server runs.

    What is bad is set aside and counts as missing, so that the next archive stores it again; its bytes are kept. Prints
    one line for each problem, and a summary.
    """
    from server.config import data_dir
    from server.maintenance import check_data

    return check_data(data_dir(data), click.echo, read_share=read_data, seed=seed, rebuild=rebuild_index)


@cli.command(epilog=EXIT_HELP)
@data_option
@limit_options
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def gc(data: Path | None, *, max_size: str | None, min_free: str | None, keep: str | None, dry_run: bool) -> None:
    """Delete what is too old or too much and give its space back, while no server runs.

    A running server does this by itself, little by little. Nothing that was asked for within the last 6 hours goes,
    also where more is stored than the limits allow; the line that is printed says so.
    """
    from server.config import blob_limits, data_dir
    from server.maintenance import collect_garbage

    collect_garbage(data_dir(data), blob_limits(max_size, min_free, keep), click.echo, dry_run=dry_run)


@cli.command(epilog=EXIT_HELP)
@data_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def stats(data: Path | None, *, as_json: bool) -> None:
    """Print how much is stored, by namespace, while no server runs."""
    from server.config import data_dir
    from server.maintenance import print_stats

    print_stats(data_dir(data), click.echo, as_json=as_json)


@cli.group(epilog=EXIT_HELP)
def config() -> None:
    """Settings of the server: server.toml, bots.toml and pools.toml in the directory `config` of its data."""


@config.command(name="check", epilog=EXIT_HELP)
@data_option
@click.argument("directory", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
def check_config(data: Path | None, directory: Path | None) -> int:
    """Read the settings, in DIRECTORY or those of the server, and print every problem with its line.

    Problems are lines "file:line: reason" on stderr. Scripts for bots are looked at, too, and in the data of a server
    (without DIRECTORY, or with --data) the bot archives that are named. A running server reads its settings again by
    itself whenever a file changes, and keeps what it had if they are wrong.
    """
    from isolate.bars import one_line
    from isolate.errors import InvalidInput
    from server.config import data_dir
    from server.settings import SETTINGS_DIR
    from server.settings_check import absent, look_at

    if data is not None and not directory and not data.is_dir():
        raise InvalidInput(f"There is no directory {str(data)!r}")
    server = data_dir(data) if data is not None or directory is None else None
    place = directory or data_dir(data) / SETTINGS_DIR
    settings, problems = look_at(place, server)
    _say_problems(problems)
    if settings is None:
        return EXIT_USAGE
    for warning in settings.warnings:
        click.echo(f"warning: {one_line(warning)}", err=True)
    missing = ", ".join(absent(place))
    click.echo(f"{place}: fine{f'; not there: {missing}' if missing else ''}")
    return 0


def _say_problems(problems: Sequence[str]) -> None:
    """Print each problem of the settings, `file:line: reason`, on a line of its own."""
    from isolate.bars import one_line

    for problem in problems:
        click.echo(one_line(problem), err=True)


@cli.group(name="bot-archive", cls=CommandGroup, epilog=EXIT_HELP)
def bot_archive() -> None:
    """Make the programs that bots fetch from this server."""


@bot_archive.command(epilog=EXIT_HELP)
@data_option
@click.option(
    "--wheels",
    metavar="DIR",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Pack the wheels in DIR: the one of this product and all it needs. [default: what is installed here]",
)
@click.option("--platform", metavar="NAME", help="For which machines, as linux-x86_64-cp311. [default: this one]")
def build(data: Path | None, wheels: Path | None, platform: str | None) -> None:
    """Make the bot archive of one platform, and offer it to bots at once; a server may be running.

    Bots that came from the server become this version when they are idle; one on which it does not work stays what it
    was, and says so on its page. Prints the platform and the version.
    """
    from server.bot_archive import build as build_archive
    from server.config import data_dir

    key, version = build_archive(data_dir(data), wheels, platform)
    click.echo(f"{key}  {version}")


def main() -> int:
    """Run the command line and return the exit status."""
    return run_command("swarming-server", cli)
