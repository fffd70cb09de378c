"""Commands that tell the server to do one thing: cancel, delete, terminate, post.

Knows no flags and no terminal; lines go through a `Screen`. The invariant: what could not be done is said, for each
thing that was asked for, and shows in the exit status.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from isolate.errors import InvalidInput, IsolateError, NotFound, Unavailable
from swarming.actions import Screen
from swarming.client import Cancelled, SwarmingClient


async def cancel(
    client: SwarmingClient,
    task_ids: Sequence[str],
    screen: Screen,
    *,
    kill_running: bool,
    done: list[Cancelled] | None = None,
) -> int:
    """Cancel tasks, adding to `done` what became of each; returns 1 when one of them could not be."""
    status = 0
    for task_id in task_ids:
        reason = ". Probably already gone"
        try:
            answer = await client.cancel(task_id, kill_running=kill_running)
            if answer.ok:
                if done is not None:
                    done.append(answer)
                continue
            if answer.was_running:
                reason = ": it is running, and ends only with --kill-running"
        except NotFound:
            pass
        except InvalidInput:
            reason = ": it is no task id (`swarming tasks` lists them)"
        screen.err(f"Deleting {task_id} failed{reason}")
        status = 1
    return status


async def withdraw(client: SwarmingClient, task_ids: Sequence[str], screen: Screen) -> None:
    """Cancel tasks, also those that run, and say what became of them."""
    done: list[Cancelled] = []
    await cancel(client, task_ids, screen, kill_running=True, done=done)
    running = sum(answer.was_running for answer in done)
    if len(task_ids) == 1 and done:
        screen.err(f"Cancelled: task {task_ids[0]} {'was running' if running else 'had not begun'}")
    elif done:
        screen.err(f"Cancelled: {len(done)} of {len(task_ids)} tasks, of which {running} were running")


async def delete_bots(client: SwarmingClient, bot_ids: Sequence[str], screen: Screen) -> int:
    """Make the server forget bots; returns 1 when one of them was not there."""
    status = 0
    for bot_id in bot_ids:
        ok = False
        with suppress(NotFound, InvalidInput):
            ok = await client.delete_bot(bot_id)
        if not ok:
            screen.err(f"Deleting {bot_id} failed. Probably already gone")
            status = 1
    return status


async def terminate(client: SwarmingClient, bot_id: str, screen: Screen) -> str | None:
    """Ask a bot to end; prints and returns the id of the task that does it, None when it could not be asked."""
    try:
        task_id = await client.terminate(bot_id)
    except IsolateError as error:
        screen.err(f"Failed to ask for termination: {error}")
        return None
    screen.out(task_id)
    return task_id


async def post(client: SwarmingClient, method: str, body: bytes, screen: Screen) -> int:
    """POST `body` and print the reply as it is; returns 1 when there is none."""
    try:
        reply = await client.post(method.strip("/"), body)
    except Unavailable as error:
        screen.err("Timeout!" if "in time" in str(error) else f"No response! {error}")
        return 1
    except IsolateError as error:
        screen.err(f"No response! {error}")
        return 1
    screen.out(reply.decode("utf-8", "replace"))
    return 0
