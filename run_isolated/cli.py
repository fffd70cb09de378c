"""The `run_isolated` command: parses, calls `run` once, prints what it came to.

A root. Knows no step of a run. The invariant: a first Ctrl-C or SIGTERM gives the command its grace, a second one does
not, and neither leaves a process or a work directory.
"""

from __future__ import annotations

import errno
import json
import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from isolate.errors import lacking
from isolate.progress import counted_text, fetched_line
from isolate.terminal import EXIT_FAILED, EXIT_INTERRUPTED, Console, run_command, verbose_option, version_option
from run_isolated import flags

if TYPE_CHECKING:
    from isolate.clock import Clock
    from isolate.monitor import Monitor
    from run_isolated.attempt import Attempt
    from run_isolated.result import OutputsRef, RunResult
    from run_isolated.spec import RunSpec
    from run_isolated.starting import LauncherProcess

PROGRAM = "run_isolated"
_ASK_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NOT_WITH_CLEAN = {"isolated", "server", "json_file", "named_caches", "words"}
_ALONE = "--clean goes with none of --isolated, --isolate-server, --json, --named-cache and a command"
_NO_OTHER = "--argsfile goes with no other argument"
_EPILOG = """\b
Exit status: that of the command (-N for signal N, which a shell shows as 256 - N),
1 when that is 0 or unknown and something else failed, 2 usage, 130 interrupted.
With --json: 0, or 1 when something else than the command failed."""


@click.command(
    PROGRAM,
    epilog=_EPILOG,
    options_metavar="[OPTIONS]",
    context_settings={"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]},
)
@click.option("-s", "--isolated", metavar="HASH", help="Tree to fetch, map and run in.")
@click.option("-I", "--isolate-server", "server", metavar="URL", help="Where from. Default: ISOLATE_SERVER.")
@click.option("--namespace", metavar="NAME", help="Default: by the length of the hash, else blake3-zstd.")
@click.option("--raw-cmd", "raw_command", is_flag=True, help="COMMAND is all; ignore the one of the tree.")
@click.option("--relative-cwd", metavar="DIR", help="Run in this directory of the tree; needs --raw-cmd.")
@click.option("--env", multiple=True, metavar="KEY=VALUE", help="Set a variable; delete it when empty. Repeatable.")
@click.option("--env-prefix", multiple=True, metavar="KEY=./PATH", help="Put a path of the tree in front. Repeatable.")
@click.option("--bot-file", metavar="FILE", help="Value of ${SWARMING_BOT_FILE}.")
@click.option("--output", "outputs", multiple=True, metavar="PATH", help="Upload this too after the run. Repeatable.")
@click.option("--json", "json_file", type=flags.FILE, help="Write the result there.")
@click.option("--hard-timeout", type=float, metavar="SECONDS", help="End the command after this time.")
@click.option("--grace-period", type=float, metavar="SECONDS", help="From SIGTERM to SIGKILL. Default: for ever.")
@flags.caching
@flags.inputs
@flags.isolation
@click.option("--root-dir", type=flags.DIRECTORY, help="Where work directories are made.")
@click.option("--leak-temp-dir", is_flag=True, help="Keep the work directory.")
@click.option("--clean", is_flag=True, help="Trim the caches, delete kept trees and what dead runs left, and end.")
@click.option("-a", "--argsfile", type=flags.FILE, help="Take all arguments from this JSON array.")
@flags.logs
@flags.elsewhere
@verbose_option
@version_option
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND | ARGUMENTS]...")
@click.pass_context
def cli(ctx: click.Context, /, argsfile: Path | None, clean: bool, log_file: Path, no_log: bool, **asked: Any) -> int:
    """Run a command in a fresh directory, with the tree HASH in it, and upload what it writes to ${ISOLATED_OUTDIR}.

    What follows the options is added to the command of the tree. Without a tree it is the command itself.
    """
    names = [parameter.name for parameter in ctx.command.params if parameter.name is not None]  # also of -v
    given = {name for name in names if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if argsfile is not None:
        if given != {"argsfile"}:
            raise click.UsageError(_NO_OTHER, ctx)
        from run_isolated.arguments import read_argsfile

        with cli.make_context(PROGRAM, read_argsfile(argsfile), obj=ctx.obj) as told:
            if told.params["argsfile"] is not None:  # it might name itself
                raise click.UsageError(f"{str(argsfile)!r}: {_NO_OTHER}", ctx)
            return int(cli.invoke(told))
    if clean:
        if given & _NOT_WITH_CLEAN:
            raise click.UsageError(_ALONE, ctx)
        return _clean(ctx.obj, **asked)
    return _run(ctx.obj, None if no_log else log_file, log_required="log_file" in given, **asked)


def main() -> int:
    """Run the command line of this process."""
    arguments = sys.argv[1:]
    return run_command(PROGRAM, cli, ["--help"] if arguments == ["help"] else arguments)


def _run(
    console: Console,
    log_file: Path | None,
    server: str | None,
    json_file: Path | None,
    *,
    log_required: bool,
    **asked: Any,
) -> int:
    """Run, print and write what there is to tell; return the exit status."""
    with _launcher() as launcher:  # needs a while to get ready, in which the rest is imported, read and mapped
        return _run_by(launcher, console, log_file, server, json_file, log_required=log_required, **asked)


def _launcher() -> AbstractContextManager[LauncherProcess | None]:
    from run_isolated.starting import LauncherProcess

    try:
        return LauncherProcess.start(None)
    except OSError:  # the run tries again, and tells if it still cannot be
        return nullcontext()


def _run_by(
    launcher: LauncherProcess | None,
    console: Console,
    log_file: Path | None,
    server: str | None,
    json_file: Path | None,
    *,
    log_required: bool,
    **asked: Any,
) -> int:
    from isolate.clock import SystemClock
    from run_isolated import config
    from run_isolated.arguments import Asked, needs_places, parse_spec
    from run_isolated.log import LoggedMonitor, log_to
    from run_isolated.result import NOT_FINISHED, RunResult

    known = config.load(needs_places=needs_places(**asked))
    if known.note:
        console.warn(known.note)
    spec = parse_spec(
        Asked(server=known.server if server is None else server, **asked),
        base_env=known.environment,
        cache_dir=known.cache_dir,
        named_root=known.named_cache_root,
    )
    clock = SystemClock()
    with log_to(log_file, clock, required=log_required) as log:
        log.note(f"Run {spec.isolated} of {spec.server}: {spec.command}")
        if json_file is not None:
            _write(json_file, RunResult(internal_failure=NOT_FINISHED))
        with console.watch() as monitor:
            result, interrupted = _ended(spec, clock, LoggedMonitor(monitor, log), launcher)
        log.note(json.dumps(result.to_json()))
    if (download := result.stats.download) is not None:
        console.note(fetched_line(download.counted(), download.duration_s))
    if result.internal_failure is not None:
        console.error(result.internal_failure)
    if json_file is not None:
        _write(json_file, result)
    elif result.outputs is not None:
        click.echo(_outputs_line(result.outputs))
    return EXIT_INTERRUPTED if interrupted else _exit_status(result, with_json=json_file is not None)


def _clean(console: Console, cache_dir: Path | None, root_dir: Path | None, **asked: Any) -> int:
    """Trim the caches to their limits and delete what dead runs left."""
    from isolate.clock import SystemClock
    from run_isolated import config
    from run_isolated.cleaning import clean
    from run_isolated.spec import RunSpec

    known = config.load()
    if known.note:
        console.warn(known.note)
    spec = RunSpec(
        root_dir=root_dir or (cache_dir or known.cache_dir).absolute().parent,
        cache_dir=cache_dir or known.cache_dir,
        named_cache_root=asked["named_cache_root"] or known.named_cache_root,
        base_env={},
        max_cache_size_bytes=asked["max_cache_size"],
        max_cache_items=asked["max_items"],
        min_free_space_bytes=asked["min_free_space"],
    )
    with console.watch() as monitor:
        evicted = clean(spec, SystemClock(), monitor)
    console.note(f"{counted_text(evicted.items, 'item')} of {counted_text(evicted.size_bytes, 'byte')} evicted")
    return 0


class _Signals:
    """Signals that ask a run to end rather than interrupt this process: noted until there is a loop to tell of them."""

    def __init__(self) -> None:
        self.came: list[int] = []
        self.listen()

    def listen(self) -> None:
        """Note them from now on."""
        for number in _ASK_TO_END:
            signal.signal(number, self._note)

    def have_come(self) -> bool:
        return bool(self.came)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.came.append(number)


def _ended(spec: RunSpec, clock: Clock, monitor: Monitor, launcher: LauncherProcess | None) -> tuple[RunResult, bool]:
    """Return the result, and whether the user interrupted: a first signal asks the command to end, a second ends it."""
    from run_isolated.attempt import Attempt

    signals = _Signals()
    attempt = Attempt(spec, None, signals.have_come, clock, monitor, launcher)
    ended: list[RunResult] = []
    try:
        attempt.begin()
        import asyncio  # the command is on its way

        with asyncio.Runner() as runner:
            runner.get_loop()  # there may be none to be had
            runner.run(_supervise(attempt, signals, ended))
    except Exception as error:
        if not ended:  # else the loop could not end as it likes to, which needs a thread
            signals.listen()
            attempt.abandon(lacking(error) or str(error) or type(error).__name__)
            if not _is_want(error):
                raise
    return ended[0] if ended else attempt.result, signal.SIGINT in signals.came


def _is_want(error: Exception) -> bool:
    """Whether something could not be had that nobody here has control of: a descriptor, memory, a thread."""
    return isinstance(error, (OSError, ImportError)) or bool(lacking(error))


async def _supervise(attempt: Attempt, signals: _Signals, ended: list[RunResult]) -> None:
    """Add what an attempt that has begun comes to."""
    import asyncio

    from run_isolated.run import finished

    stop = asyncio.Event()
    running = asyncio.current_task()
    assert running is not None

    def on_signal(number: int) -> None:
        if stop.is_set():
            running.cancel()
        stop.set()
        signals.came.append(number)

    for number in _ASK_TO_END:
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    for earlier in tuple(signals.came):
        on_signal(earlier)
    try:
        ended.append(await finished(attempt, stop))
    except asyncio.CancelledError:
        ended.append(attempt.cut_short())


def _exit_status(result: RunResult, *, with_json: bool) -> int:
    failed = EXIT_FAILED if result.internal_failure is not None else 0
    return failed if with_json else result.exit_code or failed


def _outputs_line(outputs: OutputsRef) -> str:
    """Return what tells a reader of stdout where the outputs are."""
    told = {"hash": outputs.isolated, "namespace": outputs.namespace, "storage": outputs.isolatedserver}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return f"[run_isolated_out_hack]{text}[/run_isolated_out_hack]"


def _write(path: Path, result: RunResult) -> None:
    from isolate.cas.files import write_atomic
    from isolate.errors import InternalFailure, InvalidInput

    try:
        write_atomic(path, json.dumps(result.to_json(), sort_keys=True, separators=(",", ":")).encode())
    except OSError as error:
        kind = InternalFailure if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO} else InvalidInput
        raise kind(f"Cannot write the result to {str(path)!r}: {error.strerror}") from error
