"""Leases: who works on what, and when each was heard last. In memory only.

Knows no store and no policy. Measures silence with the monotonic clock of this process, so a lease loaded from the
store starts with its full time. One lease per run and one per bot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from swarming.model import Attempt, Execution


@dataclass(slots=True, eq=False)
class Lease:
    """The right of a bot to work on an execution, as long as it is heard."""

    execution: Execution  # as last stored; its last attempt is the one this lease is for
    heard_s: float  # monotonic
    silence_s: float  # how long the bot may be silent
    heard_again: bool = False  # an update came after the first: the command may have had effects
    cost_usd: float = 0.0
    watched_s: float | None = None  # monotonic time when somebody last read its output

    @property
    def attempt(self) -> Attempt:
        """The attempt this lease is for."""
        return self.execution.attempts[-1]

    @property
    def run_id(self) -> str:
        """The run this lease is for."""
        return self.attempt.run_id

    def is_of(self, bot_id: str, session: str) -> bool:
        """Whether this session of this bot holds it."""
        return self.attempt.bot_id == bot_id and self.attempt.session == session

    def is_silent(self, now_s: float) -> bool:
        """Whether the bot was silent for longer than it may be."""
        return now_s - self.heard_s > self.silence_s


class Leases:
    """All leases of this server."""

    def __init__(self) -> None:
        self._by_run: dict[str, Lease] = {}
        self._by_bot: dict[str, Lease] = {}

    def __len__(self) -> int:
        return len(self._by_run)

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self._by_run.values()))

    def add(self, lease: Lease) -> None:
        """Enter a lease, in place of any for the same run."""
        self.remove(lease.run_id)
        self._by_run[lease.run_id] = lease
        self._by_bot[lease.attempt.bot_id] = lease

    def remove(self, run_id: str) -> Lease | None:
        """Take out the lease for a run, if there is one."""
        lease = self._by_run.pop(run_id, None)
        if lease is not None and self._by_bot.get(lease.attempt.bot_id) is lease:
            del self._by_bot[lease.attempt.bot_id]
        return lease

    def of_run(self, run_id: str) -> Lease | None:
        """Return the lease for a run."""
        return self._by_run.get(run_id)

    def of_bot(self, bot_id: str) -> Lease | None:
        """Return what a bot works on."""
        return self._by_bot.get(bot_id)

    def attempt_so_far(self, attempt: Attempt) -> Attempt:
        """Return an attempt with what it has cost until now; that is stored when it ends."""
        lease = self._by_run.get(attempt.run_id)
        cost_usd = attempt.cost_usd if lease is None else max(attempt.cost_usd, lease.cost_usd)
        return attempt if cost_usd == attempt.cost_usd else replace(attempt, cost_usd=cost_usd)

    def so_far(self, execution: Execution | None) -> Execution | None:
        """Return an execution with what its attempts have cost until now."""
        if execution is None or not execution.attempts:
            return execution
        last = self.attempt_so_far(execution.attempts[-1])
        same = last is execution.attempts[-1]
        return execution if same else replace(execution, attempts=(*execution.attempts[:-1], last))

    def refresh(self, execution: Execution) -> None:
        """Take note of a newer stored value of an execution that is leased."""
        attempt = execution.attempt
        lease = self._by_run.get(attempt.run_id) if attempt is not None else None
        if lease is not None and lease.execution.version < execution.version:
            lease.execution = execution

    def silent(self, now_s: float) -> list[Lease]:
        """Return the leases whose bot was silent for too long."""
        return [lease for lease in self._by_run.values() if lease.is_silent(now_s)]

    def grant(self, now_s: float) -> None:
        """Give every lease its full time again: nobody could be heard."""
        for lease in self._by_run.values():
            lease.heard_s = now_s
