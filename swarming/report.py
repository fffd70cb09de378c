"""How collected shards are shown: the texts of §7.5, plain and decorated, and the summary.

Pure: text in, text out; knows no server and no terminal. A text is whole lines; whoever prints it ends the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swarming.collect import Shard


def plain(shard: Shard) -> str:
    """Return one shard as `bot: task exit`, its output indented by two spaces."""
    result = shard.result
    head = f"{result.bot_id or 'N/A'}: {result.task_id} {result.exit_code}"
    if shard.stdout is None:
        return head
    lines = [f"  {line}" for line in shard.stdout.rstrip().splitlines()]
    return "\n".join([head, *lines, ""]) if lines else head


def decorated(shard: Shard, url: str) -> str:
    """Return one shard between boxes; an empty line is to separate it from the next."""
    first = f"Shard {shard.index}  {url}/user/task/{shard.result.task_id}"
    last = f"End of shard {shard.index}"
    facts = _facts(shard)
    width = max(map(len, (first, last, facts)))
    border = f"+-{'-' * width}-+"

    def row(text: str) -> str:
        return f"| {text.ljust(width)} |"

    if shard.stdout is None:
        return "\n".join([border, row(first), row(facts), border])
    return "\n".join([border, row(first), border, shard.stdout.rstrip(), border, row(last), row(facts), border])


_STATES = {
    "PENDING": "no bot has taken it yet (`tasks why` says why)",
    "RUNNING": "it has not ended yet",
    "NO_RESOURCE": "no bot has these dimensions (--wait-for-capacity waits for one; `tasks why` says what is lacking)",
    "EXPIRED": "no bot took it in time (`tasks why` says what is lacking)",
    "CANCELED": "it was cancelled before it ran",
    "KILLED": "it was cancelled while it ran",
    "TIMED_OUT": "it ran or was silent for too long",
    "BOT_DIED": "its bot was lost, or could not run it",
}


def ending(shard: Shard) -> str | None:
    """Return in a line why a task did not end by itself, or that it has not ended; None when it did."""
    reason = _STATES.get(shard.result.state)
    return f"Shard {shard.index} {shard.result.state}: {reason}" if reason else None


def _facts(shard: Shard) -> str:
    result = shard.result
    pending = _duration(result.pending_s)
    if result.state == "CANCELED":
        return f" Pending: {pending}  CANCELED"
    if result.state in {"EXPIRED", "NO_RESOURCE"}:
        return f" Pending: {pending}  EXPIRED (lack of capacity)"
    code = "N/A" if result.exit_code is None else result.exit_code
    text = f" Pending: {pending}  Duration: {_duration(result.duration_s)}  Bot: {result.bot_id or 'N/A'}  Exit: {code}"
    return f"{text}  {result.state}" if result.state in {"BOT_DIED", "TIMED_OUT", "KILLED"} else text


def _duration(seconds: float | None) -> str:
    return "N/A" if seconds is None else f"{seconds:.1f}s"


def total(shards: Sequence[Shard]) -> str:
    """Return the closing line of decorated output, empty when nothing ran."""
    seconds = sum(shard.result.duration_s or 0.0 for shard in shards)
    return f"Total duration: {seconds:.1f}s" if seconds > 0 else ""


def summary_entry(shard: Shard, *, with_output: bool) -> dict[str, Any]:
    """Return what `--task-summary-json` says of a shard: what the server said, and its output if wanted."""
    entry = dict(shard.result.raw)
    if with_output and shard.stdout is not None:
        entry["output"] = shard.stdout
    outputs = shard.result.outputs
    if outputs:
        view = f"{outputs.server}/browse?namespace={outputs.namespace}&hash={outputs.isolated}"
        entry["outputs_ref"] = dict(entry["outputs_ref"]) | {"view_url": view}
    return entry
