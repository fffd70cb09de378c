"""The doors of the commands: what an installed script imports, and nothing else before it is called.

A root. Knows where the command lines are and nothing of what they do. The invariant: Ctrl-C ends a command quietly and
with 130 from its first moment, also while the modules it needs are still being imported.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from importlib import import_module

EXIT_INTERRUPTED = 130  # as `isolate.terminal` has it, which is among what may not be imported yet
PROFILED_LINES = 60
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
    from isolate import ending

    try:
        ending.listen()
        return ending.status(_enter(module, function))
    except KeyboardInterrupt:
        return ending.status(EXIT_INTERRUPTED)


def _enter(module: str, function: str) -> int:
    # Trees become hundreds of thousands of small values that live as long as the command: looking through them for
    # cycles every 700 took a fifth of the time it takes to read a manifest.
    gc.set_threshold(*COLLECTION_THRESHOLDS)
    try:
        main: Callable[[], int] = getattr(import_module(module), function)
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
