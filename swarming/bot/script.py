"""What a bot does with the hooks of its administrator: when each is called, with what, and what its answer means.

Knows no process: `Hooks` calls them and is told what cannot be used. The invariant: whatever the hooks do, the bot goes
on with what it found itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isolate.cas.files import write_atomic
from isolate.clock import Clock
from isolate.errors import InvalidInput
from swarming.bot.hooks import Hooks, Wishes
from swarming.bot.launch import Launch
from swarming.bot.settings import Settings
from swarming.bot.waiting import pause

FILE, GROUP_FILE = "bot_config.py", "group_bot_config.py"  # for all bots, and on top for those of one group
RENEW_S = 570.0  # before credentials expire: a call may take a minute, and the next chance comes after a long poll

Dimensions = dict[str, list[str]]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """What every hook may know of the bot."""

    bot_id: str
    base_dir: Path
    config_dir: Path
    server: str
    archive: str  # what the bot runs from, where that is one file
    external_setup: bool  # somebody else sets this machine up

    def kept(self, name: str) -> Path:
        """Where code is kept for the next start."""
        return self.config_dir / name


class Script:
    """The administrator's part in a bot."""

    def __init__(self, hooks: Hooks, place: Place, clock: Clock) -> None:
        self.settings = Settings()
        self.headers: dict[str, str] = {}  # for every call to the server; changes with time
        self._hooks, self._place, self._clock = hooks, place, clock
        self._server_version = ""
        self._dimensions: Dimensions = {}
        self._state: dict[str, object] = {}
        self._expires_at: float | None = None
        self._renewed = asyncio.Event()
        self._is_started = False  # the present code had its on_bot_startup

    @property
    def problem(self) -> str:
        """Why the bot must not take tasks, "" when it may."""
        return self._hooks.problem

    @property
    def wishes(self) -> Wishes:
        """What the hooks ask of the bot."""
        return self._hooks.wishes

    @property
    def cost_usd_hour(self) -> float | None:
        """What an hour costs, when the hooks say so."""
        cost = self._state.get("cost_usd_hour")
        return float(cost) if isinstance(cost, int | float) and cost >= 0 else None

    async def start(self) -> None:
        """Take up the code of the last time: the server may want credentials before it gives a newer one."""
        sources = [await asyncio.to_thread(_text_of, self._place.kept(name)) for name in (FILE, GROUP_FILE)]
        if sources != [None, None]:
            await self._load(self._named(*sources))

    async def greeted(self, source: str | None, group_source: str | None, server_version: str) -> None:
        """Take up the code that came with a handshake, and let it prepare this machine when it is new here."""
        self._server_version = server_version
        sources = self._named(source, group_source)
        if sources != self._hooks.sources:
            await asyncio.to_thread(self._keep, FILE, source)
            await asyncio.to_thread(self._keep, GROUP_FILE, group_source)
            await self._load(sources)
        if not self._is_started:
            self._is_started = True
            await self._set_up()
            await self._call("on_bot_startup")
        await self._call("on_handshake")

    async def describe(self, dimensions: Dimensions, state: dict[str, object]) -> tuple[Dimensions, dict[str, object]]:
        """Return what the bot shall say of itself, given what it found."""
        self._dimensions, self._state = dimensions, state
        self._dimensions = await self._checked("get_dimensions", _as_dimensions, dimensions)
        self._state = {**state, **await self._checked("get_state", _as_object, {})}
        return self._dimensions, self._state

    async def before_poll(self) -> None:
        await self._call("on_before_poll")

    async def after_poll(self, command: str) -> None:
        await self._call("on_after_poll", command)

    async def idle(self, since_last_action_s: float) -> None:
        await self._call("on_bot_idle", since_last_action_s)

    async def before_task(self, bot_file: Path, launch: Launch) -> Launch:
        """Return how the runner of a task shall be started; the hook may write to `bot_file`."""
        answer = await self._hooks.call(
            "on_before_task", self._facts(), str(bot_file), list(launch.command), dict(launch.env)
        )
        if answer is None:
            return launch
        _, command, env = answer.arguments
        try:
            wanted = Launch.checked(command, env)
        except InvalidInput as error:
            await self._hooks.refuse("on_before_task", str(error))
            return launch
        await self._hooks.accept("on_before_task")
        return wanted

    async def refuse_launch(self, reason: str) -> None:
        """Take no more tasks: what `before_task` returned starts no runner, and would fail every one of them."""
        await self._hooks.refuse("on_before_task", reason)

    async def after_task(
        self,
        *,
        failure: bool,
        internal_failure: bool,
        dimensions: Mapping[str, list[str]],
        summary: Mapping[str, object],
    ) -> None:
        await self._call("on_after_task", failure, internal_failure, dict(dimensions), dict(summary))

    async def shut_down(self) -> None:
        await self._call("on_bot_shutdown")

    async def close(self) -> None:
        """End the process of the hooks."""
        await self._hooks.close()

    async def keep_authenticated(self) -> None:
        """Renew the credentials in time, until cancelled."""
        while True:
            self._renewed.clear()
            if self._expires_at is None:
                await self._renewed.wait()
            elif not await pause(self._clock, self._expires_at - RENEW_S - self._clock.now(), self._renewed):
                await self._authenticate()

    def _named(self, source: str | None, group_source: str | None) -> list[tuple[str, str]]:
        """Return the code as the hooks take it: with its files, and one for all bots before that of a group."""
        if source is None and group_source is None:
            return []
        found = [(source or "", str(self._place.kept(FILE)))]
        return found if group_source is None else [*found, (group_source, str(self._place.kept(GROUP_FILE)))]

    def _keep(self, name: str, source: str | None) -> None:
        file = self._place.kept(name)
        try:
            if source is None:
                file.unlink(missing_ok=True)
            else:
                write_atomic(file, source.encode("utf-8", "surrogatepass"), durable=False)
        except OSError as error:
            log.warning("Cannot keep %s: %s", file, error.strerror)

    async def _load(self, sources: list[tuple[str, str]]) -> None:
        await self._hooks.load(*sources)
        self._is_started = False
        self.settings = await self._checked("get_settings", Settings.of, Settings())
        self.headers.clear()
        self._expires_at = None
        await self._authenticate()

    async def _set_up(self) -> None:
        if self._place.external_setup:
            return
        if await self._call("setup_bot") is False:
            self.wishes.reboot = "setup_bot() has changed something that needs a reboot"

    async def _authenticate(self) -> None:
        headers, self._expires_at = await self._checked("get_authentication_headers", _as_credentials, ({}, None))
        if self._expires_at is not None:
            # A hook that returns what has expired already must not be asked without a pause.
            self._expires_at = max(self._expires_at, self._clock.now() + RENEW_S + 60)
        self.headers.clear()
        self.headers.update(headers)
        self._renewed.set()

    async def _call(self, name: str, *arguments: object) -> Any:
        answer = await self._hooks.call(name, self._facts(), *arguments)
        return None if answer is None else answer.value

    async def _checked(self, name: str, parse: Callable[[Any], Any], otherwise: Any) -> Any:
        """Return what a hook returns, or `otherwise` when it returns nothing that can be used."""
        answer = await self._hooks.call(name, self._facts())
        if answer is None:
            return otherwise
        try:
            found = otherwise if answer.value is None else parse(answer.value)
        except InvalidInput as error:
            await self._hooks.refuse(name, str(error))
            return otherwise
        await self._hooks.accept(name)
        return found

    def _facts(self) -> dict[str, object]:
        place = self._place
        return {
            "id": place.bot_id,
            "base_dir": str(place.base_dir),
            "config_dir": str(place.config_dir),
            "server": place.server,
            "server_version": self._server_version,
            "dimensions": self._dimensions,
            "state": self._state,
            "swarming_bot_zip": place.archive,
        }


def _text_of(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None  # the server will give it again


def _as_dimensions(value: Any) -> Dimensions:
    """Return dimensions; only their shape is checked, the server says what is wrong with a value."""
    if not isinstance(value, dict) or not all(
        isinstance(values, list) and all(isinstance(one, str) for one in values) for values in value.values()
    ):
        raise InvalidInput(f"no dimensions: an object with lists of strings is needed, not {str(value)[:200]!r}")
    return _sendable(value)


def _as_object(value: Any) -> dict[str, object]:
    if not isinstance(value, dict):
        raise InvalidInput(f"no object, but {str(value)[:200]!r}")
    return _sendable(value)


def _sendable(value: dict[str, Any]) -> dict[str, Any]:
    """Return `value` if a server can read it: one that cannot would not even hear that something is wrong."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("text that is no Unicode") from error
    return value


def _as_credentials(value: Any) -> tuple[dict[str, str], float | None]:
    match value:
        case [None, _]:
            return {}, None
        case [dict() as headers, None | int() | float() as expires_at] if all(
            isinstance(text, str) and text.isprintable() for text in headers.values()
        ):
            return dict(headers), expires_at
    raise InvalidInput("no pair of headers and the time they expire")  # not shown: it may be a secret
