"""The life of a bot, with a scripted server, no processes, and a clock that moves by hand."""

from __future__ import annotations

import asyncio

import pytest

from isolate.errors import InternalFailure, LeaseLost, Refused, Unavailable
from swarming.bot import protocol
from swarming.bot.main import LAPSE_S, Bot, Ending
from swarming.bot.protocol import Greeting, Hello, Manifest
from swarming.bot.verdict import Why
from tests.clock import ManualClock
from tests.unit.bot_doubles import ScriptedApi, ScriptedScript, manifest, until

AWAY = Unavailable("Cannot reach the server")
RUN = protocol.Run(manifest())


class Me:
    """A portrait of no machine."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.illness = ""

    async def unfit(self) -> str:
        return self.illness

    async def hello(self, greeting: Greeting | None, sleep_streak: int) -> Hello:
        known = greeting or Greeting("", {}, None)
        state = {"sleep_streak": sleep_streak, "bot_group_cfg_version": known.group_version}
        return Hello({"id": ["bot-1"], "server_version": [known.server_version], **known.dimensions}, state, "v")

    async def last(self, greeting: Greeting | None) -> Hello:
        return await self.hello(greeting, 0)

    def quarantine(self, reason: str) -> None:
        self.faults.append(reason)


class ScriptedWork:
    """A task that ends when a test says so, or when it is stopped."""

    def __init__(self) -> None:
        self.begun, self.over = asyncio.Event(), asyncio.Event()
        self.stopped: list[Why] = []

    async def run(self) -> str:
        self.begun.set()
        await self.over.wait()
        return "done"

    def stop(self, why: Why) -> None:
        self.stopped.append(why)
        self.over.set()


class ScriptedHands:
    """Keeps what it is asked to do."""

    def __init__(self) -> None:
        self.prepared = 0
        self.reboots = 0
        self.may_reboot = False
        self.updates: list[str] = []
        self.update_error: Exception | None = None
        self.works: list[Manifest] = []
        self.next_work = ScriptedWork()
        self.next_work.over.set()

    async def prepare(self) -> None:
        self.prepared += 1

    def work(self, manifest: Manifest) -> ScriptedWork:
        self.works.append(manifest)
        return self.next_work

    async def update(self, version: str) -> None:
        self.updates.append(version)
        if self.update_error is not None:
            raise self.update_error

    async def reboot(self) -> bool:
        self.reboots += 1
        return self.may_reboot


class WaitingApi(ScriptedApi):
    """A server that has nothing to do for a bot and holds its poll."""

    def __init__(self) -> None:
        super().__init__()
        self.polling = asyncio.Event()

    async def poll(self, hello: protocol.Hello) -> protocol.Command:
        self.polling.set()
        await asyncio.Event().wait()
        return await super().poll(hello)


class Scene:
    """A bot under test and all it talks to."""

    def __init__(self, *commands: protocol.Command | BaseException) -> None:
        self.api, self.hands, self.clock = ScriptedApi(*commands), ScriptedHands(), ManualClock()
        self.me, self.script = Me(), ScriptedScript()
        self.bot = Bot(self.api, self.me, self.hands, self.script, self.clock)
        self.api.on_empty = self.bot.interrupt  # a script that is over ends the bot

    async def live(self, advance_s: float = 1.0) -> Ending:
        """Let the bot live to its end, time passing whenever it waits."""
        running = asyncio.create_task(self.bot.run())
        async with asyncio.timeout(20):
            while not running.done():
                await asyncio.sleep(0)
                self.clock.advance(advance_s)
        return await running


async def test_a_bot_introduces_itself_polls_and_says_good_bye() -> None:
    scene = Scene()
    scene.api.greetings = [Greeting("v7", {"pool": ["imposed"]}, "g7")]
    assert await scene.live() is Ending.STOPPED
    assert scene.api.handshakes == 1
    first, poll, *_ = scene.api.hellos
    assert first.dimensions == {"id": ["bot-1"], "server_version": [""]}
    assert poll.dimensions == {"id": ["bot-1"], "server_version": ["v7"], "pool": ["imposed"]}
    assert poll.state["bot_group_cfg_version"] == "g7"
    assert scene.api.events == [("bot_shutdown", "Signal was received")]
    assert scene.hands.prepared >= 2


async def test_a_server_that_is_away_is_asked_until_it_is_back() -> None:
    scene = Scene()
    scene.api.greetings = [AWAY] * 500
    assert await scene.live(advance_s=30) is Ending.STOPPED
    assert scene.api.handshakes == 501
    assert scene.clock.monotonic() > 3600


async def test_a_server_that_comes_back_is_greeted_again() -> None:
    scene = Scene(protocol.Sleep(0, quarantined=False), AWAY)
    await scene.live()
    assert scene.api.handshakes == 2


async def test_a_refused_poll_is_tried_again_without_a_new_greeting() -> None:
    scene = Scene(Refused("no"), Refused("no"))
    assert await scene.live() is Ending.STOPPED
    assert scene.api.handshakes == 1


async def test_the_bot_sleeps_as_long_as_it_is_told_and_counts_it() -> None:
    scene = Scene(protocol.Sleep(7, quarantined=False), protocol.Sleep(5, quarantined=True))
    await scene.live()
    assert scene.clock.monotonic() >= 12
    assert [hello.state["sleep_streak"] for hello in scene.api.hellos[1:4]] == [0, 1, 2]


async def test_a_task_is_run_and_ends_the_streak() -> None:
    scene = Scene(protocol.Sleep(1, quarantined=False), RUN)
    await scene.live()
    assert scene.hands.works == [RUN.manifest]
    assert [hello.state["sleep_streak"] for hello in scene.api.hellos[1:4]] == [0, 1, 0]


async def test_a_machine_that_fell_ill_since_the_poll_leaves_the_offer_to_others() -> None:
    scene = Scene(RUN)
    scene.me.illness = "Not enough free disk space"
    assert await scene.live() is Ending.STOPPED
    assert (scene.hands.works, scene.api.updates) == ([], [])
    assert scene.api.events[0] == ("bot_error", "Task 5cee488008811 is left to another bot: Not enough free disk space")
    assert scene.clock.monotonic() >= LAPSE_S


async def test_a_signal_lets_the_task_finish_and_then_ends_the_bot() -> None:
    scene = Scene(RUN)
    work = scene.hands.next_work = ScriptedWork()
    running = asyncio.create_task(scene.bot.run())
    await work.begun.wait()
    scene.bot.interrupt()
    await asyncio.sleep(0)
    assert work.stopped == []
    work.over.set()
    assert await running is Ending.STOPPED
    assert scene.api.events == [("bot_shutdown", "Signal was received")]


async def test_a_second_signal_ends_the_task() -> None:
    scene = Scene(RUN)
    work = scene.hands.next_work = ScriptedWork()
    running = asyncio.create_task(scene.bot.run())
    await work.begun.wait()
    scene.bot.interrupt()
    scene.bot.interrupt()
    assert await running is Ending.STOPPED
    assert work.stopped == [Why.SHUTDOWN]


async def test_a_signal_ends_a_sleeping_bot_at_once() -> None:
    scene = Scene(protocol.Sleep(1e6, quarantined=False))
    running = asyncio.create_task(scene.bot.run())
    await until(lambda: not scene.api.commands)
    scene.bot.interrupt()
    assert await running is Ending.STOPPED
    assert scene.clock.monotonic() == 0


async def test_a_signal_ends_a_waiting_poll_at_once() -> None:
    api = WaitingApi()
    bot = Bot(api, Me(), ScriptedHands(), ScriptedScript(), ManualClock())
    running = asyncio.create_task(bot.run())
    await api.polling.wait()
    bot.interrupt()
    assert await running is Ending.STOPPED


async def test_a_terminated_bot_acknowledges() -> None:
    scene = Scene(protocol.Terminate("t1"))
    assert await scene.live() is Ending.TERMINATED
    assert scene.api.updates == [{"task_id": "t1", "duration": 0, "exit_code": 0}]
    assert scene.api.events == [("bot_shutdown", "Terminated by request")]


async def test_a_bot_that_was_replaced_ends_without_a_word() -> None:
    scene = Scene(LeaseLost("started again elsewhere"))
    assert await scene.live() is Ending.REPLACED
    assert scene.api.events == []


async def test_a_restart_is_left_to_the_caller() -> None:
    scene = Scene(protocol.Restart("new configuration"))
    assert await scene.live() is Ending.RESTART
    assert scene.api.events == [("bot_shutdown", "About to restart")]


@pytest.mark.parametrize(("may", "kinds"), [(False, ["bot_rebooting", "bot_error"]), (True, ["bot_rebooting"])])
async def test_a_machine_is_rebooted_only_where_that_is_allowed(may: bool, kinds: list[str]) -> None:
    scene = Scene(protocol.Reboot("running too long"))
    scene.hands.may_reboot = may
    assert await scene.live() is Ending.STOPPED
    assert scene.hands.reboots == 1
    assert [kind for kind, _ in scene.api.events][:-1] == kinds
    assert bool(scene.me.faults) is not may


async def test_a_task_that_cannot_run_here_is_failed_with_the_reason() -> None:
    scene = Scene(protocol.Unfit("x1", "This bot has no support for named caches"))
    await scene.live()
    assert scene.api.updates == [{"task_id": "x1", "cost_usd": 0.0}]
    assert scene.api.failures == ["x1: This bot has no support for named caches"]
    assert scene.hands.works == []


async def test_an_unexpected_error_is_reported_and_survived() -> None:
    scene = Scene(KeyError("surprise"), RUN)
    assert await scene.live() is Ending.STOPPED
    assert scene.api.events[0] == ("bot_error", "Unexpected error: KeyError: 'surprise'")
    assert scene.hands.works == [RUN.manifest]


async def test_an_offer_that_lapsed_meanwhile_does_not_end_the_bot() -> None:
    scene = Scene(protocol.Unfit("x1", "why"), RUN)
    scene.api.update_answers = [LeaseLost("offer lapsed")]
    assert await scene.live() is Ending.STOPPED
    assert scene.hands.works == [RUN.manifest]


async def test_hooks_are_called_around_polls_and_at_both_ends() -> None:
    scene = Scene(protocol.Sleep(0.0, quarantined=False))
    scene.api.greetings = [Greeting("v7", {}, "g7", "def on_handshake(bot): pass", "a = 1")]
    assert await scene.live() is Ending.STOPPED
    names = [call[0] for call in scene.script.calls]
    assert names[:4] == ["greeted", "before_poll", "after_poll", "idle"]
    assert names[-1] == "shut_down"
    assert scene.script.calls[0] == ("greeted", "def on_handshake(bot): pass", "a = 1", "v7")
    assert ("after_poll", "sleep") in scene.script.calls


async def test_what_hooks_ask_for_is_done_once_they_have_returned(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(protocol.Sleep(0.0, quarantined=False))

    def wish(name: str) -> None:
        if name == "before_poll":
            scene.script.wishes.events.append(("bot_log", "hello"))
            scene.script.wishes.reboot, scene.script.wishes.restart = "deeply", "again"

    scene.script.on_call = wish
    assert await scene.live() is Ending.RESTART
    assert scene.hands.reboots == 1
    assert scene.api.events[:2] == [("bot_log", "hello"), ("bot_rebooting", "deeply")]
    assert "A hook asks for a reboot of this machine: deeply" in caplog.text


async def test_an_update_is_a_restart() -> None:
    scene = Scene(protocol.Update("abc"))
    assert await scene.live() is Ending.RESTART
    assert scene.hands.updates == ["abc"]
    assert scene.api.events[0] == ("bot_log", "About to restart: Updating to abc")


async def test_an_update_that_does_not_work_is_reported_and_work_goes_on() -> None:
    scene = Scene(protocol.Update("abc"), RUN)
    scene.hands.update_error = InternalFailure("Version abc does not work here")
    assert await scene.live() is Ending.STOPPED
    assert scene.api.events[0] == ("bot_error", "Version abc does not work here")
    assert scene.hands.works == [RUN.manifest]
