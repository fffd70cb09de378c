"""A server, bots and a bad network, all of which suffer, and what must be true of it in the end (guarantees 6 to 10).

`World.live(rounds)` does to them what a long life may bring: SIGKILL and SIGSTOP for bot, runner and task, a server
that is killed or drained, wall clocks that jump. `World.wrong()` says what should not be. Deterministic in what is
drawn from the seed, not in when it meets whom: a failure names the seed, which makes the same kind of trouble again.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests import raw_http
from tests.flow.bots import API, BotProcess
from tests.flow.jumping import set_clock
from tests.flow.relay import Relay
from tests.flow.servers import ServerProcess
from tests.history import FINAL, History, Run
from tests.processes import is_running

BOTS = 2
ROUND_S = (0.1, 0.7)  # between two blows
STOP_S = (0.1, 1.5)  # well below the silence after which a bot is dead
TOLERANCE_S = 30  # the least there is
JUMP_S = 3_000.0  # tasks may wait much longer
SETTLE_S = 180.0  # for all tasks to end once everything works again; most of it is for a loaded machine
WAITING = {str(count) for count in range(15)}  # tasks; a client that comes faster than two bots work would only pile up
MARK = "CHAOS_WORLD"
BOT_FILES = {"c", "config", "isolated_cache", "logs", "swarming.lck", "w"}
# Holds a lock while it or anything it started lives, so that two attempts at one time are seen by the kernel.
TASK = """
import fcntl, os, signal, sys, time
place, lines, pause, child = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
run = os.environ["SWARMING_TASK_ID"]
lock = os.open(f"{place}/{run[:-1]}.lock", os.O_RDWR | os.O_CREAT)
os.set_inheritable(lock, True)
def note(word):
    with open(f"{place}/journal", "ab", buffering=0) as journal:
        journal.write(f"{run} {word} {time.monotonic()}\\n".encode())
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    note("overlap")
note("start")
if child == "daemon" and os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1000)
for number in range(lines):
    print(f"{run} line {number}", flush=True)
    time.sleep(pause)
with open(sys.argv[5] + "/made", "w") as made:
    made.write(run)
note("end")
"""


class World:
    """Everything, in one directory."""

    def __init__(self, place: Path, seed: int, *, with_silence: bool = False) -> None:
        self.place, self.rng, self._with_silence = place, random.Random(seed), with_silence
        self.history = History()
        self.lines: dict[str, int] = {}  # what each task is to print
        self.blows: list[str] = []
        self.problems: list[str] = []
        self._runs: dict[str, Run] = {}
        self.journal = place / "journal"
        self.journal.mkdir()
        self._clocks = {name: place / f"clock-{name}" for name in ("server", *map(self._name, range(BOTS)))}
        for clock in self._clocks.values():
            set_clock(clock, 0)
        self.server = self._new_server(0)
        self.relay = Relay(lambda: self.server.port, self._note, random.Random(self.rng.random()))
        self.bots: dict[str, BotProcess] = {}

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Have everything run; nothing of it is left when the block ends."""
        try:
            async with self.relay.running():
                for number in range(BOTS):
                    self._start_bot(self._name(number))
                yield
        finally:
            for bot in self.bots.values():
                bot.end()
            self.server.kill()

    async def live(self, rounds: int) -> None:
        """Let clients work while blows fall."""
        async with asyncio.TaskGroup() as group:
            client = group.create_task(self._client())
            for _ in range(rounds):
                await asyncio.sleep(self.rng.uniform(*ROUND_S))  # when the next blow falls
                await self._blow()
            client.cancel()

    async def settle(self) -> None:
        """Let everything recover, all tasks end, and the bots leave as they are asked to."""
        self.relay.be_honest()
        self._results = await self._final_results()
        self._outputs = {
            task_id: (await self._call("GET", f"{API}/task/{task_id}/stdout"))[1].get("output", "")
            for task_id in self._results
        }
        for bot in self.bots.values():
            bot.signal(signal.SIGTERM)
        for name, bot in self.bots.items():
            status = await asyncio.to_thread(bot.wait)
            if status:
                self.problems.append(f"{name} ended with status {status}")
        self.server.stop()

    def wrong(self) -> Iterator[str]:
        """Yield what should not be."""
        yield from self.problems
        self._fill_history()
        yield from self.history.violations(self._results, self._outputs)
        yield from self._wrong_outputs()
        yield from (f"process {pid} is left: {words}" for pid, words in self._left())
        for name in self.bots:
            directory = self.place / name
            yield from (f"{entry} is left" for entry in (directory / "w").iterdir())
            yield from (f"{entry} is left" for entry in directory.iterdir() if entry.name not in BOT_FILES)
            yield from (f"{entry} is left" for entry in (self.place / f"{name}-tmp").iterdir())

    @staticmethod
    def _name(number: int) -> str:
        return f"bot-{number}"

    def _new_server(self, port: int) -> ServerProcess:
        data = self.place / "data"
        words = [str(self._clocks["server"]), "server", str(data), str(port)]
        return ServerProcess(data, port=port, command=[sys.executable, "-m", "tests.flow.jumping", *words])

    def _start_bot(self, name: str) -> None:
        url, directory = f"http://127.0.0.1:{self.relay.port}", self.place / name
        words = [str(self._clocks[name]), "bot", url, str(directory), name]
        command = [sys.executable, "-m", "tests.flow.jumping", *words]
        log = (self.place / f"{name}.log").open("ab")
        with log:
            self.bots[name] = BotProcess(
                url, directory, name, command=command, env={MARK: str(self.place)}, stderr=log.fileno()
            )

    async def _client(self) -> None:
        """Submit tasks all along, some of them equal, and withdraw some."""
        while True:
            while (await self._call("GET", f"{API}/tasks/count?start=0&state=PENDING"))[1]["count"] not in WAITING:
                await asyncio.sleep(0.2)  # the interval of a poll
            name = str(uuid.UUID(int=self.rng.getrandbits(128), version=4))
            idempotent = self.rng.random() < 0.5
            lines, pause_s = self.rng.randrange(6), self.rng.choice([0.0, 0.05, 0.15])
            child = self.rng.choice(["daemon", "none", "none"])
            shape = [str(lines), str(pause_s), child, "${ISOLATED_OUTDIR}"]
            properties = {
                "command": [sys.executable, "-c", TASK, str(self.journal), *shape],
                "dimensions": [{"key": "pool", "value": "default"}],
                "execution_timeout_secs": 60,
                "grace_period_secs": 30,
                "idempotent": idempotent,
            }
            part = {"expiration_secs": 86_400, "properties": properties, "wait_for_capacity": True}
            body = {"name": name, "priority": 100, "request_uuid": name, "task_slices": [part]}
            body["bot_ping_tolerance_secs"] = TOLERANCE_S
            status, reply = await self._call("POST", f"{API}/tasks/new", body)
            assert status == 200, reply
            task_id = reply["task_id"]
            self.history.tasks[name], self.lines[task_id] = task_id, lines
            if self.rng.random() < 0.15:
                await asyncio.sleep(self.rng.random())  # perhaps it runs by then
                await self._call("POST", f"{API}/task/{task_id}/cancel", {"kill_running": True})
            await asyncio.sleep(self.rng.uniform(0.0, 0.3))  # how often a client comes

    async def _blow(self) -> None:
        name = self._name(self.rng.randrange(BOTS))
        blows: list[Callable[[str], Any]] = [self._kill_bot, self._restart_server, self._jump, *3 * [self._hit]]
        if self._with_silence:
            blows.append(self._silence)
        await self.rng.choice(blows)(name)

    async def _kill_bot(self, name: str) -> None:
        self.blows.append(f"kill {name}")
        bot = self.bots[name]
        bot.signal(signal.SIGKILL)
        await asyncio.to_thread(bot.end)
        self._start_bot(name)

    async def _silence(self, name: str) -> None:
        """Stop a bot until it is given up; its task goes on, and what comes of it is refused."""
        self.blows.append(f"silence of {name}")
        self.bots[name].signal(signal.SIGSTOP)
        await asyncio.sleep(TOLERANCE_S + 5)  # how long it is silent
        self.bots[name].signal(signal.SIGCONT)

    async def _restart_server(self, _: str) -> None:
        sign = self.rng.choice([signal.SIGKILL, signal.SIGTERM])
        self.blows.append(f"{sign.name} server")
        port = self.server.port
        await asyncio.to_thread(self.server.kill if sign == signal.SIGKILL else self.server.stop)
        self.server = await asyncio.to_thread(self._new_server, port)

    async def _jump(self, name: str) -> None:
        whose, ahead_s = self.rng.choice([name, "server"]), self.rng.uniform(-JUMP_S, JUMP_S)
        self.blows.append(f"clock of {whose} to {ahead_s:.0f}")
        set_clock(self._clocks[whose], ahead_s)

    async def _hit(self, name: str) -> None:
        """Kill or stop one of the processes of a bot."""
        main = self.bots[name].pid
        victims = {"bot": [main], "runner": _runners(main), "task": _commands(main)}
        kind = self.rng.choice([kind for kind, pids in victims.items() if pids])
        pid, stop_s = self.rng.choice(victims[kind]), self.rng.uniform(*STOP_S)
        sign = signal.SIGSTOP if kind == "bot" else self.rng.choice([signal.SIGKILL, signal.SIGSTOP])
        self.blows.append(f"{sign.name} {kind} of {name}")
        with suppress(ProcessLookupError):
            os.kill(pid, sign)
            if sign == signal.SIGSTOP:
                await asyncio.sleep(stop_s)  # how long it hangs
                os.kill(pid, signal.SIGCONT)

    def _note(self, path: str, body: dict[str, Any], status: int) -> None:
        """Take down what the server confirmed to a bot."""
        if "/task_update/" not in path or status != 200:
            return
        run_id = body["task_id"]
        run = self._runs.get(run_id)
        if run is None:
            run = self._runs[run_id] = Run(run_id, body["id"], asyncio.get_running_loop().time())
            self.history.runs.append(run)
        elif run.bot != body["id"]:
            self.problems.append(f"{run_id} was confirmed to {run.bot} and to {body['id']}")
        if "output" in body:
            data, start = base64.b64decode(body["output"]), body["output_chunk_start"]
            if run.printed[start : start + len(data)] != data[: max(0, len(run.printed) - start)]:
                self.problems.append(f"{run_id} printed two different things")
            run.printed = run.printed[:start] + data if start + len(data) > len(run.printed) else run.printed
        if "duration" in body:
            if run.acknowledged and run.duration != body["duration"]:
                self.problems.append(f"{run_id} was ended twice, differently")
            run.duration, run.acknowledged = body["duration"], True

    def _fill_history(self) -> None:
        """Take the times of the runs from the journal that the tasks themselves wrote."""
        journal = self.journal / "journal"
        for line in journal.read_text().splitlines() if journal.exists() else ():
            run_id, word, time_s = line.split()
            if word == "overlap":
                self.problems.append(f"{run_id} ran beside another attempt")
            run = self._runs.get(run_id)
            if run is None:
                self.problems.append(f"{run_id} ran without a confirmed update")
            elif word == "start":
                # When it was killed is unknown; that it was dead before the next attempt, the lock says.
                run.started_s = run.stopped_s = float(time_s)
            elif word == "end":
                run.stopped_s = float(time_s)
        for run in self.history.runs:
            run.stopped_s = run.stopped_s or run.started_s

    def _wrong_outputs(self) -> Iterator[str]:
        for task_id, result in self._results.items():
            if result["state"] == "COMPLETED" and result["exit_code"] == "0":
                run_id = result.get("deduped_from") or result["run_id"]
                expected = "".join(f"{run_id} line {number}\n" for number in range(self.lines[task_id]))
                if self._outputs[task_id] != expected:
                    yield f"{task_id} printed {self._outputs[task_id]!r} instead of {expected!r}"
                if not result.get("outputs_ref"):
                    yield f"{task_id} lost the file it made"

    def _left(self) -> Iterator[tuple[int, str]]:
        mark = f"{MARK}={self.place}".encode()
        for entry in os.listdir("/proc"):
            with suppress(OSError, ValueError):
                pid = int(entry)
                if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") and is_running(pid):
                    yield pid, Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")[:200].decode()

    async def _final_results(self) -> dict[str, Any]:
        end_s = asyncio.get_running_loop().time() + SETTLE_S
        while True:
            found: dict[str, Any] = {}
            cursor: str | None = ""
            while cursor is not None:
                _, page = await self._call("GET", f"{API}/tasks/list?limit=1000&cursor={cursor}")
                found |= {item["task_id"]: item for item in page.get("items", ())}
                cursor = page.get("cursor")
            if all(item["state"] in FINAL for item in found.values()) or asyncio.get_running_loop().time() > end_s:
                return found  # what is not final is named as lost
            await asyncio.sleep(0.2)  # the interval of a poll

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        """Make a call until it is answered; returns (status, body)."""
        while True:
            try:
                async with asyncio.timeout(20):
                    status, reply = await raw_http.call(self.server.port, method, path, body)
            except (OSError, TimeoutError):
                status, reply = 0, None
            if status not in {0, 503}:
                return status, reply
            await asyncio.sleep(0.05)  # the pause of a retry


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _runners(main: int) -> list[int]:
    return [pid for pid in _children(main) if b"swarming.bot.runner" in _words(pid)]


def _commands(main: int) -> list[int]:
    """Return the tasks' own processes: below a runner and its launcher."""
    launchers = [pid for runner in _runners(main) for pid in _children(runner)]
    return [pid for launcher in launchers for pid in _children(launcher)]


def _words(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


async def run(place: Path, seed: int, rounds: int, *, with_silence: bool = False) -> tuple[World, list[str]]:
    """Let a world live and return it, with what was wrong."""
    world = World(place, seed, with_silence=with_silence)
    async with world.alive():
        await world.live(rounds)
        await world.settle()
    return world, list(world.wrong())


def summary(world: World) -> str:
    """Return in a line what happened."""
    states: dict[str, int] = {}
    for result in world._results.values():
        states[result["state"]] = states.get(result["state"], 0) + 1
    faults = sum(world.relay.faults.values())
    return json.dumps(
        {"tasks": len(world.history.tasks), "states": states, "blows": len(world.blows), "faults": faults}
    )
