"""What bots get and say: handshakes, polls, updates, errors.

Knows no HTTP and no request of a client. A poll answers with an offer; the offer becomes a run with the bot's first
update. Whatever a bot says is fenced by (bot id, session, run id): one that lost its run learns it here.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

from msgspec.structs import replace

from isolate.errors import InvalidInput, LeaseLost, NotFound
from swarming import decisions, ids
from swarming.bots import BotHello, BotInfo, Command, Restart, Run, Sleep, TaskUpdate, Terminate, Updated
from swarming.doorbell import Listening
from swarming.fleet import Seat, must_end_by
from swarming.leases import Lease
from swarming.ledger import Ledger
from swarming.long_polls import LongPolls
from swarming.model import Attempt, Execution
from swarming.states import State
from swarming.store import Offer, OutputStore

_RESTARTED = "Bot was started again"


class Dispatcher:
    """Serves the bots."""

    def __init__(self, ledger: Ledger, outputs: OutputStore, rng: random.Random) -> None:
        self._ledger, self._outputs, self._rng = ledger, outputs, rng
        self._polls = LongPolls(rng)
        self._unbroken: set[asyncio.Task[Any]] = set()

    async def handshake(self, hello: BotHello) -> BotInfo:
        """Note a bot that started; one under a known id ends what its predecessor did."""
        info = (await self._welcome(hello, is_start=True)).info
        self._ledger.note(hello.bot_id, "bot_connected")
        return info

    async def poll(self, hello: BotHello, wait_until: float | None) -> Command:
        """Return what the bot shall do; with `wait_until` (monotonic) wait so long for work.

        Raises LeaseLost for a session that was replaced by another.
        """
        before = self._ledger.fleet.get(hello.bot_id)
        worry = None if before is None else before.info.worry
        seat = await self._welcome(hello, is_start=False)
        if worry is not None and worry != seat.info.worry:
            self._ledger.note(hello.bot_id, "request_sleep", seat.info.worry)
        if seat.waiting is not None:
            seat.waiting.release()  # its connection broke, or it would not ask again
        if seat.info.worry:
            return self._sleep(seat, quarantined=True)
        reboot = decisions.reboot_due(seat.info)
        if reboot and self._ledger.leases.of_bot(hello.bot_id) is None:
            return Restart(reboot)
        now_s = self._ledger.clock.monotonic()
        waits = wait_until is not None and wait_until > now_s
        with self._ledger.doorbell.listen(hello.bot_id, seat.queues) as listener:
            seat.waiting = listener
            if waits and wait_until is not None:
                self._polls.add(listener.release, now_s, wait_until)
            try:
                return await self._next(seat, hello.session, listener, waits=waits)
            finally:
                if seat.waiting is listener:
                    seat.waiting = None

    def release(self) -> None:
        """End long polls whose time has come, a few at a time."""
        self._polls.release(self._ledger.clock.monotonic())

    async def update(self, bot_id: str, session: str, run_id: str, update: TaskUpdate) -> Updated:
        """Take in what a bot reports of its run; raises LeaseLost, InvalidTask, NotFound."""
        decisions.check_update(update)
        lease = self._lease(bot_id, session, run_id)
        if lease is None:
            return await self._late(bot_id, session, run_id, update)
        self._hear(lease, update)
        try:
            if lease.attempt.is_offer and (update.output or not update.is_final):
                await self._advance(lease, update, is_final=False)
            if update.output:
                await self._outputs.append(run_id, update.output_start, update.output)
            if update.is_final:
                await self._advance(lease, update, is_final=True)
        except LeaseLost:
            return await self._late(bot_id, session, run_id, update)
        if not update.is_final and self._lease(bot_id, session, run_id) is None:
            return await self._late(bot_id, session, run_id, update)
        return Updated(lease.execution.killing and not update.is_final, self._update_every_s(lease))

    async def fail(self, bot_id: str, session: str, run_id: str, message: str) -> None:
        """End a run that its bot could not bring to an end: final. Raises LeaseLost, InvalidInput."""
        lease = self._lease(bot_id, session, run_id)
        if lease is not None:
            await self._ledger.end_lease(lease, message, final=True)
            return
        attempt = await self._attempt(run_id)
        if attempt is not None and attempt.bot_id != bot_id:
            raise InvalidInput(f"Bot {bot_id} cannot fail run {run_id} of bot {attempt.bot_id}")
        if attempt is None or attempt.session != session:
            raise LeaseLost(f"Run {run_id} is not of bot {bot_id}")
        if attempt.state not in {State.BOT_DIED, State.KILLED}:
            raise LeaseLost(f"Run {run_id} is over")

    async def event(self, hello: BotHello, event_type: str, message: str) -> None:
        """Note something about a bot that is heard now."""
        await self._welcome(hello, is_start=False)
        self._ledger.note(hello.bot_id, event_type, message)

    def _update_every_s(self, lease: Lease) -> float:
        """Return how often the bot shall report: often while somebody watches, less often under load."""
        ledger, policy = self._ledger, self._ledger.policy
        watched = lease.watched_s is not None and ledger.clock.monotonic() - lease.watched_s < policy.watched_s
        wanted_s = 0.0 if watched else len(ledger.leases) / policy.updates_per_s
        return min(max(wanted_s, policy.min_update_s), policy.max_update_s)

    def silence_s(self, execution: Execution) -> float:
        """Return how long the bot that runs `execution` may be silent."""
        least_s = 0.0 if execution.attempts[-1].session else self._ledger.policy.legacy_ping_tolerance_s
        return max(execution.tolerance_s, least_s)

    def offer_s(self, session: str) -> float:
        """Return how long a bot may take to answer an offer."""
        return self._ledger.policy.offer_s if session else self._ledger.policy.legacy_offer_s

    async def close(self) -> None:
        """End all long polls, and wait for claims that were under way."""
        self._polls.release_all()
        while self._unbroken:
            await asyncio.wait(self._unbroken)

    def _lease(self, bot_id: str, session: str, run_id: str) -> Lease | None:
        """Return the lease for a run if it is this bot's."""
        lease = self._ledger.leases.of_run(run_id)
        return lease if lease is not None and lease.is_of(bot_id, session) else None

    async def _welcome(self, hello: BotHello, *, is_start: bool) -> Seat:
        """Seat the bot; ends the work of an earlier session, and refuses one that was replaced and comes late."""
        ledger = self._ledger
        seat = ledger.fleet.get(hello.bot_id)
        is_new = seat is None or seat.info.session != hello.session
        starts_anew = is_start and not hello.session  # a bot of 2020 shakes hands only then: its predecessor is gone
        if is_new and seat is not None and hello.session in seat.info.former_sessions and not starts_anew:
            raise LeaseLost(f"Bot {hello.bot_id} was started again elsewhere: this session was replaced")
        seat = ledger.fleet.welcome(hello, ledger.clock.now(), ledger.clock.monotonic())
        if is_new or starts_anew:
            lease = ledger.leases.of_bot(hello.bot_id)
            if lease is not None:
                await ledger.end_lease(lease, _RESTARTED)
        if is_new or seat.is_changed:
            await ledger.save([seat])
        return seat

    async def _next(self, seat: Seat, session: str, listener: Listening, *, waits: bool) -> Command:
        """Return the next command, waiting for rings if `waits`."""
        while True:
            listener.rearm()
            async with seat.lock:
                if seat.info.session != session:
                    raise LeaseLost(f"Bot {seat.info.bot_id} was started again elsewhere: this session was replaced")
                command = await self._again(seat) or await self._claim(seat)
            if command is not None:
                return command
            if not waits:
                return self._sleep(seat)
            if not await listener.rung():
                return Sleep(0.0)

    async def _again(self, seat: Seat) -> Command | None:
        """Return the offer this bot has already: its reply was lost. While it runs something it gets no more."""
        info = seat.info
        lease = self._ledger.leases.of_bot(info.bot_id)
        if lease is None:
            return None
        if not lease.is_of(info.bot_id, info.session):  # claimed by its predecessor at the last moment
            await self._ledger.end_lease(lease, _RESTARTED)
            return None
        if not lease.attempt.is_offer:
            return self._sleep(seat)
        lease.heard_s = self._ledger.clock.monotonic()
        return await self._command(lease.execution)

    async def _claim(self, seat: Seat) -> Command | None:
        """Take the next execution for a bot, if there is one."""
        ledger, info = self._ledger, seat.info
        now, end_at = ledger.clock.now(), must_end_by(seat.info)
        if not seat.queues or (end_at is not None and end_at <= now):
            return None
        attempt = Attempt(
            run_id="",
            try_number=0,
            bot_id=info.bot_id,
            session=info.session,
            bot_version=info.version,
            bot_dimensions=info.dimensions,
            offered_at=now,
        )
        offer = Offer(attempt=attempt, has_session=bool(info.session), must_end_by=end_at)
        # A poll may be cancelled when its connection breaks; the lease must be known here if the store gives one.
        execution = await self._unbreakable(self._claimed(list(seat.queues), offer))
        return None if execution is None else await self._command(execution)

    async def _command(self, execution: Execution) -> Command:
        """Return the offer of an execution in words for its bot."""
        attempt, wanted = execution.attempts[-1], execution.properties
        if wanted.is_terminate:
            return Terminate(attempt.run_id)
        secret = None if wanted.secret is None else await self._ledger.store.secret(execution.execution_id)
        return Run(execution, attempt, secret, self._ledger.hints.of(attempt.bot_dimensions, wanted.caches))

    async def _claimed(self, queues: list[str], offer: Offer) -> Execution | None:
        ledger = self._ledger
        execution = await ledger.store.claim(queues, offer)
        if execution is None:
            return None
        ledger.leases.add(Lease(execution, ledger.clock.monotonic(), self.offer_s(offer.attempt.session)))
        run_id = execution.attempts[-1].run_id
        seat = ledger.fleet.get(offer.attempt.bot_id)
        if seat is not None:
            seat.info = replace(seat.info, run_id=run_id, task_name=execution.task_name)
        is_terminate = execution.properties.is_terminate
        ledger.note(offer.attempt.bot_id, "bot_terminate" if is_terminate else "request_task", run_id=run_id)
        return execution

    async def _unbreakable(self, work: Coroutine[Any, Any, Execution | None]) -> Execution | None:
        """Await `work`, which goes on to its end even if the caller is cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self._unbroken.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._unbroken.discard(task)
        if not task.cancelled():
            task.exception()  # the caller has it, unless it is gone: then nobody wants it

    async def _advance(self, lease: Lease, update: TaskUpdate, *, is_final: bool) -> None:
        """Store that a run began, or ended, or both; raises LeaseLost when it is not this bot's any more."""
        ledger, now, run_id = self._ledger, self._ledger.clock.now(), lease.run_id
        bot_id, session = lease.attempt.bot_id, lease.attempt.session

        def decide(execution: Execution) -> Execution | None:
            attempt = next((one for one in execution.attempts if one.run_id == run_id), None)
            if attempt is None or attempt.bot_id != bot_id or attempt.session != session:
                raise LeaseLost(f"Run {run_id} was taken from this bot")
            if attempt.state is State.PENDING:
                execution = decisions.accepted(execution, now)
            elif attempt.state is not State.RUNNING:
                if is_final and decisions.same_ending(attempt, update):
                    return None
                raise LeaseLost(f"Run {run_id} is over")
            return decisions.finished(execution, update, now, lease.cost_usd) if is_final else execution

        await ledger.change(lease.execution, decide)
        if not is_final:
            lease.silence_s = self.silence_s(lease.execution)
            lease.heard_s = ledger.clock.monotonic()

    def _hear(self, lease: Lease, update: TaskUpdate) -> None:
        ledger = self._ledger
        lease.heard_s = ledger.clock.monotonic()
        lease.heard_again = lease.heard_again or not lease.attempt.is_offer
        lease.cost_usd = max(lease.cost_usd, update.cost_usd or 0.0)
        seat = ledger.fleet.get(lease.attempt.bot_id)
        if seat is not None:
            ledger.fleet.hear(seat, ledger.clock.now(), ledger.clock.monotonic())

    async def _attempt(self, run_id: str) -> Attempt | None:
        """Return a stored attempt; None when the run or its offer left no trace."""
        try:
            execution = await self._ledger.store.execution(ids.task_id(run_id))
        except NotFound:
            return None
        return next((one for one in execution.attempts if one.run_id == run_id), None)

    async def _late(self, bot_id: str, session: str, run_id: str, update: TaskUpdate) -> Updated:
        """Answer a bot that has no lease: a repeated ending is fine, a bot of 2020 is told to stop."""
        attempt = await self._attempt(run_id)
        own = attempt is not None and attempt.bot_id == bot_id and attempt.session == session
        if update.is_final and attempt is not None and own and decisions.same_ending(attempt, update):
            return Updated(must_stop=False, update_every_s=self._ledger.policy.max_update_s)
        if not session and (not update.is_final or update.canceled):
            return Updated(must_stop=True, update_every_s=self._ledger.policy.max_update_s)
        raise LeaseLost(f"Run {run_id} is over" if own else f"Run {run_id} was taken from bot {bot_id}")

    def _sleep(self, seat: Seat, *, quarantined: bool = False) -> Sleep:
        """Return how long a bot shall wait before it asks again."""
        streak = seat.info.state.get("sleep_streak")
        known = streak if isinstance(streak, int | float) and streak > 0 else 0
        return Sleep(decisions.back_off_s(known, self._rng.random(), self._ledger.policy.max_sleep_s), quarantined)
