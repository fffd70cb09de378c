"""The composition root: a configuration becomes stores, a scheduler, routes and a listening socket.

The only module that knows all the others. The order is what matters here: what may fail cheaply comes first (the port,
the lock), a request is accepted only when everything works, and at the end the doors close before the stores do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from isolate import __version__
from isolate.clock import Clock, SystemClock
from isolate.cycles import collect_seldom
from isolate.monitor import TallyMonitor
from server.api_routes import SWARMING, documentation_routes
from server.auth import LoopbackGuard, url_host
from server.auth_v1 import auth_routes
from server.bootstrap_v1 import BootstrapApi
from server.bot_api import BASE as BOT_API
from server.bot_api import BotApi, WaitingPolls
from server.bot_code import BotArchives, BotCodeApi, bootstrap_script
from server.bot_config import SCRIPTS, BotScripts
from server.bot_config_v1 import BotConfigApi
from server.cas_api import cas_routes
from server.config import ServerConfig
from server.discovery import discovery_routes
from server.inputs import TreeChecker
from server.isolate_admin_v1 import IsolateAdmin
from server.isolate_table import ISOLATE
from server.isolate_v1 import IsolateApi
from server.jobs import Job, run_jobs
from server.listener import bind, listen
from server.live_settings import RELOAD_S, LiveSettings
from server.middleware import OWN_SERVERS, Gate, reply
from server.pages.browse import BrowsePages
from server.pages.views import Pages
from server.protocol import JsonRunner
from server.retention import Sweeper
from server.runtime import loop_factory, raise_file_limit
from server.settings import SETTINGS_DIR, Settings
from server.spare_memory import LOOK_S, SpareMemory, own_bytes, trim
from server.stores.datadir import DataDirectory
from server.stores.janitor import Janitor
from server.stores.limits import BlobLimits
from server.stores.open import open_blob_stores
from server.stores.outputs import FileOutputs
from server.stores.reserve import Reserve
from server.stores.settled_outputs import SettledOutputs
from server.stores.shared import SharedBlobStores
from server.stores.sqlite_tasks import SqliteTaskStore
from server.swarming_v1 import ClientApi
from server.tickets import TicketOffice
from server.traffic import Traffic
from swarming.doorbell import LocalDoorbell
from swarming.scheduler import Scheduler

MAX_BODY_BYTES = 16 << 20  # of JSON; streams of blobs have their own limits
KEEP_ALIVE_S = 75.0  # longer than the longest pause of a bot between two calls
SETTLE_S = 15.0  # between rounds of making blobs of what runs printed that are over
SWEEP_S = 60.0  # between rounds of retention
SAVE_TRAFFIC_S = 60.0  # what a crash loses of the statistics
RELEASE_S = 0.05  # between looks at which long polls end: a look costs microseconds, and each lets few of them go
TIDY_S = 60.0  # between rounds of eviction; an upload that finds no space does not wait for it
CUT_S = 2.0  # for sending the last replies
MAX_LINE_BYTES = 32 << 10  # of the head of a request: `get_states` may name 1000 tasks

log = logging.getLogger("server")


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes stand on."""

    blobs: SharedBlobStores
    tickets: TicketOffice
    traffic: Traffic
    scheduler: Scheduler
    sweeper: Sweeper
    outputs: SettledOutputs
    settings: LiveSettings
    bot_config: BotScripts
    archives: BotArchives
    clock: Clock
    janitor: Janitor


class LogMonitor(TallyMonitor):
    """Counts, and puts what was survived in the log."""

    def problem(self, message: object) -> None:
        log.warning("%s", message)
        self.count("survived_problems")


def run(config: ServerConfig, announce: Callable[[str], object], *, verbose: bool) -> int:
    """Serve until a signal; returns the exit status."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for noisy in ("asyncio", "aiohttp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    raise_file_limit()
    collect_seldom()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(config, announce, SystemClock()))
    return 0


async def serve(config: ServerConfig, announce: Callable[[str], object], clock: Clock) -> None:
    """Serve until SIGTERM or SIGINT, then drain; `announce` gets the one line that says where."""
    stop = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        listener = bind(config.address, config.port)
        stack.callback(listener.close)
        port = listener.getsockname()[1]
        data = DataDirectory.open(config.data_dir)
        stack.callback(data.close)
        services = await open_services(data, config.limits, clock, stack)
        gate = Gate(LoopbackGuard(config.address, {port}), clock, secrets.token_hex(4), (f"{BOT_API}/", "/bot_code"))
        polls = WaitingPolls()
        runner = JsonRunner(
            application(services, gate, polls),
            access_log=None,
            keepalive_timeout=KEEP_ALIVE_S,
            shutdown_timeout=CUT_S,
            max_line_size=MAX_LINE_BYTES,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await listen(runner, listener, config.address, config.port)
        announce(f"Serving http://{url_host(config.address)}:{port}/ from {config.data_dir}")
        async with asyncio.TaskGroup() as group:
            working = group.create_task(run_jobs(jobs_of(services, data, polls), clock), name="jobs")
            await stop.wait()
            await drain(runner, gate, polls, config.drain_s)
            working.cancel()


def jobs_of(services: Services, data: DataDirectory, polls: WaitingPolls) -> list[Job]:
    """Return what goes on for as long as the server lives."""

    async def tidy() -> None:
        await services.janitor.run()
        data.settled = services.janitor.is_calm

    async def settle_outputs() -> None:
        while await services.outputs.settle(services.scheduler.holds):
            pass  # there may be more

    async def renew_for_code() -> None:
        if await asyncio.to_thread(services.archives.has_changed):
            polls.renew()

    memory = SpareMemory(services.blobs.moved_bytes, own_bytes, trim())
    return [
        Job("tick", 1.0, services.scheduler.tick),
        Job("release", RELEASE_S, services.scheduler.release),
        Job("drop gone", 1.0, polls.drop_gone),
        Job("bot code", 1.0, renew_for_code),
        Job("memory", LOOK_S, memory.look),
        Job("tidy", TIDY_S, tidy),
        Job("traffic", SAVE_TRAFFIC_S, services.traffic.save),
        Job("settings", RELOAD_S, services.settings.reload),
        Job("sweep", SWEEP_S, services.sweeper.run),
        Job("settle outputs", SETTLE_S, settle_outputs),
    ]


async def drain(runner: web.AppRunner, gate: Gate, polls: WaitingPolls, drain_s: float) -> None:
    """Take no new work, let the work in progress finish for `drain_s`, then close every connection."""
    log.info("Draining")
    for site in runner.sites:
        await site.stop()
    polls.release()
    # Not left to the runner: at the first step of its own end it stops reading, so that uploads could not finish.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(drain_s):
            await gate.close()
    await runner.cleanup()


async def open_services(
    data: DataDirectory, limits: BlobLimits, clock: Clock, stack: contextlib.AsyncExitStack
) -> Services:
    """Open every store in the data directory and the scheduler on them; `stack` closes them, the last one first."""
    monitor, settings = LogMonitor(), LiveSettings(data.path / SETTINGS_DIR)
    settings.load()
    local = await open_blob_stores(data.path, clock, monitor, limits)
    stack.push_async_callback(local.close)
    reserve = Reserve(data.path)
    await asyncio.to_thread(reserve.take)
    janitor = Janitor(local, clock, stopped_cleanly=data.stopped_cleanly, reserve=reserve)
    local.make_room = janitor.make_room
    blobs = SharedBlobStores(local)
    stack.push_async_callback(blobs.close)
    traffic = Traffic.open(data.path, clock)
    stack.push_async_callback(traffic.save)
    tasks = SqliteTaskStore(data.path / "tasks.sqlite", clock=clock, monitor=monitor)
    stack.push_async_callback(tasks.close)
    outputs = SettledOutputs(FileOutputs(data.path / "outputs"), local, tasks.database, clock)
    stack.push_async_callback(outputs.close)
    inputs = TreeChecker(blobs.namespace, clock, blobs.limits.promised_s)
    scheduler = Scheduler(tasks, outputs, LocalDoorbell(), clock, inputs=inputs)
    sweeper = Sweeper(tasks, outputs, clock, settings.current.retention)
    settings.follow(lambda found: scheduler.configure(found.policy, found.limits))
    settings.follow(lambda found: setattr(sweeper, "policy", found.retention))
    await scheduler.start()
    stack.push_async_callback(scheduler.close)
    return Services(
        blobs=blobs,
        tickets=TicketOffice.open(data.path, clock),
        traffic=traffic,
        scheduler=scheduler,
        sweeper=sweeper,
        outputs=outputs,
        settings=settings,
        bot_config=BotScripts(data.path, data.path / SETTINGS_DIR / SCRIPTS),
        archives=BotArchives(data.path),
        clock=clock,
        janitor=janitor,
    )


def application(services: Services, gate: Gate, polls: WaitingPolls) -> web.Application:
    """Return the application: every route there is."""
    app = web.Application(middlewares=[gate.middleware()], client_max_size=MAX_BODY_BYTES)
    app[OWN_SERVERS] = gate.own_servers
    app.on_response_prepare.append(gate.add_headers)
    scheduler, clock = services.scheduler, services.clock
    services.settings.follow(lambda _: polls.renew())

    def settings() -> Settings:
        return services.settings.current

    async def health(_: web.Request) -> web.Response:
        return reply({"status": "ok", "version": __version__})

    app.add_routes([web.get("/healthz", health)])
    app.add_routes(cas_routes(services.blobs))
    app.add_routes(IsolateApi(services.blobs, services.tickets, services.traffic, __version__).routes())
    app.add_routes(IsolateAdmin(services.blobs, services.tickets, services.traffic, __version__).routes())
    app.add_routes(auth_routes())
    app.add_routes(ClientApi(scheduler, clock, __version__, settings, services.archives.expected).routes())
    app.add_routes(documentation_routes(__version__))
    app.add_routes(discovery_routes([SWARMING, ISOLATE]))
    hooks, archives = services.bot_config, services.archives
    bots = BotApi(scheduler, clock, __version__, polls, hooks.of, settings, update=archives.due)
    app.add_routes(bots.routes())
    app.add_routes(BotCodeApi(archives).routes())
    app.add_routes(BootstrapApi(bootstrap_script).routes())
    app.add_routes(BotConfigApi(hooks, polls.renew).routes())
    app.add_routes(Pages(scheduler, clock, __version__).routes())
    app.add_routes(BrowsePages(services.blobs, __version__).routes())
    return app
