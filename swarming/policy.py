"""The figures of the scheduler's policy, with their reasons."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Settings of one scheduler; the defaults are those of the guarantees."""

    use_lifo: bool = False
    reusable_task_age_s: float = 7 * 86_400.0
    repeat_s: float = 3_600.0  # a request_uuid is remembered so long
    offer_s: float = 15.0  # an offer not answered by then goes to somebody else
    legacy_offer_s: float = 60.0  # a bot of 2020 starts its runner first
    ping_tolerance_s: float = 60.0  # six heartbeats
    min_ping_tolerance_s: float = 30.0
    max_ping_tolerance_s: float = 1_200.0
    legacy_ping_tolerance_s: float = 300.0  # at least, for a bot of 2020: its calls retry for 3 minutes
    telling_s: float = 8.0  # of a tolerance that no task asked for: until a tick and a client's poll have told its end
    bot_death_s: float = 600.0  # an idle bot silent for so long is shown as dead
    retry_dead: bool = True  # one more try after the death of a bot, where a task allows it
    max_sleep_s: float = 60.0
    flush_s: float = 10.0  # heartbeats live in memory in between
    pause_s: float = 5.0  # a longer gap between ticks means that nobody could be heard
    min_update_s: float = 1.0  # while somebody watches or there is little to do
    max_update_s: float = 10.0  # the heartbeat that the tolerance is made for
    updates_per_s: float = 200.0  # heartbeats the server wants at most: beyond, each bot reports less often
    watched_s: float = 30.0  # a reader of running output counts as watching for so long
    expire_batch: int = 500  # overdue tasks looked at in one go, so that a tick stays short
