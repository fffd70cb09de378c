"""The doorbell: wakes one waiting bot for one piece of work.

Knows nothing of tasks: queues are strings. A ring is a hint, so it may be lost with the process, but not in it: whoever
is woken and goes away without having looked passes the ring on. Those who wait longest are woken first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Protocol, Self


class Listening(Protocol):
    """One who waits at some queues, as a context manager that leaves them."""

    def add(self, queue: str) -> None:
        """Listen to one more queue."""
        ...

    def rearm(self) -> None:
        """Forget what rang: whoever calls this looks at the queues next."""
        ...

    async def rung(self) -> bool:
        """Wait for a ring since the last `rearm` (True) or to be released (False)."""
        ...

    def release(self) -> None:
        """End the wait, now and for good."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Doorbell(Protocol):
    """Where rings and listeners meet."""

    def ring(self, queue: str, suits: Callable[[str], bool] | None = None) -> None:
        """Wake the longest waiting listener of `queue` whose name suits, if there is one."""
        ...

    def listen(self, name: str, queues: Iterable[str]) -> Listening:
        """Return a listener that hears of `queues` from now on."""
        ...


class LocalDoorbell:
    """The doorbell of one process: a line of listeners for each queue."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[LocalListener, None]] = {}  # a dict is an ordered set

    def ring(self, queue: str, suits: Callable[[str], bool] | None = None) -> None:
        for listener in self._lines.get(queue, ()):
            if suits is None or suits(listener.name):
                listener.wake(queue, suits)
                return

    def listen(self, name: str, queues: Iterable[str]) -> LocalListener:
        return LocalListener(self, name, queues)

    def join(self, queue: str, listener: LocalListener) -> None:
        """Put a listener at the end of the line of `queue`."""
        self._lines.setdefault(queue, {})[listener] = None

    def leave(self, queue: str, listener: LocalListener) -> None:
        """Take a listener out of the line of `queue`."""
        line = self._lines.get(queue)
        if line is not None:
            line.pop(listener, None)
            if not line:
                del self._lines[queue]


class LocalListener:
    """One waiting bot. In its lines only until it is woken, so that the next ring wakes another."""

    def __init__(self, doorbell: LocalDoorbell, name: str, queues: Iterable[str]) -> None:
        self.name = name
        self._doorbell = doorbell
        self._queues = dict.fromkeys(queues)
        self._rang: tuple[str, Callable[[str], bool] | None] | None = None
        self._released = False
        self._wakeup = asyncio.Event()
        self._is_in_line = False
        self._line_up()

    def add(self, queue: str) -> None:
        if queue not in self._queues:
            self._queues[queue] = None
            if self._is_in_line:
                self._doorbell.join(queue, self)

    def rearm(self) -> None:
        self._rang = None
        if not self._released:
            self._wakeup.clear()
            self._line_up()

    async def rung(self) -> bool:
        await self._wakeup.wait()
        return not self._released

    def release(self) -> None:
        self._released = True
        self._step_out()
        self._wakeup.set()

    def wake(self, queue: str, suits: Callable[[str], bool] | None) -> None:
        """Tell this listener that `queue` rang."""
        self._rang = (queue, suits)
        self._step_out()
        self._wakeup.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        if self._rang is not None:  # it rang after the last look: what it announced may still be there
            self._doorbell.ring(*self._rang)

    def _line_up(self) -> None:
        if not self._is_in_line:
            self._is_in_line = True
            for queue in self._queues:
                self._doorbell.join(queue, self)

    def _step_out(self) -> None:
        if self._is_in_line:
            self._is_in_line = False
            for queue in self._queues:
                self._doorbell.leave(queue, self)
