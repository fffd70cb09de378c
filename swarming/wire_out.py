"""What clients get back: results, requests and bots in the spelling of the REST API of 2020.

Knows no route. Unset fields and empty lists are left out; false, 0 and "" stay; 64-bit integers are strings. A secret
never appears: only that there is one.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isolate.cas.digest import DEFAULT_NAMESPACE
from swarming import bots, model, pending
from swarming.scheduler import TaskView
from swarming.states import State
from swarming.wire import CONTAINMENTS, compact, pairs, str64, ts

QUEUE_VALID_S = 600.0  # how long a queue is known at least after its last task
REDACTED = base64.b64encode(b"<REDACTED>").decode()
Performance = Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Outbox:
    """Spells replies for one caller: `server_url` is how that caller reaches this server."""

    server_url: str
    server_version: str
    performance: Performance | None = None  # set when the caller asked for performance stats
    ping_tolerance_s: float = 60.0  # of requests that name none

    def result(self, view: TaskView) -> dict[str, Any]:
        """Return a TaskResult."""
        task = view.task
        run = view.attempt
        body: dict[str, Any] = {
            "name": task.request.name,
            "created_ts": ts(task.created_at),
            "modified_ts": ts(task.modified_at),
            "current_task_slice": str64(task.slice_index),
            "server_versions": [self.server_version],
        }
        if view.is_run and run is not None:
            body |= self._run_ending(run, view.execution)
        else:
            body |= {
                "task_id": task.task_id,
                "state": task.state.name,
                "failure": task.failure,
                "internal_failure": task.state is State.BOT_DIED,
                "completed_ts": ts(task.completed_at),
                "abandoned_ts": ts(task.abandoned_at),
                "user": task.request.user,
                "tags": list(task.request.tags),
            }
        if run is not None and run.started_at is not None:
            body |= self._of_run(run, view)
        return compact(body)

    def _run_ending(self, run: model.Attempt, execution: model.Execution | None) -> dict[str, Any]:
        created_at = run.offered_at if execution is None else execution.created_at
        return {
            "task_id": run.run_id,
            "created_ts": ts(created_at),
            "modified_ts": ts(run.completed_at or run.started_at or run.offered_at),
            "state": run.state.name,
            "failure": run.failure,
            "internal_failure": run.internal_failure,
            "completed_ts": ts(run.completed_at),
            "abandoned_ts": ts(run.abandoned_at),
        }

    def _of_run(self, run: model.Attempt, view: TaskView) -> dict[str, Any]:
        deduped = view.task.deduped and not view.is_run
        ran_here = not deduped
        attempts = view.execution.attempts if view.execution is not None else (run,)
        costs = [run.cost_usd] if view.is_run else [try_.cost_usd for try_ in attempts if try_.started_at is not None]
        ended = run.exit_code is not None
        return {
            "bot_id": run.bot_id,
            "bot_version": run.bot_version or None,
            "bot_dimensions": pairs(dict(run.bot_dimensions)),
            "run_id": run.run_id,
            "try_number": str64(0 if deduped else run.try_number),
            "started_ts": ts(run.started_at),
            "exit_code": str64(run.exit_code),
            "duration": run.duration_s if ended else None,
            "costs_usd": costs if ran_here else [],
            "cost_saved_usd": None if ran_here else sum(costs),
            "deduped_from": run.run_id if deduped else None,
            "outputs_ref": self.files_ref(run.outputs) if run.outputs is not None and run.outputs.isolated else None,
            "children_task_ids": list(view.children),
            "cipd_pins": dict(run.cipd_pins) if run.cipd_pins else None,
            "performance_stats": self.performance(run.stats)
            if self.performance and run.stats and not deduped
            else None,
        }

    def request(
        self, request: model.TaskRequest, task: model.Task | None = None, now: float | None = None
    ) -> dict[str, Any]:
        """Return a TaskRequest; without a task it is one that was only evaluated, made `now`."""
        tolerance_s = request.bot_ping_tolerance_s
        spelt = [self.properties(part.properties) for part in request.slices]
        return compact(
            {
                "name": request.name,
                "task_id": task.task_id if task is not None else None,
                "parent_task_id": request.parent_task_id,
                "priority": str64(request.priority),
                "expiration_secs": str64(sum(part.expiration_s for part in request.slices)),
                "properties": spelt[0],
                "task_slices": [
                    {
                        "properties": properties,
                        "expiration_secs": str64(part.expiration_s),
                        "wait_for_capacity": part.wait_for_capacity,
                    }
                    for part, properties in zip(request.slices, spelt, strict=True)
                ],
                "tags": list(request.tags),
                "user": request.user,
                "authenticated": request.authenticated,
                "created_ts": ts(now if task is None else task.created_at),
                "service_account": request.service_account,
                "realm": request.realm or None,
                "bot_ping_tolerance_secs": str64(int(self.ping_tolerance_s) if tolerance_s is None else tolerance_s),
            }
        )

    def properties(self, asked: model.TaskProperties) -> dict[str, Any]:
        """Return TaskProperties."""
        contained = asked.containment
        return compact(
            {
                "caches": [{"name": cache.name, "path": cache.path} for cache in asked.caches],
                "command": list(asked.command),
                "containment": compact(
                    {
                        "containment_type": CONTAINMENTS[contained.containment_type],
                        "lower_priority": contained.lower_priority,
                        "limit_processes": str64(contained.limit_processes),
                        "limit_total_committed_memory": str64(contained.limit_total_committed_memory),
                    }
                ),
                "dimensions": [{"key": key, "value": value} for key, value in asked.dimensions],
                "env": [{"key": key, "value": value} for key, value in asked.env],
                "env_prefixes": [{"key": key, "value": list(paths)} for key, paths in asked.env_prefixes],
                "execution_timeout_secs": str64(asked.execution_timeout_s),
                "extra_args": list(asked.extra_args),
                "grace_period_secs": str64(asked.grace_period_s),
                "idempotent": asked.idempotent,
                "inputs_ref": None if asked.is_terminate else self.files_ref(asked.inputs or model.FilesRef(None)),
                "io_timeout_secs": str64(asked.io_timeout_s),
                "outputs": list(asked.outputs),
                "relative_cwd": asked.relative_cwd or None,
                "secret_bytes": None if asked.secret is None else REDACTED,
            }
        )

    def files_ref(self, files: model.FilesRef) -> dict[str, Any]:
        """Return a reference to a tree, with the address of this server where it means this server."""
        namespace = files.namespace or DEFAULT_NAMESPACE
        server = files.server or self.server_url
        return compact({"isolated": files.isolated, "isolatedserver": server, "namespace": namespace})


def why_pending(found: pending.Pending) -> dict[str, Any]:
    """Return why a task waits: a field that clients of 2020 ignore."""
    return {
        "summary": found.summary,
        "bots_known": str64(found.known),
        "bots_capable": str64(found.capable),
        "bots_ready": str64(found.ready),
        "ahead_in_queue": str64(found.ahead),
        "ahead_is_at_least": found.ahead_is_at_least,
        "reasons": [{"reason": reason, "bots": str64(count)} for reason, count in found.reasons],
        "bots": [{"bot_id": bot_id, "reason": reason} for bot_id, reason in found.bots],
    }


def queue(dimensions: model.Pairs, now: float) -> dict[str, Any]:
    """Return a TaskQueue."""
    return {"dimensions": [f"{key}:{value}" for key, value in dimensions], "valid_until_ts": ts(now + QUEUE_VALID_S)}


def bot_info(bot: bots.BotInfo) -> dict[str, Any]:
    """Return a BotInfo."""
    return compact(
        {
            "bot_id": bot.bot_id,
            "dimensions": pairs(dict(bot.dimensions)),
            "external_ip": bot.external_ip,
            "authenticated_as": bot.authenticated_as,
            "first_seen_ts": ts(bot.first_seen_at),
            "is_dead": bot.is_dead,
            "last_seen_ts": ts(bot.last_seen_at),
            "quarantined": bool(bot.quarantined),
            "maintenance_msg": bot.maintenance or None,
            "task_id": bot.run_id,
            "task_name": bot.task_name or None,
            "version": bot.version,
            "state": _state_text(bot.state),
            "deleted": False,
        }
    )


def bot_count(found: bots.BotCount, now: float) -> dict[str, Any]:
    """Return how many bots are what."""
    return {
        "count": str64(found.total),
        "quarantined": str64(found.quarantined),
        "maintenance": str64(found.maintenance),
        "dead": str64(found.dead),
        "busy": str64(found.busy),
        "now": ts(now),
    }


def bot_event(event: bots.BotEvent) -> dict[str, Any]:
    """Return a BotEvent."""
    return compact(
        {
            "ts": ts(event.at),
            "event_type": event.event_type,
            "message": event.message or None,
            "dimensions": pairs(dict(event.dimensions)),
            "state": _state_text(event.state),
            "external_ip": event.external_ip,
            "authenticated_as": event.authenticated_as,
            "version": event.version,
            "quarantined": bool(event.quarantined),
            "maintenance_msg": event.maintenance or None,
            "task_id": event.run_id,
        }
    )


def _state_text(state: Mapping[str, Any]) -> str:
    return json.dumps(state, sort_keys=True, separators=(",", ":"))


def page(items: Sequence[dict[str, Any]], cursor: str | None, now: float) -> dict[str, Any]:
    """Return one page of a listing."""
    return compact({"cursor": cursor, "items": list(items), "now": ts(now)})


def whole_characters(output: bytes) -> bytes:
    """Return `output` without a character of UTF-8 that is cut off at its end, unless that is all there is."""
    for missing in range(1, min(3, len(output) - 1) + 1):
        byte = output[-missing]
        if byte & 0xC0 != 0x80:  # the first byte of a character, which says how long it is
            length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return output[:-missing] if length > missing else output
    return output
