"""Decisions, without anything around them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from swarming import decisions, sharing
from swarming.bots import BotInfo, TaskUpdate
from swarming.model import Execution, Task
from swarming.states import Event, IllegalEvent, State
from tests.tasks import NOW, offer, one_slice, properties, request, submission

SUCCESS = TaskUpdate(exit_code=0, duration_s=1.0)


def waiting(*names: str, idempotent: bool = False) -> tuple[Execution, list[Task]]:
    """Return an execution that waits, and the tasks that share it."""
    part = one_slice(properties(idempotent=idempotent))
    made = [submission(serial, request(name, part)) for serial, name in enumerate(names or ("one",))]
    execution = made[0].execution
    assert execution is not None
    tasks = [made[0].task]
    for other in made[1:]:
        task, execution = sharing.attach(other.task, execution)
        tasks.append(task)
    return execution, tasks


def running(*names: str, idempotent: bool = False) -> tuple[Execution, list[Task]]:
    execution, tasks = waiting(*names, idempotent=idempotent)
    execution = decisions.accepted(sharing.offer(execution, offer().attempt), NOW)
    return execution, [sharing.follow(task, execution) for task in tasks]


def test_an_offer_that_lapses_leaves_what_was_before() -> None:
    execution, _ = waiting()
    lapsed = decisions.lapsed(sharing.offer(execution, offer().attempt), NOW)
    assert replace(lapsed, modified_at=execution.modified_at) == execution


@pytest.mark.parametrize(
    "decide",
    [
        lambda over: decisions.accepted(over, NOW),
        lambda over: decisions.lapsed(over, NOW),
        lambda over: decisions.finished(over, SUCCESS, NOW, 0.0),
        lambda over: decisions.killing(over, NOW),
        lambda over: decisions.died(over, "gone", NOW, 0.0),
        lambda over: decisions.abandoned(over, NOW),
    ],
)
def test_what_is_over_stays_over(decide: Callable[[Execution], object]) -> None:
    over = decisions.finished(running()[0], SUCCESS, NOW, 0.0)
    with pytest.raises(IllegalEvent):
        decide(over)


@pytest.mark.parametrize(
    ("idempotent", "heard_again", "after_s", "expected"),
    [
        (True, True, 99.5, True),
        (True, True, 100.0, False),
        (False, True, 1.0, False),
        (False, False, 1.0, True),
        (True, False, 1.0, True),
    ],
)
def test_who_may_try_again(idempotent: bool, heard_again: bool, after_s: float, expected: bool) -> None:
    execution, tasks = running(idempotent=idempotent)
    assert decisions.may_retry(execution, tasks, NOW + after_s, heard_again=heard_again) is expected


def test_a_second_death_is_the_last() -> None:
    execution, tasks = running(idempotent=True)
    again, _ = decisions.retried(execution, tasks, "gone", NOW, 0.5)
    assert (again.state, again.is_claimable, again.attempts[0].state) == (State.PENDING, True, State.BOT_DIED)
    second = decisions.accepted(sharing.offer(again, offer("other").attempt), NOW)
    assert not decisions.may_retry(second, tasks, NOW, heard_again=False)


def test_a_task_that_is_killed_is_not_tried_again() -> None:
    execution, tasks = running(idempotent=True)
    killed = decisions.killing(execution, NOW)
    assert not decisions.may_retry(killed, tasks, NOW, heard_again=False)
    assert decisions.killing(killed, NOW + 5) is killed
    assert decisions.died(killed, "gone", NOW + 3, 0.0).attempts[0].duration_s == 3.0


def test_a_second_try_may_begin_until_the_last_slice_is_overdue() -> None:
    execution, (task,) = running(idempotent=True)
    patient = replace(task, request=replace(task.request, slices=task.request.slices * 3))
    again, (waiting_on,) = decisions.retried(execution, [patient], "gone", NOW + 150, 0.0)
    assert again.deadline_at == waiting_on.deadline_at == NOW + 300
    assert waiting_on.state is State.PENDING


def test_a_termination_is_not_tried_again() -> None:
    execution, tasks = running()
    leave = properties(dimensions=(("id", "bot"),), command=(), execution_timeout_s=0)
    assert decisions.may_retry(execution, tasks, NOW, heard_again=False)
    assert not decisions.may_retry(replace(execution, properties=leave), tasks, NOW, heard_again=False)


def test_only_a_success_of_something_idempotent_is_reusable() -> None:
    for idempotent, exit_code, expected in ((True, 0, True), (True, 1, False), (False, 0, False)):
        update = TaskUpdate(exit_code=exit_code, duration_s=1.0)
        assert decisions.finished(running(idempotent=idempotent)[0], update, NOW, 0.0).reusable is expected
    killed = decisions.killing(running(idempotent=True)[0], NOW)
    assert not decisions.finished(killed, SUCCESS, NOW, 0.0).reusable


def test_who_leaves_takes_its_urgency_along() -> None:
    execution, tasks = waiting("a", "b", idempotent=True)
    urgent = replace(tasks[1], request=replace(tasks[1].request, priority=1), deadline_at=NOW + 999)
    both = replace(execution, priority=1, deadline_at=NOW + 999)
    left, (gone,) = decisions.without(both, [tasks[0], urgent], urgent, Event.CANCEL, NOW)
    assert (left.priority, left.deadline_at, left.state) == (100, NOW + 100, State.PENDING)
    assert (gone.state, gone.attached, gone.execution_id) == (State.CANCELED, False, None)


def test_the_last_who_leaves_ends_it_and_an_offer_with_it() -> None:
    execution, tasks = waiting()
    offered = sharing.offer(execution, offer().attempt)
    over, others = decisions.without(offered, tasks, tasks[0], Event.CANCEL, NOW)
    assert (over.state, over.attempts, others) == (State.CANCELED, (), [])


@pytest.mark.parametrize(
    ("streak", "dice", "expected"),
    [(0, 0.05, 1.5), (3, 0.5, 1.5**4), (10, 0.9, 60.0), (99, 0.9, 60.0), (9, 0.049, 1.0)],
)
def test_the_back_off_of_2020(streak: float, dice: float, expected: float) -> None:
    assert decisions.back_off_s(streak, dice, 60.0) == expected


@pytest.mark.parametrize(
    ("state", "due"),
    [
        ({}, False),
        ({"periodic_reboot_secs": 100}, False),
        ({"periodic_reboot_secs": 100, "running_time": 89}, False),
        ({"periodic_reboot_secs": 100, "running_time": 111}, True),
        ({"periodic_reboot_secs": 0, "running_time": 121}, False),
        ({"periodic_reboot_secs": True, "running_time": 121}, False),
        ({"periodic_reboot_secs": "100", "running_time": 121}, False),
    ],
)
def test_when_a_bot_is_due_for_its_reboot(state: dict[str, object], due: bool) -> None:
    bots = [BotInfo(bot_id=f"b{number}", state=state) for number in range(20)]
    assert {bool(decisions.reboot_due(bot)) for bot in bots} == {due}


def test_bots_started_together_reboot_apart_but_each_at_one_time() -> None:
    state = {"periodic_reboot_secs": 100, "running_time": 100.0, "started_ts": 5}
    bots = [BotInfo(bot_id=f"b{number}", state=state) for number in range(20)]
    assert {decisions.reboot_due(bot) for bot in bots} == {"", "Periodic reboot: running longer than 100s"}
    assert [decisions.reboot_due(bot) for bot in bots] == [decisions.reboot_due(bot) for bot in bots]
