"""What clients and bots saw, and what must be true of it whatever happened in between (guarantees 6, 7 and 10).

Pure: events come in with the time of one clock, violations come out as sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

FINAL = {"EXPIRED", "TIMED_OUT", "BOT_DIED", "CANCELED", "COMPLETED", "KILLED", "NO_RESOURCE"}


@dataclass
class Run:
    """One attempt as its bot lived it: it worked from `started_s` to `stopped_s`."""

    run_id: str
    bot: str
    started_s: float
    stopped_s: float | None = None
    duration: float | None = None  # drawn at random: the fingerprint of a result
    acknowledged: bool = False  # the server confirmed the result
    printed: bytes = b""  # confirmed output


@dataclass
class History:
    """Everything that was seen."""

    tasks: dict[str, str] = field(default_factory=dict)  # acknowledged: request_uuid -> task id
    runs: list[Run] = field(default_factory=list)

    def violations(self, results: Mapping[str, Mapping[str, Any]], outputs: Mapping[str, str]) -> Iterator[str]:
        """Yield what is wrong; `results` and `outputs` are the server's last word, by task id."""
        yield from self._lost(results)
        yield from self._overlaps()
        yield from self._twice(results)
        yield from self._different(results, outputs)

    def _lost(self, results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        names: dict[str, str] = {}
        for task_id, result in results.items():
            if result["name"] in names:
                yield f"{result['name']} was made twice: {names[result['name']]} and {task_id}"
            names[result["name"]] = task_id
        for name, task_id in self.tasks.items():
            if task_id not in results:
                yield f"{task_id} was acknowledged and is lost"
            elif results[task_id]["name"] != name:
                yield f"{task_id} is not {name}"
            elif results[task_id]["state"] not in FINAL:
                yield f"{task_id} is {results[task_id]['state']} for ever"

    def _overlaps(self) -> Iterator[str]:
        by_execution: dict[str, list[Run]] = {}
        for run in self.runs:
            by_execution.setdefault(run.run_id[:-1], []).append(run)
        for runs in by_execution.values():
            runs.sort(key=lambda run: run.started_s)
            for earlier, later in pairwise(runs):
                if earlier.stopped_s is None or earlier.stopped_s > later.started_s:
                    yield f"{earlier.run_id} on {earlier.bot} and {later.run_id} on {later.bot} ran at the same time"

    def _twice(self, results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        finished: dict[str, Run] = {}
        for run in self.runs:
            if run.acknowledged:
                other = finished.setdefault(run.run_id[:-1], run)
                if other is not run:
                    yield f"{other.run_id} and {run.run_id} both finished"
        for task_id, result in results.items():
            ended = finished.get(task_id[:-1])
            own = not result.get("deduped_from") and str(result.get("run_id", ""))[:-1] == task_id[:-1]
            if ended is None or not own or result["state"] == "CANCELED" or self._left(result, results):
                continue
            if result.get("duration") != ended.duration:
                yield f"{task_id} has a result that is not the one acknowledged to {ended.bot}: {result}"

    def _left(self, result: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether a task was cancelled in a run that others shared, which went on without it."""
        is_shared = any(other.get("deduped_from") == result.get("run_id") for other in results.values())
        return is_shared and result["state"] == "KILLED" and "duration" not in result

    def _different(self, results: Mapping[str, Mapping[str, Any]], outputs: Mapping[str, str]) -> Iterator[str]:
        by_run = {run.run_id: run for run in self.runs}
        for task_id, result in results.items():
            run = by_run.get(result.get("deduped_from") or result.get("run_id", ""))
            if run is None or result["state"] != "COMPLETED":
                if result["state"] == "COMPLETED":
                    yield f"{task_id} has a result that no bot sent"
                continue
            if result.get("duration") != run.duration:
                yield f"{task_id} differs from its source {run.run_id}"
            if not outputs.get(task_id, "").encode().startswith(run.printed):
                yield f"{task_id} lost output of {run.run_id}"
