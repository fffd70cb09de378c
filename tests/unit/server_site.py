"""The REST API, the bot API and the pages on a real socket, over a scheduler in memory with a manual clock."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aiohttp import ClientSession, web
from aiohttp.test_utils import unused_port

from isolate.errors import OutputLost
from server.api_routes import SWARMING, documentation_routes
from server.auth import LoopbackGuard
from server.bootstrap_v1 import BootstrapApi
from server.bot_api import BotApi, WaitingPolls
from server.bot_code import bootstrap_script
from server.bot_config import BotScripts
from server.bot_config_v1 import BotConfigApi
from server.discovery import discovery_routes
from server.middleware import OWN_SERVERS, Gate
from server.pages.views import Pages
from server.settings import Settings
from server.swarming_v1 import ClientApi
from swarming import ids
from swarming.doorbell import LocalDoorbell
from swarming.memory import MemoryTaskStore
from swarming.model import FilesRef
from swarming.scheduler import Scheduler
from tests.clock import ManualClock

API = "/_ah/api/swarming/v1/"
BOT = "/swarming/api/v1/bot/"


class MemoryOutputs:
    """What attempts print, in memory."""

    def __init__(self) -> None:
        self.printed: dict[str, bytearray] = {}
        self.is_damaged = False

    async def append(self, run_id: str, start: int, data: bytes) -> None:
        content = self.printed.setdefault(run_id, bytearray())
        content.extend(bytes(max(0, start - len(content))))
        content[start : start + len(data)] = data

    async def read(self, run_id: str, start: int, length: int) -> bytes:
        if self.is_damaged:
            raise OutputLost("What it printed was damaged")
        return bytes(self.printed.get(run_id, b"")[start : start + length])

    async def size(self, run_id: str) -> int:
        return len(self.printed.get(run_id, b""))

    async def forget(self, before: float) -> int:
        old = [run_id for run_id in self.printed if ids.EPOCH_S + (ids.unpack(run_id)[0] >> 20) / 1000 < before]
        for run_id in old:
            del self.printed[run_id]
        return len(old)


class Trees:
    """Every tree is whole but those named here."""

    def __init__(self) -> None:
        self.missing: dict[str, str] = {}

    async def check(self, files: FilesRef) -> str | None:
        return self.missing.get(files.isolated or "")


class Site:
    """The server as its callers see it."""

    def __init__(self, url: str, session: ClientSession, clock: ManualClock, scheduler: Scheduler) -> None:
        self.url, self.session, self.clock, self.scheduler = url, session, clock, scheduler
        self.trees = Trees()
        self.outputs = MemoryOutputs()
        self.polls = WaitingPolls()
        self.settings = Settings()
        self.bot_version: str | None = None  # that bots of an archive are to become

    async def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Make a request; returns status and parsed JSON."""
        data = None if body is None else json.dumps(body).encode()
        content = {"Content-Type": "application/json"} if data is not None else {}
        named = {**content, **(headers or {})}
        async with self.session.request(method, self.url + path, data=data, headers=named) as response:
            assert response.content_type == "application/json", await response.text()
            return response.status, await response.json()

    async def get(self, path: str) -> Any:
        """Return the reply to a call of the client API that succeeds."""
        status, body = await self.call("GET", API + path)
        assert status == 200, body
        return body

    async def post(self, path: str, body: Any = None) -> Any:
        """Return the reply to a POST of the client API that succeeds."""
        status, reply = await self.call("POST", API + path, {} if body is None else body)
        assert status == 200, reply
        return reply

    async def refused(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Return status and message of a call of the client API that fails."""
        status, reply = await self.call(method, API + path, body)
        return status, reply["error"]["message"]

    async def bot(self, call: str, body: Any, session: str = "", wait_s: float = 0) -> tuple[int, Any]:
        """Make a call of the bot API."""
        headers = {"X-Isolate-Session": session} if session else {}
        if wait_s:
            headers["X-Isolate-Wait"] = str(wait_s)
        return await self.call("POST", BOT + call, body, headers)

    async def page(self, path: str) -> tuple[int, str, Mapping[str, str]]:
        """Return status, text and headers of a page."""
        async with self.session.get(self.url + path, allow_redirects=False) as response:
            return response.status, await response.text(), response.headers


def new_task(**changes: Any) -> dict[str, Any]:
    """Return a body of `tasks/new`."""
    properties: dict[str, Any] = {
        "command": ["echo", "hi"],
        "dimensions": [{"key": "pool", "value": "default"}],
        "execution_timeout_secs": 60,
    } | changes.pop("properties", {})
    part = {"expiration_secs": 60, "properties": properties, "wait_for_capacity": True}
    return {"name": "n", "priority": 100, "task_slices": [part]} | changes


def hello(bot_id: str = "bot1", **dimensions: list[str]) -> dict[str, Any]:
    """Return what a bot says of itself."""
    state = {"running_time": 1.0, "sleep_streak": 0}
    return {"dimensions": {"id": [bot_id]} | dimensions, "state": state, "version": "v1"}


@asynccontextmanager
async def running_site() -> AsyncIterator[Site]:
    """Start a server in this process."""
    port, clock = unused_port(), ManualClock()
    gate = Gate(LoopbackGuard("127.0.0.1", {port}), clock, "test", (BOT, "/bot_code"))
    async with ClientSession() as session, AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="site-"))
        trees, outputs = Trees(), MemoryOutputs()
        scheduler = Scheduler(MemoryTaskStore(), outputs, LocalDoorbell(), clock, inputs=trees, rng=random.Random(1))
        await scheduler.start()
        site = Site(f"http://127.0.0.1:{port}", session, clock, scheduler)
        site.trees, site.outputs = trees, outputs
        app = web.Application(middlewares=[gate.middleware()], client_max_size=16 << 20)
        app[OWN_SERVERS] = gate.own_servers
        app.on_response_prepare.append(gate.add_headers)
        app.add_routes(ClientApi(scheduler, clock, "0.1.0", lambda: site.settings, lambda: "v1").routes())
        app.add_routes(BootstrapApi(bootstrap_script).routes())
        app.add_routes(BotConfigApi(BotScripts(Path(folder), Path(folder)), site.polls.renew).routes())
        app.add_routes(documentation_routes("0.1.0"))
        app.add_routes(discovery_routes([SWARMING]))
        bots = BotApi(
            scheduler, clock, "0.1.0", site.polls, settings=lambda: site.settings, update=lambda *_: site.bot_version
        )
        app.add_routes(bots.routes())
        app.add_routes(Pages(scheduler, clock, "0.1.0").routes())
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield site
        finally:
            site.polls.release()
            await runner.cleanup()
            await scheduler.close()
