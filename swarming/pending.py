"""Why a task waits: for every known bot the reason why it does not run it, and what goes first.

Pure: a queue, the bots as they are, and the place in line become an explanation. Nothing here decides anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from swarming import matching
from swarming.bots import BotInfo
from swarming.fleet import must_end_by
from swarming.model import Execution

MAX_BOTS = 50  # named one by one; all are counted
MAX_REASONS = 20
READY = "ready"
OFFERED = "offered it just now"
REFUSED = "refused by bots.toml"
LOST = "lost an earlier try of it"
TOO_OLD = "too old for the namespace of its inputs"
LEAVES = "leaves before it would be done"
NEVER = (REFUSED, LOST, TOO_OLD, LEAVES)  # whom waiting for such a bot does not help


@dataclass(frozen=True, slots=True)
class Limits:
    """What the settings of the server have to say about who gets work."""

    is_paused: bool = False  # nobody does
    welcomes: Callable[[str], bool] = lambda _: True  # whether a bot of this id does


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """Why a task waits."""

    known: int  # bots
    fitting: int  # of them, those whose dimensions fit
    capable: int  # of them, those that could run it, if not now
    ready: int  # of them, those that could take it now
    ahead: int  # tasks of the same queue that go first
    ahead_is_at_least: bool  # it was counted no further
    reasons: tuple[tuple[str, int], ...]  # and how many bots each holds for, those that are nearest to running it first
    bots: tuple[tuple[str, str], ...]  # (bot id, reason), in the same order
    offered_to: str | None = None  # the bot that was asked to run it and has not answered

    @property
    def summary(self) -> str:
        """One sentence for people."""
        if self.offered_to is not None:
            return f"Offered to {self.offered_to}, which has not begun yet"
        if not self.known:
            return "No bot has ever come"
        if not self.fitting:
            return f"None of {self.known} bots has the dimensions asked for"
        if not self.capable:
            return f"None of {self.known} bots may run it, though {self.fitting} have the dimensions asked for"
        able = f"{self.capable} of {self.known} bots could run it"
        if self.ready:
            return f"{able}, {self.ready} of them now"
        many = "at least " * self.ahead_is_at_least
        return f"{able}, none of them now; {many}{self.ahead} tasks of its queue go first"


def explain(
    execution: Execution,
    bots: Iterable[tuple[BotInfo, matching.Traits]],
    now: float,
    ahead: int,
    most_ahead: int,
    limits: Limits | None = None,
) -> Pending:
    """Return why `execution` waits at `now`; `ahead` was counted up to `most_ahead`."""
    limits = limits or Limits()
    wanted = matching.demand(execution.queue)
    counts: Counter[tuple[int, str]] = Counter()
    named: dict[int, list[tuple[str, str]]] = {}
    known = 0
    for info, traits in bots:
        known += 1
        lacking = [key for key, values in wanted.wishes if values.isdisjoint(traits.get(key, ()))]
        reason = _lacks(wanted, lacking) if lacking else _hindered(info, execution, now, limits)
        counts[len(lacking), reason] += 1
        few = named.setdefault(len(lacking), [])
        if len(few) < MAX_BOTS:
            few.append((info.bot_id, reason))
    fitting = sum(count for (distance, _), count in counts.items() if distance == 0)
    ordered = sorted(counts.items(), key=lambda item: (item[0][0], -item[1], item[0][1]))
    nearest = [bot for distance in sorted(named) for bot in named[distance]]
    return Pending(
        known=known,
        fitting=fitting,
        capable=fitting - sum(counts[0, reason] for reason in NEVER),
        ready=counts[0, READY],
        ahead=ahead,
        ahead_is_at_least=ahead >= most_ahead,
        reasons=tuple((reason, count) for (_, reason), count in ordered[:MAX_REASONS]),
        bots=tuple(nearest[:MAX_BOTS]),
        offered_to=_offered_to(execution),
    )


def _offered_to(execution: Execution) -> str | None:
    last = execution.attempt
    return last.bot_id if last is not None and last.is_offer else None


def _lacks(wanted: matching.Demand, keys: list[str]) -> str:
    texts = [f"{key}:{'|'.join(sorted(values))}" for key, values in wanted.wishes if key in keys]
    return f"lacks {', '.join(texts)}"


def _hindered(info: BotInfo, execution: Execution, now: float, limits: Limits) -> str:
    """Return why a bot with the right dimensions does not take the execution: first what time does not change."""
    end_at, span_s = must_end_by(info), execution.span_s
    if not limits.welcomes(info.bot_id):
        return REFUSED
    if info.bot_id == _offered_to(execution):
        return OFFERED
    if any(attempt.bot_id == info.bot_id for attempt in execution.attempts):
        return LOST
    if execution.needs_session and not info.session:
        return TOO_OLD
    if end_at is not None and (span_s is None or now + span_s >= end_at):
        return LEAVES
    if info.is_dead:
        return "dead"
    if limits.is_paused:
        return "paused by server.toml"
    if info.quarantined:
        return "quarantined"
    if info.maintenance:
        return "in maintenance"
    return "busy" if info.run_id is not None else READY
