"""What a bot is and says, and what the scheduler answers it.

Knows no store, no clock and no JSON spelling. A session is a random string our bots draw at every start; "" stands for
a bot of 2020, which has none. Times ending in `_at` are epoch seconds, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from swarming.model import Attempt, Execution, FilesRef, Lists

FORMER_SESSIONS = 8  # sessions of a bot id that are remembered as replaced


class BotHello(msgspec.Struct, frozen=True, kw_only=True):
    """What a bot says of itself with every handshake, poll and event."""

    bot_id: str
    session: str = ""
    dimensions: Lists = ()  # sorted by key
    state: Mapping[str, Any] = {}
    version: str = ""
    external_ip: str = ""
    authenticated_as: str = ""
    problem: str = ""  # what the server found wrong in the message: the bot is quarantined for it, not refused


class BotInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a bot."""

    bot_id: str
    session: str = ""
    former_sessions: tuple[str, ...] = ()
    dimensions: Lists = ()
    state: Mapping[str, Any] = {}
    version: str = ""
    external_ip: str = ""
    authenticated_as: str = ""
    first_seen_at: float = 0.0
    last_seen_at: float = 0.0
    quarantined: str = ""  # the reason, "" when it is not
    maintenance: str = ""
    run_id: str | None = None  # what it works on
    task_name: str = ""
    is_dead: bool = False

    @property
    def worry(self) -> str:
        """Why it gets no tasks, "" when it may have some."""
        return self.quarantined or self.maintenance

    def __repr__(self) -> str:  # without the sessions, which are credentials
        return f"BotInfo({self.bot_id!r}, run_id={self.run_id!r})"


class BotEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a bot, for its page."""

    bot_id: str
    event_type: str
    at: float
    message: str = ""
    run_id: str | None = None
    version: str = ""
    quarantined: str = ""
    maintenance: str = ""
    dimensions: Lists = ()
    state: Mapping[str, Any] = {}
    external_ip: str = ""
    authenticated_as: str = ""


@dataclass(frozen=True, slots=True)
class Sleep:
    """No work: ask again after `duration_s`."""

    duration_s: float
    quarantined: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Work: an offer until the first update for `attempt.run_id` is answered."""

    execution: Execution
    attempt: Attempt
    secret: bytes | None = field(default=None, repr=False)
    cache_bytes: Mapping[str, int] = field(default_factory=dict)  # how large named caches become, where that is known


@dataclass(frozen=True, slots=True)
class Terminate:
    """Leave: a task in itself, acknowledged by an update with exit code 0 and duration 0."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Restart:
    """Reboot the host."""

    message: str


Command = Sleep | Run | Terminate | Restart


class TaskUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """What a bot reports while a task runs. The last one has exit code and duration, or `canceled`."""

    output: bytes = b""
    output_start: int = 0  # where `output` goes, in bytes
    exit_code: int | None = None
    duration_s: float | None = None
    hard_timeout: bool = False
    io_timeout: bool = False
    canceled: bool = False  # told to stop before it started the command
    cost_usd: float | None = None
    outputs: FilesRef | None = None
    stats: Mapping[str, Any] | None = None
    cipd_pins: Mapping[str, Any] | None = None

    @property
    def is_final(self) -> bool:
        """Whether the task is over."""
        return self.exit_code is not None or self.canceled or self.hard_timeout or self.io_timeout


@dataclass(frozen=True, slots=True)
class Updated:
    """The answer to an update."""

    must_stop: bool
    update_every_s: float  # how often to report


@dataclass(frozen=True, slots=True, kw_only=True)
class BotQuery:
    """Which bots; None is "do not care". `dimensions` are exact and all needed."""

    dimensions: tuple[tuple[str, str], ...] = ()
    quarantined: bool | None = None
    in_maintenance: bool | None = None
    is_dead: bool | None = None
    is_busy: bool | None = None

    def finds(self, info: BotInfo) -> bool:
        """Whether a bot is one of those."""
        flat = {(key, value) for key, values in info.dimensions for value in values}
        return (
            flat.issuperset(self.dimensions)
            and (self.quarantined is None or bool(info.quarantined) is self.quarantined)
            and (self.in_maintenance is None or bool(info.maintenance) is self.in_maintenance)
            and (self.is_dead is None or info.is_dead is self.is_dead)
            and (self.is_busy is None or (info.run_id is not None) is self.is_busy)
        )


@dataclass(frozen=True, slots=True)
class BotCount:
    """How many bots match, and how many of them are what."""

    total: int
    quarantined: int
    maintenance: int
    dead: int
    busy: int
