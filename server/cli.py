"""The command `swarming-server`."""

from __future__ import annotations

from pathlib import Path

import click

from isolate import __version__
from isolate.terminal import EXIT_HELP, CommandGroup, run_command


@click.group(name="swarming-server", cls=CommandGroup, epilog=EXIT_HELP)
@click.version_option(__version__)
def cli() -> None:
    """Keep blobs, schedule tasks on bots, and serve their APIs and web pages."""


@cli.command(epilog=EXIT_HELP)
@click.option(
    "--data",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of all data; made if absent. [default: ~/.local/share/isolate-server, or below $XDG_DATA_HOME]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free port.")
@click.option("-v", "--verbose", is_flag=True, help="Log every request to stderr.")
def serve(data: Path | None, host: str, port: int, *, verbose: bool) -> None:
    """Serve until SIGTERM or Ctrl-C, which let work in progress finish first.

    Prints one line to stdout when ready: "Serving http://127.0.0.1:8080/ from DIR".

    Without authentication, which this version does not have, it listens on loopback only, every local caller is an
    administrator, and any bot may join.
    """
    from server.app import run
    from server.config import ServerConfig

    run(ServerConfig.from_flags(data, host, port), announce=click.echo, verbose=verbose)


def main() -> int:
    """Run the command line and return the exit status."""
    return run_command("swarming-server", cli)
