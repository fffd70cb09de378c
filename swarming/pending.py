"""Why a task waits: for every known bot the reason why it does not run it, and what goes first.

Pure: a queue, the bots as they are, and the place in line become an explanation. Nothing here decides anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from swarming import matching
from swarming.bots import BotInfo
from swarming.fleet import must_end_by
from swarming.model import Execution

MAX_BOTS = 50  # named one by one; all are counted
MAX_REASONS = 20
READY = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """Why a task waits."""

    known: int  # bots
    capable: int  # of them, those whose dimensions fit
    ready: int  # of them, those that could take it now
    ahead: int  # tasks of the same queue that go first
    ahead_is_at_least: bool  # it was counted no further
    reasons: tuple[tuple[str, int], ...]  # and how many bots each holds for, those that are nearest to running it first
    bots: tuple[tuple[str, str], ...]  # (bot id, reason), in the same order

    @property
    def summary(self) -> str:
        """One sentence for people."""
        if not self.known:
            return "No bot has ever come"
        if not self.capable:
            return f"None of {self.known} bots has the dimensions asked for"
        able = f"{self.capable} of {self.known} bots could run it"
        if self.ready:
            return f"{able}, {self.ready} of them now"
        many = "at least " * self.ahead_is_at_least
        return f"{able}, none of them now; {many}{self.ahead} tasks of its queue go first"


def explain(
    execution: Execution, bots: Iterable[tuple[BotInfo, matching.Traits]], now: float, ahead: int, most_ahead: int
) -> Pending:
    """Return why `execution` waits at `now`; `ahead` was counted up to `most_ahead`."""
    wanted = matching.demand(execution.queue)
    counts: Counter[tuple[int, str]] = Counter()
    named: dict[int, list[tuple[str, str]]] = {}
    known = 0
    for info, traits in bots:
        known += 1
        lacking = [key for key, values in wanted.wishes if values.isdisjoint(traits.get(key, ()))]
        reason = _lacks(wanted, lacking) if lacking else _hindered(info, execution, now)
        counts[len(lacking), reason] += 1
        few = named.setdefault(len(lacking), [])
        if len(few) < MAX_BOTS:
            few.append((info.bot_id, reason))
    ordered = sorted(counts.items(), key=lambda item: (item[0][0], -item[1], item[0][1]))
    nearest = [bot for distance in sorted(named) for bot in named[distance]]
    return Pending(
        known=known,
        capable=sum(count for (distance, _), count in counts.items() if distance == 0),
        ready=counts[0, READY],
        ahead=ahead,
        ahead_is_at_least=ahead >= most_ahead,
        reasons=tuple((reason, count) for (_, reason), count in ordered[:MAX_REASONS]),
        bots=tuple(nearest[:MAX_BOTS]),
    )


def _lacks(wanted: matching.Demand, keys: list[str]) -> str:
    texts = [f"{key}:{'|'.join(sorted(values))}" for key, values in wanted.wishes if key in keys]
    return f"lacks {', '.join(texts)}"


def _hindered(info: BotInfo, execution: Execution, now: float) -> str:
    """Return why a bot with the right dimensions does not take the execution."""
    end_at, span_s = must_end_by(info), execution.span_s
    if info.is_dead:
        return "dead"
    if info.quarantined:
        return "quarantined"
    if info.maintenance:
        return "in maintenance"
    if any(attempt.bot_id == info.bot_id for attempt in execution.attempts):
        return "lost an earlier try of it"
    if execution.needs_session and not info.session:
        return "too old for the namespace of its inputs"
    if end_at is not None and (span_s is None or now + span_s >= end_at):
        return "leaves before it would be done"
    return "busy" if info.run_id is not None else READY
