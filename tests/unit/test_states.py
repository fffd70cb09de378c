"""The table of task states."""

from __future__ import annotations

import itertools

import pytest

from swarming.states import FINAL, LIVE, TRANSITIONS, Event, IllegalEvent, State, after


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_pair_is_in_the_table_or_raises(state: State, event: Event) -> None:
    if (state, event) in TRANSITIONS:
        assert after(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalEvent) as caught:
            after(state, event)
        assert (caught.value.state, caught.value.event) == (state, event)


# Written down once more, as the life of a task is told: whoever changes the table has to say so here.
LIVES = {
    State.PENDING: "REUSE COMPLETED, NO_CAPACITY NO_RESOURCE, ACCEPT RUNNING, LAPSE PENDING, NEXT_SLICE PENDING, "
    "EXPIRE EXPIRED, GIVE_UP BOT_DIED, CANCEL CANCELED",
    State.RUNNING: "CANCEL CANCELED, RETRY PENDING, DIE BOT_DIED, EXIT COMPLETED, TIME_OUT TIMED_OUT, KILL RUNNING, "
    "KILLED KILLED",
}


def test_the_table_is_the_life_of_a_task() -> None:
    told = {
        (state, Event[name]): State[target]
        for state, text in LIVES.items()
        for name, target in (pair.split() for pair in text.split(", "))
    }
    assert told == TRANSITIONS


def test_nothing_leaves_a_final_state() -> None:
    assert not [state for state, _ in TRANSITIONS if state.is_final]
    assert set(State) == FINAL | LIVE


def test_every_state_can_be_reached() -> None:
    reached = {State.PENDING}
    for _ in State:
        reached |= {target for (state, _), target in TRANSITIONS.items() if state in reached}
    assert reached == set(State)


def test_every_event_happens_somewhere() -> None:
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_the_numbers_are_those_of_2020() -> None:
    numbers = {
        "RUNNING": 16,
        "PENDING": 32,
        "EXPIRED": 48,
        "TIMED_OUT": 64,
        "BOT_DIED": 80,
        "CANCELED": 96,
        "COMPLETED": 112,
        "KILLED": 128,
        "NO_RESOURCE": 256,
    }
    assert {state.name: state.value for state in State} == numbers
