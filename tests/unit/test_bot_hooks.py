"""Hooks in a process of their own: a real one, with a clock that moves by hand."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from swarming.bot.hooks import PAUSES_S, HookPeer, HookProcess, Hooks
from tests.clock import ManualClock
from tests.unit.bot_doubles import until

FACTS: dict[str, object] = {
    "id": "bot-1",
    "base_dir": "/b",
    "config_dir": "/b/config",
    "server": "http://localhost",
    "server_version": "v1",
    "dimensions": {"os": ["Linux"]},
    "state": {"running_time": 1},
    "swarming_bot_zip": "",
}
FILE = "bot_config.py"


class Scene:
    """Hooks under test, and the processes that were started for them."""

    def __init__(self, tmp_path: Path) -> None:
        self.clock, self.starts, self._tmp_path = ManualClock(), 0, tmp_path
        self.hooks = Hooks(self._start, self.clock, limit_s=5)

    async def _start(self) -> HookPeer:
        self.starts += 1
        return await HookProcess.start(self._tmp_path, dict(os.environ), self._tmp_path / "log")

    async def load(self, source: str, *for_group: str) -> None:
        await self.hooks.load(*((text, FILE) for text in (source, *for_group)))

    async def call(self, name: str, *arguments: Any) -> Any:
        answer = await self.hooks.call(name, FACTS, *arguments)
        return None if answer is None else answer.value

    @property
    def log(self) -> str:
        return (self._tmp_path / "log").read_text()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    made = Scene(tmp_path)
    async with asyncio.timeout(60):
        yield made
        await made.hooks.close()


async def test_globals_of_the_module_survive(scene: Scene) -> None:
    await scene.load("n = 0\ndef get_state(bot):\n    global n\n    n += 1\n    return {'n': n, 'id': bot.id}")
    assert await scene.call("get_state") == {"n": 1, "id": "bot-1"}
    assert await scene.call("get_state") == {"n": 2, "id": "bot-1"}
    assert (scene.starts, scene.hooks.problem) == (1, "")


async def test_hooks_that_are_not_there_do_nothing(scene: Scene) -> None:
    assert await scene.call("on_bot_idle", 3) is None
    assert scene.starts == 0
    await scene.load("def get_state(bot): return {}")
    assert await scene.call("on_bot_idle", 3) is None
    assert (scene.hooks.defines("get_state"), scene.hooks.defines("on_bot_idle")) == (True, False)


async def test_older_hooks_take_fewer_arguments(scene: Scene) -> None:
    await scene.load("def on_before_task(bot): return 1\ndef on_after_task(bot, *rest): return rest")
    assert await scene.call("on_before_task", "file", [], {}) == 1
    assert await scene.call("on_after_task", True, False) == [True, False]


async def test_arguments_come_back_as_the_hook_left_them(scene: Scene) -> None:
    await scene.load("def on_before_task(bot, f, cmd, env):\n    cmd.insert(0, 'nice')\n    env['A'] = 'b'")
    answer = await scene.hooks.call("on_before_task", FACTS, "f", ["run"], {"X": "\udcff"})
    assert answer is not None
    assert answer.arguments == ["f", ["nice", "run"], {"X": "\udcff", "A": "b"}]


async def test_wishes_of_a_hook_are_kept(scene: Scene) -> None:
    source = "def on_bot_idle(bot, s):\n    bot.post_event('bot_log', 'hi')\n    bot.post_error('oh')\n"
    await scene.load(source + "    bot.bot_restart('again')\n    bot.host_reboot('deeply')\n    print('printed')")
    await scene.call("on_bot_idle", 1.5)
    wishes = scene.hooks.wishes.take()
    assert wishes.events == [("bot_log", "hi"), ("bot_error", "oh")]
    assert (wishes.restart, wishes.reboot) == ("again", "deeply")
    assert scene.hooks.wishes.restart is None
    assert scene.log == "printed\n"


async def test_scripts_of_2020_find_their_library(scene: Scene) -> None:
    source = "from api import os_utilities\ndef get_dimensions(bot):\n    found = os_utilities.get_dimensions()\n"
    await scene.load(source + "    found['more'] = ['x']\n    return found")
    assert await scene.call("get_dimensions") == {"os": ["Linux"], "more": ["x"]}


async def test_a_random_number_of_a_bot_is_always_the_same(scene: Scene) -> None:
    await scene.load("def get_state(bot): return {'n': bot.get_pseudo_rand(10.0)}")
    first = await scene.call("get_state")
    assert first == await scene.call("get_state")
    assert -10 <= first["n"] <= 10


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("raise ValueError('no  device')", "Hook get_state() failed: ValueError: no device"),
        ("import sys; sys.exit(3)", "Hook get_state() failed: SystemExit: 3"),
        ("return object()", "Hook get_state() failed: TypeError: Object of type object is not JSON serializable"),
        (
            "return {'n': float('nan')}",
            "Hook get_state() failed: ValueError: Out of range float values are not JSON compliant",
        ),
        ("return 'x' * (17 << 20)", "Hook get_state() answered too much, or disturbed the channel to the bot"),
        ("import os; os._exit(7)", "Hook get_state() ended the process it ran in, with status 7"),
        ("import os; os.kill(os.getpid(), 9)", "Hook get_state() ended the process it ran in, with signal 9"),
    ],
)
async def test_a_hook_that_fails_is_a_problem_and_an_event(scene: Scene, body: str, problem: str) -> None:
    await scene.load(f"def get_state(bot):\n    {body}")
    for _ in range(2):
        assert await scene.call("get_state") is None
        assert scene.hooks.problem.startswith(problem)
    assert scene.hooks.wishes.take().events == [("bot_error", scene.hooks.problem)]


async def test_a_hook_that_works_again_is_no_problem_any_more(scene: Scene, tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    flag.touch()
    await scene.load(f"import os\ndef get_state(bot):\n    assert not os.path.exists({str(flag)!r})\n    return {{}}")
    await scene.call("get_state")
    assert scene.hooks.problem
    flag.unlink()
    assert await scene.call("get_state") == {}
    assert scene.hooks.problem == ""


async def test_a_hook_that_hangs_is_ended_with_all_it_started(scene: Scene, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    await scene.load(
        "import subprocess, time\ndef on_bot_idle(bot, s): return 1\ndef get_state(bot):\n"
        f"    subprocess.Popen(['sh', '-c', 'exec 3>{fifo}; echo x >&3; exec sleep 999'])\n"
        f"    f = open({str(fifo)!r}, 'w')\n    time.sleep(999)"
    )
    calling = asyncio.create_task(scene.call("get_state"))
    reader = await asyncio.to_thread(fifo.open, "rb")
    assert await asyncio.to_thread(reader.readline) == b"x\n"
    await until(lambda: bool(scene.clock._sleepers))
    scene.clock.advance(5)
    assert await calling is None
    with reader:
        assert await asyncio.to_thread(reader.read) == b""  # nobody is left who could write
    assert scene.hooks.problem == "Hook get_state() hung: it did not return within 5 s"
    assert await scene.call("on_bot_idle", 1) is None  # not so soon
    scene.clock.advance(PAUSES_S[0])
    assert await scene.call("on_bot_idle", 1) == 1
    assert scene.starts == 2


async def test_code_that_cannot_be_loaded_is_one_problem(scene: Scene) -> None:
    await scene.load("import no_such_module")
    problem = "bot_config.py failed: ModuleNotFoundError: No module named 'no_such_module'"
    assert scene.hooks.problem == problem
    scene.clock.advance(PAUSES_S[0])
    assert await scene.call("get_state") is None
    assert scene.hooks.problem == problem
    await scene.load("def get_state(bot): return {}")
    assert scene.hooks.problem == ""
    assert await scene.call("get_state") == {}


async def test_a_process_that_cannot_be_started_is_a_problem(tmp_path: Path) -> None:
    async def start() -> HookPeer:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    hooks = Hooks(start, ManualClock())
    await hooks.load(("def get_state(bot): return {}", FILE))
    assert hooks.problem == "bot_config.py cannot be called: Resource temporarily unavailable"


async def test_a_cancelled_call_leaves_no_process(scene: Scene, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    await scene.load(f"import time\ndef get_state(bot):\n    f = open({str(fifo)!r}, 'w')\n    time.sleep(999)")
    calling = asyncio.create_task(scene.call("get_state"))
    reader = await asyncio.to_thread(fifo.open, "rb")
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    with reader:
        assert await asyncio.to_thread(reader.read) == b""


async def test_a_call_that_is_cancelled_before_the_process_has_heard_of_it_costs_no_process(scene: Scene) -> None:
    """A bot that is told to end while it asks for a hook that is not there: its others go on in the same process."""
    await scene.load("n = 0\ndef on_bot_shutdown(bot):\n    global n\n    n += 1\n    return n")
    assert await scene.call("on_bot_shutdown") == 1
    for turns in range(4):  # of the loop, until it is cancelled
        calling = asyncio.create_task(scene.call("on_after_poll"))
        for _ in range(turns):
            await asyncio.sleep(0)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
    assert (await scene.call("on_bot_shutdown"), scene.starts) == (2, 1)


async def test_the_hooks_of_a_group_come_on_top(scene: Scene) -> None:
    """As the injected script of 2020: what is asked for is answered by it alone, what happens is told to both."""
    calls = "called = []\ndef on_bot_idle(bot, s): called.append('all'); return called\ndef setup_bot(bot): return 1\n"
    calls += "def get_state(bot): return {'who': 'all'}\ndef get_settings(bot): return {'who': 'all'}\n"
    calls += "def on_before_poll(bot): return 'all'\ndef on_after_poll(bot, cmd): return 'all'"
    group = "import bot_config\ndef on_bot_idle(bot, s): bot_config.called.append('group'); return bot_config.called\n"
    group += "def get_state(bot): return {'who': 'group'}\ndef on_before_poll(bot): return 'group'\n"
    group += "def setup_bot(bot): return 2\ndef on_handshake(bot): return 'group'"
    await scene.load(calls, group)
    assert await scene.call("on_bot_idle", 1.0) == ["all", "group"]
    assert await scene.call("get_state") == {"who": "group"}
    assert await scene.call("get_settings") == {"who": "all"}
    assert await scene.call("on_before_poll") == "group"
    assert await scene.call("on_after_poll", "sleep") == "all"
    assert await scene.call("setup_bot") == 1
    assert await scene.call("on_handshake") == "group"
