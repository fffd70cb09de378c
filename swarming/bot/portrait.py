"""What a bot says of itself: what it found, what its administrator makes of that, and why it takes no tasks.

Knows no server. The invariant: a bot in which anything is wrong says so with its next word, in one text for people.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from swarming.bot.protocol import Greeting, Hello

MAX_REASON_CHARS = 2000  # a page has to show it

log = logging.getLogger(__name__)


class Found(Protocol):
    """What the bot finds out by itself: `attributes.Attributes`."""

    version: str

    def dimensions(self, server_version: str, imposed: Mapping[str, list[str]]) -> dict[str, list[str]]: ...

    def state(self, sleep_streak: int) -> dict[str, object]: ...


class Editor(Protocol):
    """The administrator: `script.Script`."""

    @property
    def problem(self) -> str: ...

    async def describe(
        self, dimensions: dict[str, list[str]], state: dict[str, object]
    ) -> tuple[dict[str, list[str]], dict[str, object]]: ...


class Portrait:
    """Describes the bot; `doctor` says what is wrong with the machine now."""

    def __init__(self, found: Found, editor: Editor, doctor: Callable[[], Sequence[str]]) -> None:
        self._found, self._editor, self._doctor = found, editor, doctor
        self._faults: dict[str, None] = {}
        self._last: Hello | None = None
        self._noted: object = None  # why it takes no tasks, as it was last logged

    def quarantine(self, reason: str) -> None:
        """Take no task until this process ends."""
        self._faults[reason] = None

    async def unfit(self) -> str:
        """Return what keeps this machine from a task now, "" when nothing does."""
        return "; ".join(await asyncio.to_thread(self._doctor))[:MAX_REASON_CHARS]

    async def hello(self, greeting: Greeting | None, sleep_streak: int) -> Hello:
        """Return the description of this moment; what the server imposed wins."""
        version, imposed = ("", {}) if greeting is None else (greeting.server_version, greeting.dimensions)
        found = self._found.dimensions(version, imposed)
        seen = await asyncio.to_thread(self._found.state, sleep_streak)
        dimensions, state = await self._editor.describe(found, dict(seen))
        dimensions = {**dimensions, **imposed, "id": found["id"]}
        if greeting is not None:
            dimensions["server_version"] = found.get("server_version", [version])
            if greeting.group_version is not None:
                state["bot_group_cfg_version"] = greeting.group_version
        reasons = [*self._faults, *filter(None, [self._editor.problem]), *await asyncio.to_thread(self._doctor)]
        if reasons:
            own = state.get("quarantined")
            reasons += [own] if isinstance(own, str) and own else []
            state["quarantined"] = "; ".join(reasons)[:MAX_REASON_CHARS]
        self._note(state.get("quarantined"))
        self._last = Hello(dimensions, state, self._found.version)
        return self._last

    def _note(self, reason: object) -> None:
        """Tell whoever watches the bot why it takes no tasks, once."""
        if reason and reason != self._noted:
            log.warning("Takes no tasks: %s", reason)
        elif self._noted and not reason:
            log.info("Takes tasks again")
        self._noted = reason

    async def last(self, greeting: Greeting | None) -> Hello:
        """Return what was said last: good enough beside an event, and no hook can hold it up."""
        return self._last or await self.hello(greeting, 0)
