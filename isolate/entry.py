"""The doors of the commands: what an installed script imports, and nothing else before it is called.

A root. Knows where the command lines are and nothing of what they do. The invariant: from the call of a door on, Ctrl-C
ends a command quietly and with 130. While the modules it needs are being imported it waits until they are: Python loses
an exception that comes in the middle of its own import machinery, and may leave that locked for every thread. What came
before, while the interpreter and this file were loaded, is Python's to tell.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than all that is here
if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_INTERRUPTED = 130  # as `isolate.terminal` has it, which is among what may not be imported yet
PROFILED_LINES = 60
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # what may come to end a command
COLLECTION_THRESHOLDS = (50_000, 20, 500)  # new objects, then collections of the younger generation


def isolate() -> int:
    """Run `isolate`."""
    return _leave(_listening("isolate.cli", "main"))


def isolateserver() -> int:
    """Run `isolateserver`."""
    return _leave(_listening("isolate.cli", "isolateserver_main"))


def run_isolated() -> int:
    """Run `run_isolated`."""
    return _leave(_enter("run_isolated.cli", "main"))


def swarming() -> int:
    """Run `swarming`: what it began goes on elsewhere, so that whoever ends it must be told where."""
    return _listening("swarming.cli", "main")


def swarming_server() -> int:
    """Run `swarming-server`."""
    return _enter("server.cli", "main")


def swarming_bot() -> int:
    """Run `swarming-bot`."""
    return _enter("swarming.bot.cli", "main")


def _listening(module: str, function: str) -> int:
    """Enter a command that tidies up also when a signal ends it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    from isolate import ending

    ending.listen()
    try:
        return ending.status(_run(module, function, before))
    except KeyboardInterrupt:
        return ending.status(EXIT_INTERRUPTED)


def _enter(module: str, function: str) -> int:
    return _run(module, function, signal.pthread_sigmask(signal.SIG_BLOCK, ENDING))


def _run(module: str, function: str, mask: set[int] | set[signal.Signals]) -> int:
    """Import a command while signals wait, and run it with the signals blocked that were before: those of `mask`.

    Nothing is begun by the import. There is one thread yet, so that what this one blocks nobody gets.
    """
    # Trees become hundreds of thousands of small values that live as long as the command: looking through them for
    # cycles every 700 took a fifth of the time it takes to read a manifest.
    gc.set_threshold(*COLLECTION_THRESHOLDS)
    try:
        try:
            from importlib import import_module

            main: Callable[[], int] = getattr(import_module(module), function)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # raises what came meanwhile
        return _profiled(main) if os.environ.get("SWARMING_PROFILE") == "1" else main()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _leave(status: int) -> int:
    """End here and now with `status`; returns it only when what was said cannot be passed on.

    For commands that leave nothing to tidy up and run thousands of times a day: taking an interpreter apart takes a
    fifth of the time that such a run takes.
    """
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # closed before we began
                stream.flush()
    except OSError:
        return status
    os._exit(status & 0xFF)


def _profiled(main: Callable[[], int]) -> int:
    """Run `main` and say on stdout where its time went, as the tools of 2020 do when they are asked to."""
    import cProfile
    import pstats
    from contextlib import suppress
    from io import StringIO

    profile, text = cProfile.Profile(), StringIO()
    try:
        return profile.runcall(main)
    finally:
        pstats.Stats(profile, stream=text).sort_stats("cumulative").print_stats(PROFILED_LINES)
        with suppress(OSError):  # whoever reads the output may have read enough
            sys.stdout.flush()
            os.write(sys.stdout.fileno(), text.getvalue().encode())
