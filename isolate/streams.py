"""Streams that are not there: closed by whoever started a command, or by whoever read what it prints.

A root beside `terminal`. The invariant: what cannot be said any more is dropped, and changes no exit status by that.
"""

from __future__ import annotations

import os
import sys

import click


def has_stdout(program: str) -> bool:
    """Say whether there is a stdout to print results to, else say on stderr, if there is one, that there is none."""
    if sys.stderr is None:  # closed by who started us
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    if sys.stdout is None:
        click.echo(f"{program}: error: Stdout is closed, where results are to go", err=True)
    return sys.stdout is not None


def read_stdin(max_bytes: int, what: str) -> bytes:
    """Return what comes on stdin, `max_bytes` at most; raises UsageError when nothing can."""
    if sys.stdin is None:
        raise click.UsageError(f"Stdin is closed, where {what} is to come from")
    return sys.stdin.buffer.read(max_bytes)


def nobody_reads() -> bool:
    """Say whether stdout is a pipe without a reader; what is left to be written there goes nowhere from now on."""
    import select

    poll = select.poll()
    poll.register(1, 0)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        write_nowhere()
    return gone


def is_of_stdout(error: BaseException) -> bool:
    """Whether it came of printing a result; Python names no stream."""
    trace = error.__traceback__ if isinstance(error, OSError) else None
    while trace is not None and trace.tb_frame.f_code is not click.echo.__code__:
        trace = trace.tb_next
    return trace is not None and not trace.tb_frame.f_locals["err"]


def write_nowhere() -> None:
    """Let stdout go nowhere: what is left in its buffer would fail once more when the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
