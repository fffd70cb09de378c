"""The fleet: every bot known, which queues each serves, and whether a queue could be served at all. In memory only.

Knows no task and no store. Two indexes keep it cheap with thousands of bots and queues: both are put into buckets by
id or pool, and what matches is remembered on either side, so nothing is matched twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from msgspec.structs import replace

from isolate.errors import NotFound
from swarming import matching
from swarming.bots import FORMER_SESSIONS, BotHello, BotInfo
from swarming.doorbell import Listening


@dataclass(slots=True, eq=False)
class Seat:
    """A bot's place at the server."""

    info: BotInfo
    traits: matching.Traits
    heard_s: float  # monotonic
    queues: dict[str, None] = field(default_factory=dict)  # those it serves, an ordered set
    is_changed: bool = False  # the store has an older value
    is_heard: bool = False  # the store has an older time
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # one claim at a time
    waiting: Listening | None = None  # its long poll


class Fleet:
    """All bots and all queues of this server."""

    def __init__(self) -> None:
        self._seats: dict[str, Seat] = {}
        self._bots_in: dict[matching.Bucket, dict[str, Seat]] = {}
        self._queues_in: dict[matching.Bucket, dict[str, None]] = {}
        self._servers: dict[str, int] = {}  # queue -> how many bots serve it; has every open queue

    def __len__(self) -> int:
        return len(self._seats)

    def __iter__(self) -> Iterator[Seat]:
        return iter([self._seats[bot_id] for bot_id in sorted(self._seats)])

    def get(self, bot_id: str) -> Seat | None:
        """Return the seat of a bot, if it has one."""
        return self._seats.get(bot_id)

    def seat(self, bot_id: str) -> Seat:
        """Return the seat of a bot; raises NotFound."""
        seat = self._seats.get(bot_id)
        if seat is None:
            raise NotFound(f"Bot {bot_id!r} is not known")
        return seat

    def load(self, bots: Iterable[BotInfo], now_s: float) -> None:
        """Seat bots the store knows; each may be silent for its full time again."""
        for info in bots:
            self._put(Seat(replace(info, run_id=None, task_name=""), _traits(info), now_s))

    def welcome(self, hello: BotHello, now: float, now_s: float) -> Seat:
        """Return the seat of the bot that says `hello`, with what it says noted."""
        seat = self._seats.get(hello.bot_id)
        if seat is None:
            info = BotInfo(bot_id=hello.bot_id, session=hello.session, first_seen_at=now)
            seat = Seat(info, {}, now_s)
            self._seats[hello.bot_id] = seat
        told = _told(seat.info, hello)
        moved = told.dimensions != seat.info.dimensions or not seat.traits
        seat.is_changed = seat.is_changed or moved or _standing(told) != _standing(seat.info)
        seat.info = told
        self.hear(seat, now, now_s)
        if moved:
            self._remove(seat)
            seat.traits = _traits(told)
            self._put(seat)
        return seat

    def hear(self, seat: Seat, now: float, now_s: float) -> None:
        """Note a sign of life."""
        seat.heard_s, seat.is_heard = now_s, True
        seat.info = replace(seat.info, last_seen_at=now, is_dead=False)

    def silent(self, now_s: float, silence_s: float) -> list[Seat]:
        """Return the seats of bots that were silent for longer than `silence_s` and are not known to be dead."""
        return [seat for seat in self._seats.values() if now_s - seat.heard_s > silence_s and not seat.info.is_dead]

    def grant(self, now_s: float) -> None:
        """Give every bot its full time again: nobody could be heard."""
        for seat in self._seats.values():
            seat.heard_s = now_s

    def forget(self, bot_id: str) -> None:
        """Take a bot's seat away; raises NotFound."""
        self._remove(self.seat(bot_id))
        del self._seats[bot_id]

    def of_pool(self, pool: str) -> list[BotInfo]:
        """Return the bots of a pool."""
        return [seat.info for seat in self._bots_in.get(("pool", pool), {}).values()]

    def open(self, queue: str) -> None:
        """Make sure that `queue` is matched with the bots; those that wait listen to it from now on."""
        if queue in self._servers:
            return
        self._servers[queue] = 0
        wanted = matching.demand(queue)
        found: dict[str, Seat] = {}
        for bucket in wanted.buckets:
            self._queues_in.setdefault(bucket, {})[queue] = None
            for bot_id, seat in self._bots_in.get(bucket, {}).items():
                if bot_id not in found and matching.serves(seat.traits, wanted):
                    found[bot_id] = seat
        for seat in found.values():
            seat.queues[queue] = None
            if seat.waiting is not None:
                seat.waiting.add(queue)
        self._servers[queue] = len(found)

    def queues(self) -> list[str]:
        """Return every open queue, sorted."""
        return sorted(self._servers)

    def has_capacity(self, queue: str) -> bool:
        """Say whether any known bot, dead or alive, could serve `queue`."""
        self.open(queue)
        return self._servers[queue] > 0

    def retain(self, queues: Collection[str]) -> None:
        """Forget every queue that is not among `queues`; one that is used again is opened again."""
        for queue in self._servers.keys() - queues:
            del self._servers[queue]
            for bucket in matching.demand(queue).buckets:
                self._queues_in[bucket].pop(queue, None)
                if not self._queues_in[bucket]:
                    del self._queues_in[bucket]
                for seat in self._bots_in.get(bucket, {}).values():
                    seat.queues.pop(queue, None)

    def _put(self, seat: Seat) -> None:
        """Enter a seat in the buckets and find the queues it serves."""
        self._seats[seat.info.bot_id] = seat
        for bucket in matching.buckets(seat.traits):
            self._bots_in.setdefault(bucket, {})[seat.info.bot_id] = seat
            for queue in self._queues_in.get(bucket, ()):
                if queue not in seat.queues and matching.serves(seat.traits, matching.demand(queue)):
                    seat.queues[queue] = None
                    self._servers[queue] += 1

    def _remove(self, seat: Seat) -> None:
        """Take a seat out of the buckets, and its service away from the queues."""
        for bucket in matching.buckets(seat.traits):
            bots = self._bots_in.get(bucket, {})
            bots.pop(seat.info.bot_id, None)
            if not bots:
                self._bots_in.pop(bucket, None)
        for queue in seat.queues:
            self._servers[queue] -= 1
        seat.queues = {}


def must_end_by(info: BotInfo) -> float | None:
    """Return when the bot will vanish (epoch seconds), if it says so: its user's word, from a clock we do not know."""
    value = info.state.get("lease_expiration_ts")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _traits(info: BotInfo) -> matching.Traits:
    """Return what a bot is matched by; whatever it says, it is nobody else."""
    return {**matching.traits(info.dimensions), "id": frozenset({info.bot_id})}


def _standing(info: BotInfo) -> tuple[object, ...]:
    """Return what is worth a write at once; the rest of a bot's state changes with every poll."""
    return info.session, info.version, info.quarantined, info.maintenance, info.external_ip, info.authenticated_as


def _told(info: BotInfo, hello: BotHello) -> BotInfo:
    """Return `info` with what the bot says of itself."""
    session, former = info.session, info.former_sessions
    if hello.session != session:
        former = (session, *(one for one in former if one not in {hello.session, session}))[:FORMER_SESSIONS]
    return replace(
        info,
        session=hello.session,
        former_sessions=former,
        dimensions=hello.dimensions,
        state=hello.state,
        version=hello.version,
        external_ip=hello.external_ip,
        authenticated_as=hello.authenticated_as,
        quarantined=_quarantined(hello),
        maintenance=str(hello.state.get("maintenance") or ""),
    )


def _quarantined(hello: BotHello) -> str:
    """Return why the bot gets no work, or ""."""
    if hello.problem:
        return hello.problem
    if hello.state.get("quarantined") or any(key == "quarantined" for key, _ in hello.dimensions):
        reason = hello.state.get("quarantined")
        return reason if isinstance(reason, str) else "Bot self-quarantined"
    return ""
