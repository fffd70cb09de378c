"""The terminal: exit statuses, one-line errors, progress; shared by every command line.

A root: only cli modules import it. The invariants: stdout carries results and nothing else; an error is one line on
stderr, and a traceback only for who asks with `-vv`; every way to end has its exit status in `exit_status`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, TextIO, TypeVar

import click

from isolate.bars import Bars, TerminalMonitor, drawing_console, is_terminal, one_line, printable
from isolate.commands import CommandGroup
from isolate.errors import (
    InvalidInput,
    InvalidIsolateFile,
    InvalidManifest,
    IsolateError,
    TooLarge,
    UploadFailed,
    first_cause,
    lacking,
)
from isolate.settings import Settings
from isolate.streams import is_of_stdout, nobody_reads, write_nowhere

__all__ = [
    "EXIT_FAILED",
    "EXIT_HELP",
    "EXIT_INTERRUPTED",
    "EXIT_UPLOAD_FAILED",
    "EXIT_USAGE",
    "CommandGroup",
    "Console",
    "TerminalMonitor",
    "describe",
    "drawing_console",
    "exit_status",
    "is_terminal",
    "log_options",
    "printable",
    "run_command",
    "summary_option",
    "verbose_option",
    "version_option",
]

EXIT_FAILED, EXIT_USAGE, EXIT_UPLOAD_FAILED, EXIT_INTERRUPTED = 1, 2, 101, 130
EXIT_HELP = "Exit status: 0 ok, 1 failed, 2 usage, 101 upload failed, 130 interrupted."

_NO_LOG = "isolate.no_log"
_SHOWS_REQUESTS = "isolate.shows_requests"
_DEBUG = 2  # verbosity from which an error comes with its traceback

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Console:
    """What a command knows of the terminal it runs on: `ctx.obj` of every command started by `run_command`."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.verbosity = 0
        self.settings = Settings()
        self.aside: Callable[[], AbstractContextManager[object]] = nullcontext  # held by who writes to the terminal
        self._log: TextIO | None = None

    def log_to(self, file: TextIO) -> None:
        """Write to `file`, from now on, whatever is said or could be."""
        self._log = file

    def close(self) -> None:
        """Close the log, if there is one."""
        if self._log is not None:
            self._log.close()

    def result(self, line: str) -> None:
        """Put a line on stdout."""
        with self.aside():
            click.echo(os.fsencode(line))

    def error(self, message: str) -> None:
        with suppress(OSError), self.aside():  # a stderr that takes no more changes no exit status
            click.echo(f"{self.program}: error: {message}", err=True)
        self._record(f"error: {message}")

    def note(self, message: str) -> None:
        """Say on stderr what only `-v` wants to know."""
        if self.verbosity:
            with self.aside():
                click.echo(f"{self.program}: {message}", err=True)
        self._record(message)

    def warn(self, message: object) -> None:
        """Say on stderr what was survived."""
        line = f"warning: {one_line(str(message))}"
        with self.aside():
            click.echo(f"{self.program}: {line}", err=True)
        self._record(line)

    def _record(self, line: str) -> None:
        if self._log is not None and not self._log.closed:
            self._log.write(f"{self.program}: {line}\n")
            self._log.flush()

    @contextmanager
    def watch(self) -> Iterator[TerminalMonitor]:
        """Show what a library does while the body runs."""
        monitor = TerminalMonitor(self.program)
        bars = Bars(monitor)
        monitor.leave_terminal, monitor.aside, self.aside = bars.stop, bars.aside, bars.aside
        try:
            yield monitor
        finally:
            bars.stop()
            self.aside = nullcontext


class _Verbosity(click.IntRange):
    """How often `-v` was given; a word can only come from elsewhere, and is not to be blamed on `-v`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            raise click.UsageError(f"ISOLATE_DEBUG (or verbose in config.toml) is no number: {value!r}", ctx) from error


def _verbosity(requests_from: int, text: str) -> Callable[[Decorated], Decorated]:
    """Return what adds `-v/--verbose`, repeatable; requests are shown when it is given `requests_from` times."""

    def note(ctx: click.Context, _parameter: click.Parameter, count: int) -> None:
        console = ctx.find_object(Console)
        if console is not None:
            console.verbosity = max(console.verbosity, count)
        if count >= requests_from:
            _show_requests(ctx)

    def decorate(command: Decorated) -> Decorated:
        option = click.option(
            "-v", "--verbose", count=True, expose_value=False, envvar="ISOLATE_DEBUG", callback=note, help=text,
            type=_Verbosity(min=0),
        )  # fmt: skip
        return option(command)

    return decorate


verbose_option = _verbosity(1, "Say more, such as each request; twice shows tracebacks.")
# For commands that make very many requests, and have more to say than those.
summary_option = _verbosity(2, "Say more; twice shows each request, and tracebacks.")


def _show_requests(ctx: click.Context) -> None:
    """Let what the HTTP client logs come out on stderr, a line for each request, while the command runs."""
    import logging

    if ctx.meta.setdefault(_SHOWS_REQUESTS, ctx) is not ctx:  # a group does it already: both read the environment
        return
    console = ctx.find_object(Console) or Console("")

    class Handler(logging.StreamHandler[TextIO]):
        def handle(self, record: logging.LogRecord) -> bool:
            with console.aside():
                return bool(super().handle(record))

    log, handler = logging.getLogger("isolate.http"), Handler()
    log.addHandler(handler)
    log.setLevel(logging.INFO)

    def stop() -> None:
        log.removeHandler(handler)
        log.setLevel(logging.WARNING)

    ctx.call_on_close(stop)


def log_options(command: Decorated) -> Decorated:
    """Add `-l/--log-file` and `--no-log`, as the tools of 2020 have them."""

    def note(ctx: click.Context, _parameter: click.Parameter, place: str | None) -> None:
        console = ctx.find_object(Console)
        if place is None or ctx.resilient_parsing or ctx.meta.get(_NO_LOG) or console is None:
            return
        import logging

        try:
            # Open until the command is over: the last line is the error it ends with.
            file = open(place, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        except OSError as error:
            raise click.UsageError(f"Cannot write {place!r}: {error.strerror}", ctx) from error
        console.log_to(file)
        log, handler = logging.getLogger("isolate.http"), logging.StreamHandler(file)
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        ctx.call_on_close(lambda: log.removeHandler(handler))

    def silence(ctx: click.Context, _parameter: click.Parameter, given: bool) -> None:
        ctx.meta[_NO_LOG] = given

    no_log = click.option(
        "--no-log", is_flag=True, is_eager=True, hidden=True, expose_value=False, callback=silence, help="Write no log."
    )
    to_file = click.option(
        "-l", "--log-file", "log_file", metavar="FILE", expose_value=False, callback=note, help="Append a log to FILE."
    )
    return to_file(no_log(command))


def version_option(command: Decorated) -> Decorated:
    """Add `--version`."""
    from isolate import __version__

    return click.version_option(__version__, message="%(prog)s %(version)s")(command)


def run_command(
    program: str,
    command: click.Command,
    arguments: Sequence[str] | None = None,
    settings: Callable[[], Settings] = Settings,
) -> int:
    """Run `command` with a `Console` as its `ctx.obj`; return the exit status.

    An int that the callback returns is the status, anything else means 0. `settings` gives defaults of flags.
    """
    console = Console(program)
    try:
        console.settings = settings()
        result = command.main(
            args=None if arguments is None else list(arguments), prog_name=program, standalone_mode=False, obj=console
        )
        return result if isinstance(result, int) else 0
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        console.error(_usage_message(error))
        return EXIT_USAGE
    except Exception as error:  # noqa: BLE001 - the one place where every error ends
        return _fail(console, error)
    finally:
        console.close()


def exit_status(error: BaseException) -> int:
    """Return the exit status that stands for `error`."""
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return EXIT_INTERRUPTED
    if isinstance(error, UploadFailed):
        return EXIT_UPLOAD_FAILED
    # What is wrong with a file, here or on a server, is no wrong usage: 1, as in 2020.
    is_content = isinstance(error, (InvalidIsolateFile, InvalidManifest, TooLarge))
    return EXIT_USAGE if isinstance(error, InvalidInput) and not is_content else EXIT_FAILED


def describe(error: BaseException) -> str:
    """Return `error` as one line for a user."""
    if isinstance(error, OSError) and error.strerror:
        place = "" if error.filename is None else f": {os.fsdecode(error.filename)!r}"
        return printable(error.strerror + place)
    message = one_line(str(error))
    if isinstance(error, (IsolateError, OSError)) and message:
        return message
    return lacking(error) or f"Unexpected {type(error).__name__}: {message} (-vv shows where)"


def _fail(console: Console, error: Exception) -> int:
    cause = first_cause(error)
    if isinstance(cause, BrokenPipeError) and nobody_reads():  # `… | head`: whoever has enough needs no reason
        return EXIT_FAILED
    if console.verbosity >= _DEBUG:
        import traceback  # only for who wants to see one

        traceback.print_exception(error)
    console.error(f"Cannot write to stdout: {describe(cause)}" if is_of_stdout(cause) else describe(cause))
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # said above: Python would say it again when it ends, and exit as it likes
        write_nowhere()
    return exit_status(cause)


def _usage_message(error: click.ClickException) -> str:
    message = one_line(error.format_message())
    context = getattr(error, "ctx", None)
    return message if context is None else f"{message} (try '{context.command_path} --help')"
