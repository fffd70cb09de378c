"""The command `swarming-server`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from isolate import __version__
from isolate.terminal import EXIT_HELP, CommandGroup, run_command


@click.group(name="swarming-server", cls=CommandGroup, epilog=EXIT_HELP)
@click.version_option(__version__)
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
) -> None:
    """Serve until SIGTERM or Ctrl-C, which let work in progress finish first.

    What nobody asked for within --keep is deleted, and the oldest earlier where --max-size or --min-free need it; but
    nothing within 6 hours after it was last asked for: then uploads are refused.

    Prints one line to stdout when ready: "Serving http://127.0.0.1:8080/ from DIR".

    Without authentication, which this version does not have, it listens on loopback only, every local caller is an
    administrator, and any bot may join.
    """
    from server.app import run
    from server.config import ServerConfig, blob_limits

    limits = blob_limits(max_size, min_free, keep)
    run(ServerConfig.from_flags(data, host, port, limits=limits), announce=click.echo, verbose=verbose)


def main() -> int:
    """Run the command line and return the exit status."""
    return run_command("swarming-server", cli)
