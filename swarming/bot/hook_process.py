"""The process in which the hooks of `bot_config.py` run: one for the life of a bot, so that module globals survive.

Runs as `python -m swarming.bot.hook_process SOCKET OWNER`. Knows no server: what a hook wants of its bot is told to the
bot, one JSON object per line. Imports little, because it lives as long as the bot. Whatever a hook does to this
process, the bot is another one.
"""

from __future__ import annotations

import inspect
import json
import random
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import IO, Any

from run_isolated import linux

HOOKS = frozenset(
    {"get_dimensions", "get_state", "get_settings", "get_authentication_headers", "setup_bot"}
    | {"on_bot_startup", "on_handshake", "on_before_poll", "on_after_poll", "on_bot_idle", "on_bot_shutdown"}
    | {"on_before_task", "on_after_task"}
)
MODULE, GROUP_MODULE = "bot_config", "injected_bot_config"
FOR_ALL_ONLY = {"setup_bot"}  # a machine is set up before its group is known
NOT_CHAINED = {"on_before_poll", "on_after_poll"}  # the one of the group in place of the other, as what a hook returns


class Bot:
    """What a hook gets as `bot`: facts about the bot as they were when the hook was called, and wishes it may have."""

    def __init__(self, facts: Mapping[str, Any], wish: Callable[[str, str, str], None]) -> None:
        self.id: str = facts["id"]
        self.base_dir: str = facts["base_dir"]
        self.config_dir: str = facts["config_dir"]
        self.server: str = facts["server"]
        self.server_version: str = facts["server_version"]
        self.dimensions: dict[str, list[str]] = facts["dimensions"]
        self.state: dict[str, Any] = facts["state"]
        self.swarming_bot_zip: str = facts["swarming_bot_zip"]
        self.remote = None  # the calls of the protocol are the bot's
        self._wish = wish

    def post_event(self, event_type: str, message: str) -> None:
        """Show an event on the page of the bot."""
        self._wish("event", event_type, str(message))

    def post_error(self, message: str) -> None:
        """Show an error on the page of the bot."""
        self._wish("event", "bot_error", str(message))

    def host_reboot(self, message: str) -> None:
        """Restart the machine once the hook has returned."""
        self._wish("reboot", "", str(message))

    restart = host_reboot  # its older name

    def bot_restart(self, message: str) -> None:
        """Restart the bot once the hook has returned."""
        self._wish("restart", "", str(message))

    def get_pseudo_rand(self, factor: float) -> float:
        """Return a number between -factor and factor that is always the same for this bot."""
        return round(random.Random(self.id).uniform(-factor, factor), 4)


class HookModules:
    """The code of an administrator, loaded: that for all bots, and on top of it that for the group of this one."""

    def __init__(self, sources: Sequence[tuple[str, str]]) -> None:
        self._by_name: dict[str, list[Callable[..., Any]]] = {}
        for name, (source, file_name) in zip((MODULE, GROUP_MODULE), sources, strict=False):
            self._load(name, source, file_name)

    @property
    def names(self) -> list[str]:
        """The hooks there are."""
        return sorted(self._by_name)

    def call(self, name: str, bot: Bot, arguments: Sequence[Any]) -> Any:
        """Return what the hook does; where both have it they are called one after the other, the last one answers."""
        value = None
        for function in self._by_name.get(name, ()):
            value = _fitting(function, bot, arguments)
        return value

    def _load(self, name: str, source: str, file_name: str) -> None:
        module = ModuleType(name)
        module.__file__ = file_name
        sys.modules[name] = module
        exec(compile(source, file_name, "exec"), module.__dict__)  # noqa: S102 - to run it is what it is sent for
        for hook in HOOKS if name == MODULE else HOOKS - FOR_ALL_ONLY:
            function = getattr(module, hook, None)
            if callable(function):
                alone = hook.startswith("get_") or hook in NOT_CHAINED
                self._by_name[hook] = [function] if alone else [*self._by_name.get(hook, ()), function]


def _fitting(function: Callable[..., Any], bot: Bot, arguments: Sequence[Any]) -> Any:
    """Call a hook; one that was written for fewer arguments gets fewer."""
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        arguments = arguments[: max(0, len(kinds) - 1)]
    return function(bot, *arguments)


class Talk:
    """Orders from the bot, and the answers."""

    def __init__(self, orders: IO[bytes], answers: IO[bytes]) -> None:
        self._orders, self._answers, self._utilities = orders, answers, Utilities.provided()
        self._modules: HookModules | None = None

    def serve(self) -> None:
        """Obey until the bot goes away."""
        while line := self._orders.readline():
            order = json.loads(line)
            self._tell({"number": order["number"], **self._answer(order)})

    def _answer(self, order: Mapping[str, Any]) -> dict[str, Any]:
        try:
            if "sources" in order:
                self._modules = HookModules(order["sources"])
                return {"value": self._modules.names}
            assert self._modules is not None, "a hook was called before its module was loaded"
            self._utilities.facts = order["bot"]
            value = self._modules.call(order["call"], Bot(order["bot"], self._wish), order["arguments"])
            json.dumps([value, order["arguments"]], allow_nan=False)
        except BaseException as error:  # noqa: BLE001 - a hook may raise what it likes, SystemExit included
            traceback.print_exc()
            return {"error": _describe(error)}
        return {"value": value, "arguments": order["arguments"]}

    def _wish(self, kind: str, event_type: str, message: str) -> None:
        self._tell({"wish": kind, "event_type": event_type, "message": message})

    def _tell(self, message: Mapping[str, Any]) -> None:
        self._answers.write(json.dumps(message).encode() + b"\n")
        self._answers.flush()


class Utilities(ModuleType):
    """`api.os_utilities`, which older scripts ask for what a bot finds by itself."""

    def __init__(self) -> None:
        super().__init__("os_utilities")
        self.facts: Mapping[str, Any] = {"dimensions": {}, "state": {}}

    def get_dimensions(self) -> Any:
        return self.facts["dimensions"]

    def get_state(self) -> Any:
        return self.facts["state"]

    @classmethod
    def provided(cls) -> Utilities:
        """Return it, importable from now on."""
        api, made = ModuleType("api"), cls()
        vars(api)["os_utilities"] = made
        sys.modules.update({"api": api, "api.os_utilities": made})
        return made


def _describe(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:1000] if text else type(error).__name__


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the bot
    descriptor, owner = map(int, sys.argv[1:])
    linux.die_with_parent(signal.SIGKILL, owner)
    with socket.socket(fileno=descriptor) as end:
        end.set_inheritable(False)  # what a hook starts and leaves behind must not look like the hook
        with end.makefile("rb") as orders, end.makefile("wb") as answers:
            Talk(orders, answers).serve()
