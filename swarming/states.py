"""Task state transitions, as a table: everything that may change the state of a task is here.

Knows no clock, no store and no HTTP; the scheduler supplies events, this module answers with the next state. An event
that is not in the table raises and changes nothing. An attempt that is only offered leaves its task PENDING.
"""

from __future__ import annotations

from enum import Enum, IntEnum, auto

from isolate.errors import IsolateError


class State(IntEnum):
    """Where a task stands; the numbers are those of the API of 2020 and of the database."""

    RUNNING = 16
    PENDING = 32
    EXPIRED = 48
    TIMED_OUT = 64
    BOT_DIED = 80
    CANCELED = 96
    COMPLETED = 112
    KILLED = 128
    NO_RESOURCE = 256

    @property
    def is_final(self) -> bool:
        """Whether no event can change it any more."""
        return self not in LIVE


LIVE = frozenset({State.PENDING, State.RUNNING})
FINAL = frozenset(State) - LIVE


class Event(Enum):
    """What may happen to a task."""

    REUSE = auto()  # an earlier success answers it
    NO_CAPACITY = auto()  # no known bot could ever run it
    ACCEPT = auto()  # the first update of the bot it was offered to
    LAPSE = auto()  # an offer that nobody answered
    NEXT_SLICE = auto()  # the slice is overdue, another one follows
    EXPIRE = auto()  # the last slice is overdue
    GIVE_UP = auto()  # overdue while waiting for a second try
    CANCEL = auto()  # withdrawn before it ran
    RETRY = auto()  # its bot died and it may be tried again
    DIE = auto()  # its bot died, and that was it
    EXIT = auto()  # the command ended by itself
    TIME_OUT = auto()  # the command ran too long or was silent too long
    KILL = auto()  # asked to stop; the bot has not answered yet
    KILLED = auto()  # the bot stopped it, or nobody wants it any more


class IllegalEvent(IsolateError):
    """An event that cannot happen in this state."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"A task that is {state.name} cannot {event.name}")
        self.state, self.event = state, event


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.PENDING, Event.REUSE): State.COMPLETED,
    (State.PENDING, Event.NO_CAPACITY): State.NO_RESOURCE,
    (State.PENDING, Event.ACCEPT): State.RUNNING,
    (State.PENDING, Event.LAPSE): State.PENDING,
    (State.PENDING, Event.NEXT_SLICE): State.PENDING,
    (State.PENDING, Event.EXPIRE): State.EXPIRED,
    (State.PENDING, Event.GIVE_UP): State.BOT_DIED,
    (State.PENDING, Event.CANCEL): State.CANCELED,
    (State.RUNNING, Event.CANCEL): State.CANCELED,  # the bot saw the cancel before it started the command
    (State.RUNNING, Event.RETRY): State.PENDING,
    (State.RUNNING, Event.DIE): State.BOT_DIED,
    (State.RUNNING, Event.EXIT): State.COMPLETED,
    (State.RUNNING, Event.TIME_OUT): State.TIMED_OUT,
    (State.RUNNING, Event.KILL): State.RUNNING,
    (State.RUNNING, Event.KILLED): State.KILLED,
}


def after(state: State, event: Event) -> State:
    """Return the state that follows; raises IllegalEvent."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalEvent(state, event) from None
