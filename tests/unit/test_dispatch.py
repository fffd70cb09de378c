"""What bots get: work, or an answer to go on with."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from isolate.errors import NoSpace
from swarming.bots import Command, Restart, Run, Sleep, TaskUpdate, Terminate, Updated
from swarming.model import FilesRef
from swarming.states import State
from tests.tasks import hello, one_slice, properties
from tests.unit.scheduling import ONCE, SUCCESS, house, refused, settle, waiting

# polls


async def test_an_idle_bot_sleeps_longer_each_time() -> None:
    home = await house()
    for streak, duration_s in ((0, 1.5), (3, 1.5**4), (100, 60.0), (None, 1.5), ("x", 1.5)):
        assert await home.scheduler.poll(hello(state={"sleep_streak": streak})) == Sleep(duration_s)


@pytest.mark.parametrize("state", [{"quarantined": "broken"}, {"maintenance": "oil"}])
async def test_a_bot_that_is_not_fit_gets_no_work_but_an_answer(state: dict[str, Any]) -> None:
    home = await house()
    await home.submit()
    until = home.clock.monotonic() + 30
    command = await home.scheduler.poll(hello(state=state), until)
    assert isinstance(command, Sleep)
    assert command.quarantined
    assert isinstance(await home.scheduler.poll(hello()), Run)


async def test_a_bot_gets_only_what_it_matches() -> None:
    home = await house()
    await home.submit("elsewhere", one_slice(properties(dimensions=(("os", "mac"), ("pool", "default")))))
    await home.submit("either", one_slice(properties(dimensions=(("os", "mac|ubuntu"), ("pool", "default")))))
    await home.submit("other bot", one_slice(properties(dimensions=(("id", "other"), ("pool", "default")))))
    run = await home.take()
    assert run.execution.task_name == "either"
    await home.report(run, SUCCESS)
    assert isinstance(await home.scheduler.poll(hello()), Sleep)


async def test_an_offer_is_repeated_until_it_is_accepted() -> None:
    home = await house()
    view = await home.submit()
    first = await home.take()
    assert await home.take() == first
    assert await home.state(view) is State.PENDING
    assert (await home.scheduler.view(view.task.task_id)).attempt is None
    await home.report(first)
    assert await home.state(view) is State.RUNNING
    assert isinstance(await home.scheduler.poll(hello()), Sleep)


async def test_an_offered_task_waits_for_the_bot_it_is_offered_to() -> None:
    home = await house()
    view = await home.submit()
    await home.take()
    why = await home.scheduler.why_pending(await home.scheduler.view(view.task.task_id))
    assert why is not None
    assert why.summary == "Offered to bot, which has not begun yet"


async def test_a_poll_of_a_bot_that_forgot_its_run_keeps_nothing_alive() -> None:
    home = await house()
    view = await home.submit()
    await home.start()
    for _ in range(61):
        assert isinstance(await home.scheduler.poll(hello()), Sleep)
        await home.pass_time(1)
    assert await home.state(view) is State.PENDING  # its second try


async def test_a_long_poll_wakes_with_the_task() -> None:
    home = await house()
    async with waiting(home) as poll:
        assert not poll.done()
        await home.submit()
        await settle()
        assert isinstance(poll.result(), Run)


async def test_a_long_poll_hears_of_dimensions_never_seen_before() -> None:
    home = await house()
    async with waiting(home) as poll:
        await home.submit("n", one_slice(properties(dimensions=(("os", "ubuntu"),)), wait=False))
        await settle()
        assert isinstance(poll.result(), Run)


async def test_a_long_poll_ends_in_time_with_the_next_tick() -> None:
    home = await house()
    async with waiting(home, wait_s=3.0) as poll:
        await home.pass_time(2)
        await settle()
        assert not poll.done()
        await home.pass_time(1)
        await settle()
        assert poll.result() == Sleep(0.0)


async def test_one_task_wakes_one_bot_the_one_that_waited_longest() -> None:
    home = await house()
    await home.bot("second")
    async with waiting(home) as first, waiting(home, "second") as second:
        await home.submit()
        await settle()
        assert (first.done(), second.done()) == (True, False)
        await home.submit()
        await settle()
        assert second.done()


async def test_a_task_does_not_wake_a_bot_that_may_not_have_it() -> None:
    home = await house()
    await home.bot("old", "")
    await home.bot("leaving")
    ours = one_slice(properties(inputs=FilesRef("a" * 64, "", "blake3-zstd")))
    async with waiting(home, "old", "") as old, waiting(home) as new:
        await home.submit("n", ours)
        await settle()
        assert (old.done(), new.done()) == (False, True)


async def test_a_broken_poll_passes_its_task_on() -> None:
    home = await house()
    await home.bot("second")
    async with waiting(home, "second") as second:
        async with waiting(home, "bot") as first:
            pass
        assert first.cancelled()
        await home.submit()
        await settle()
        assert second.done()


async def test_a_poll_broken_while_it_claims_keeps_the_offer_for_the_next() -> None:
    home = await house()
    home.store.gate.clear()
    await home.submit()
    poll = asyncio.ensure_future(home.scheduler.poll(hello()))
    await settle()
    poll.cancel()
    home.store.gate.set()
    await settle()
    assert poll.cancelled()
    run = await home.take()
    await home.report(run, SUCCESS)
    assert await home.store.taken() == []


async def test_an_offer_claimed_for_a_session_that_was_replaced_goes_back() -> None:
    home = await house()
    home.store.gate.clear()
    await home.submit()
    poll = asyncio.ensure_future(home.scheduler.poll(hello()))
    await settle()
    await home.bot("bot", "new session")
    home.store.gate.set()
    run = await home.take("bot", "new session")
    assert isinstance(await poll, Run)
    assert run.attempt.session == "new session"
    await home.report(run, SUCCESS)


async def test_a_bot_due_for_its_reboot_is_told_so_instead_of_work() -> None:
    home = await house()
    await home.submit()
    due = hello(state={"periodic_reboot_secs": 10, "running_time": 100})
    assert await home.scheduler.poll(due) == Restart("Periodic reboot: running longer than 10s")
    await home.take()
    assert isinstance(await home.scheduler.poll(due), Run)


async def test_a_second_poll_replaces_the_first() -> None:
    home = await house()
    async with waiting(home) as first, waiting(home) as second:
        assert first.result() == Sleep(0.0)
        await home.submit()
        await settle()
        assert isinstance(second.result(), Run)


async def test_closing_releases_every_long_poll() -> None:
    home = await house()
    async with waiting(home) as poll:
        await home.scheduler.close()
        await settle()
        assert poll.result() == Sleep(0.0)


# sessions


async def test_a_bot_started_again_ends_the_run_of_its_predecessor() -> None:
    home = await house()
    view = await home.submit("n", ONCE)
    old = await home.start()
    await home.bot("bot", "new session")
    assert await refused(home.report(old))
    assert await refused(home.report(old, SUCCESS))
    found = await home.scheduler.view(view.task.task_id)
    assert found.execution is not None
    assert found.state is State.PENDING
    assert found.execution.attempts[0].state is State.BOT_DIED
    assert "started again" in found.execution.attempts[0].reason


async def test_a_bot_started_again_gives_an_offer_back_without_a_try() -> None:
    home = await house()
    await home.submit()
    await home.take()
    await home.bot("bot", "new session")
    assert (await home.take("bot", "new session")).attempt.try_number == 1


async def test_a_session_that_was_replaced_is_refused_everywhere() -> None:
    home = await house()
    await home.bot("bot", "new session")
    assert await refused(home.scheduler.poll(hello()))
    assert await refused(home.scheduler.event(hello(), "bot_log", "m"))
    assert await refused(home.scheduler.handshake(hello()))  # repeated by the network, or from a bot that was away
    assert isinstance(await home.scheduler.poll(hello("bot", "new session")), Sleep)


async def test_a_long_poll_of_a_session_that_is_replaced_ends() -> None:
    home = await house()
    async with waiting(home) as poll:
        await home.bot("bot", "new session")
        async with waiting(home, "bot", "new session"):
            await settle()
            assert poll.result() == Sleep(0.0)


async def test_the_same_handshake_again_changes_nothing() -> None:
    home = await house()
    view = await home.submit()
    run = await home.start()
    await home.bot()
    assert not (await home.report(run, SUCCESS)).must_stop
    assert await home.state(view) is State.COMPLETED


async def test_a_bot_the_server_does_not_know_is_known_by_its_poll() -> None:
    home = await house()
    await home.submit()
    await home.scheduler.forget_bot("bot")
    assert isinstance(await home.scheduler.poll(hello()), Run)
    assert [bot.bot_id for bot in await home.store.bots()] == ["bot"]


async def test_a_handshake_that_could_not_be_stored_is_stored_by_the_next() -> None:
    home = await house()
    home.store.is_full = True
    with pytest.raises(NoSpace):
        await home.bot("new")
    home.store.is_full = False
    await home.bot("new")
    assert [bot.bot_id for bot in await home.store.bots()] == ["bot", "new"]


async def test_a_handshake_is_stored_before_it_is_answered() -> None:
    home = await house()
    (stored,) = await home.store.bots()
    assert (stored.session, stored.dimensions) == ("session of bot", hello().dimensions)


# bots of 2020


async def test_a_bot_of_2020_is_told_to_stop_instead_of_losing_a_lease() -> None:
    home = await house()
    await home.bot("old", "")
    view = await home.submit("n", one_slice(properties(dimensions=(("id", "old"),))))
    run = await home.take("old", "")
    await home.scheduler.cancel(view.task.task_id, False)
    assert await home.report(run) == Updated(must_stop=True, update_every_s=10.0)
    assert (await home.report(run, TaskUpdate(canceled=True, exit_code=-1))).must_stop
    assert await refused(home.report(run, SUCCESS))


async def test_a_handshake_of_a_bot_of_2020_ends_its_run() -> None:
    home = await house()
    await home.bot("old", "")
    view = await home.submit("n", one_slice(properties(dimensions=(("id", "old"),), idempotent=True)))
    await home.start("old", "")
    await home.bot("old", "")
    assert await home.state(view) is State.PENDING


async def test_a_bot_that_vanishes_gets_what_it_can_end() -> None:
    home = await house()
    await home.submit()
    soon = hello(state={"lease_expiration_ts": home.clock.now() + 400})
    assert isinstance(await home.scheduler.poll(soon), Sleep)
    gone = hello(state={"lease_expiration_ts": home.clock.now() - 1})
    await home.scheduler.terminate("bot")
    assert isinstance(await home.scheduler.poll(gone), Sleep)
    command: Command = await home.scheduler.poll(soon)
    assert isinstance(command, Terminate)
    await home.scheduler.update("bot", "session of bot", command.run_id, TaskUpdate(exit_code=0, duration_s=0.0))
    later = hello(state={"lease_expiration_ts": home.clock.now() + 500})
    assert isinstance(await home.scheduler.poll(later), Run)
