"""The page of one task, or of one run of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from isolate.errors import OutputLost
from server.pages import spell
from server.pages.html import Html, facts, join, link, outside_link, tag
from swarming.model import Attempt, TaskProperties
from swarming.pending import Pending
from swarming.scheduler import TaskView

SHOWN_BYTES = 64 * 1024  # of the output; the rest is one click away
_REVISION_CHARS = 12


def body(view: TaskView, output: bytes | OutputLost, server_url: str, why: Pending | None = None) -> Iterator[object]:
    """Yield the parts of the page; `output` may be why there is none any more."""
    task = view.task
    asked = task.request.slices[task.slice_index].properties
    yield facts(
        [
            ("Id", tag("code", view.attempt.run_id if view.is_run and view.attempt else task.task_id)),
            ("State", view.state.name if view.is_run else spell.state(task)),
            ("Why pending", None if why is None else why.summary),
            ("Bots", _reasons(why)),
            ("Priority", task.request.priority),
            ("User", task.request.user),
            ("Authenticated", task.request.authenticated),
            ("Parent", spell.task_link(task.request.parent_task_id)),
            ("Children", join((spell.task_link(child) for child in view.children), " ") if view.children else None),
            ("Created (UTC)", spell.when(task.created_at)),
            ("Completed (UTC)", spell.when(task.completed_at)),
            ("Abandoned (UTC)", spell.when(task.abandoned_at)),
            ("Slice", f"{task.slice_index + 1} of {len(task.request.slices)}"),
            ("Associated commit", _commit(task.request.tags)),
            ("Tags", join((link(text, "/tasklist", tags=text) for text in task.request.tags), " ")),
        ]
    )
    yield tag("h2", "What is run")
    yield facts(_asked(asked))
    if view.attempt is not None:
        yield tag("h2", "How it ran")
        yield facts(_ran(view.attempt, deduped=task.deduped and not view.is_run))
    yield tag("h2", "Output")
    yield from _printed(view, output)
    yield tag("h2", "From the command line")
    yield tag("pre", f"swarming collect -S {server_url} --task-output-dir=out {task.task_id}")


def _printed(view: TaskView, output: bytes | OutputLost) -> Iterator[Html]:
    if isinstance(output, OutputLost):
        yield tag("p", f"{output}.", class_="empty")
        return
    yield tag("pre", output.decode("utf-8", "replace")) if output else tag("p", "Nothing yet.", class_="empty")
    if len(output) >= SHOWN_BYTES:
        task_id = view.attempt.run_id if view.is_run and view.attempt else view.task.task_id
        yield tag(
            "p", f"These are the first {SHOWN_BYTES // 1024} KiB. ", link("Whole output", "/task/output", id=task_id)
        )


def _asked(asked: TaskProperties) -> list[tuple[str, object]]:
    return [
        ("Dimensions", spell.dimensions(asked.dimensions)),
        ("Command", spell.command_line(asked.command)),
        ("Extra arguments", spell.command_line(asked.extra_args)),
        ("Working directory", asked.relative_cwd),
        ("Inputs", spell.tree(asked.inputs)),
        ("Environment", spell.dimensions(asked.env)),
        ("Outputs", ", ".join(asked.outputs)),
        ("Time-out", spell.lasting(asked.execution_timeout_s or None)),
        ("Silence time-out", spell.lasting(asked.io_timeout_s or None)),
        ("Idempotent", "yes" if asked.idempotent else "no"),
        ("Secret", "yes" if asked.secret is not None else "no"),
    ]


def _ran(run: Attempt, *, deduped: bool) -> list[tuple[str, object]]:
    return [
        ("Deduplicated from" if deduped else "Run", spell.task_link(run.run_id)),
        ("Bot", spell.bot_link(run.bot_id)),
        ("Exit code", run.exit_code),
        ("Started (UTC)", spell.when(run.started_at)),
        ("Duration", spell.lasting(run.duration_s)),
        ("Try", run.try_number),
        ("Reason", run.reason),
        ("Output files", spell.tree(run.outputs)),
        ("Bot version", run.bot_version),
    ]


def _reasons(why: Pending | None) -> str | None:
    return None if why is None else "; ".join(f"{count} {reason}" for reason, count in why.reasons)


def _commit(tags: tuple[str, ...]) -> Html | str | None:
    """Return the revision a task is about, as a link when the task says where it can be seen."""
    said = dict(text.split(":", 1) for text in tags if re.match("source_(repo|revision):", text))
    revision, repository = said.get("source_revision"), said.get("source_repo")
    if not revision:
        return None
    short = revision[:_REVISION_CHARS]
    return outside_link(short, repository.replace("%s", revision)) if repository else short
