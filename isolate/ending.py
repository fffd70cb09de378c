"""Signals that end a command: of a job that is cancelled, a terminal that closes, a machine that shuts down.

A root. To the command they are Ctrl-C, except that nobody is there to be asked anything. The invariants: a command is
interrupted once, however many of them come; a signal that was ignored when the command began stays ignored; the exit
status names the signal.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_came: list[int] = []
_instead: list[Callable[[], None]] = []


def listen() -> None:
    """From now on let these signals interrupt this process as Ctrl-C does."""
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)


def came() -> bool:
    """Say whether such a signal came: what there is to be decided, nobody is there to decide."""
    return bool(_came)


def status(of_command: int) -> int:
    """Return the exit status that a command is to have: its own, unless it failed of a signal."""
    return 128 + _came[0] if _came and of_command else of_command


@contextmanager
def passed_on(to: Callable[[], None]) -> Iterator[None]:
    """Within it nothing is interrupted: the signals call `to`, and Ctrl-C is left to the command that got it as well.

    An exception could come while that command is being started, when nobody knows it yet.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _ignore)  # not SIG_IGN, which the command would inherit
    _instead.append(to)
    try:
        yield
    finally:
        _instead.pop()
        signal.signal(signal.SIGINT, before)


@contextmanager
def put_off() -> Iterator[None]:
    """Within it nothing is interrupted; what came interrupts at its end.

    For imports outside of an event loop: Python loses an exception that comes amid its import machinery, or leaves that
    locked for every thread.
    """
    noted: list[None] = []
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: noted.append(None))
    _instead.append(lambda: noted.append(None))
    try:
        yield
    finally:
        _instead.pop()
        signal.signal(signal.SIGINT, before)
        if noted:
            _raise()


def _ignore(_number: int, _frame: FrameType | None) -> None: ...


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _came.append(number)
    if _instead:
        _instead[-1]()
        return
    if len(_came) == 1:
        _raise()


def _raise() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what is to run in the background
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)  # whoever waits for that one knows what to do
