"""What a bot says about itself: dimensions to be chosen by, state to be looked at.

Knows no server. The invariant: what it returns fits the rules of a server (values are lists of distinct strings), so
that a bot is never quarantined for its own dimensions.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from isolate.clock import Clock
from isolate.errors import IndexCorrupt, InvalidInput
from isolate.plain_files import read_plain
from run_isolated import named_state
from swarming.bot import machine
from swarming.bot.update import own_version
from swarming.bot.workdir import NAMED_CACHES
from swarming.bot_archive import code_version
from swarming.unpack import platform_key

KEY = re.compile(r"[a-zA-Z\-_.][0-9a-zA-Z\-_.]{0,63}")
LOCALE = re.compile(r"[0-9A-Za-z_.@-]{1,64}")
MAX_VALUE_CHARS = 256
MAX_KEYS = 32
RESERVED = {"id": "say --id", "server_version": "the server says it"}
DEFAULT_POOL = "default"
MAX_STATE_BYTES = 64 << 20  # of the list of named caches, which a task may have replaced
THERMAL = Path("/sys/class/thermal")


@dataclass(frozen=True, slots=True)
class Identity:
    """What the operator of a bot decided about it."""

    bot_id: str
    extra: Mapping[str, list[str]]  # dimensions that are added, or replace what was found
    cost_usd_hour: float
    base_dir: Path


class Attributes:
    """Answers with the dimensions and the state of this bot, now."""

    def __init__(
        self,
        identity: Identity,
        facts: machine.Machine,
        env: Mapping[str, str],
        clock: Clock,
        refused: Callable[[], str | None] = lambda: None,  # the version this bot could not become
    ) -> None:
        self.identity = identity
        self.version = own_version() or code_version()
        self._refused = refused
        self._facts, self._env, self._clock = facts, env, clock
        self._kernel = platform.release()
        self._started_ts, self._started_at = clock.now(), clock.monotonic()

    def dimensions(self, server_version: str, imposed: Mapping[str, list[str]]) -> dict[str, list[str]]:
        """Return every dimension; those the server imposes win over the operator's, and these over what was found."""
        facts = self._facts
        found = {
            "cores": [str(facts.cores)],
            "cpu": facts.cpu,
            "gpu": facts.gpu,
            "inside_docker": ["1" if facts.in_container else "0"],
            "kvm": ["1" if facts.has_kvm else "0"],
            "locale": [_locale(self._env)],
            "machine_type": [f"{facts.cores}-cores-{round(facts.ram_mib / 1024)}-gib"],
            "os": facts.os_names,
            "pool": [DEFAULT_POOL],
            "python": machine.python_versions(),
            "ssd": ["1" if facts.ssd else "0"],
        }
        if kept := self._named_caches():
            found["caches"] = list(kept)
        if facts.model:
            found["mac_model"] = [facts.model]
        found |= self.identity.extra
        if server_version:
            found["server_version"] = [server_version]
        found |= imposed
        return {key: sorted(set(found[key])) for key in sorted(found)} | {"id": [self.identity.bot_id]}

    def state(self, sleep_streak: int) -> dict[str, object]:
        """Return what is worth looking at on the page of a bot; only what is cheap, it goes with every poll."""
        facts, base = self._facts, self.identity.base_dir
        mount = machine.mount_point(base)
        state: dict[str, object] = {
            "cost_usd_hour": self.identity.cost_usd_hour,
            "cpu_name": facts.cpu_name,
            "cwd": str(base),
            "disks": {mount: machine.disk(mount)},
            "env": {"PATH": self._env.get("PATH", "")},
            "gpu": facts.gpu,
            "hostname": facts.hostname,
            "ip": machine.local_address(),
            "kernel": self._kernel,
            "nb_files_in_temp": machine.file_count(Path(tempfile.gettempdir())),
            "pid": os.getpid(),
            "python": {"executable": sys.executable, "version": sys.version},
            "ram": facts.ram_mib,
            "running_time": round(self._clock.monotonic() - self._started_at, 1),
            "sleep_streak": sleep_streak,
            "ssd": facts.ssd,
            "started_ts": round(self._started_ts),
            "user": user_name(),
        }
        if kept := self._named_caches():
            state["named_caches"] = {name: [[one.directory, one.size_bytes], one.used_s] for name, one in kept.items()}
        if own_version() is not None:
            state["bot_archive"] = {"platform": platform_key(), "refused": self._refused()}
        if outside := self._env.get("DOCKER_HOST_HOSTNAME"):
            state["docker_host_hostname"] = outside
        if temperatures := machine.temperatures(THERMAL):
            state["temp"] = temperatures
        if facts.boot_time is not None:
            state["uptime"] = max(0, round(self._clock.now() - facts.boot_time))
        return state

    def _named_caches(self) -> named_state.State:
        """Return the named caches that are here."""
        try:
            content = read_plain(self.identity.base_dir / NAMED_CACHES / "state.json", MAX_STATE_BYTES)
            return named_state.loads(content.decode())
        except (OSError, ValueError, IndexCorrupt):
            return {}  # there are none yet, or the next run repairs the list


def parse_dimensions(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return what `--dimension K V` said, a repeated key having several values; raises InvalidInput."""
    parsed: dict[str, list[str]] = {}
    for key, value in pairs:
        if not KEY.fullmatch(key):
            raise InvalidInput(f"Dimension {key!r}: a key has letters, digits, '-', '_' and '.', at most 64")
        if key in RESERVED:
            raise InvalidInput(f"Dimension {key!r} cannot be set: {RESERVED[key]}")
        check_value(f"Dimension {key!r}", value)
        parsed.setdefault(key, []).append(value)
    if len(parsed) > MAX_KEYS:
        raise InvalidInput(f"{len(parsed)} dimensions are too many, at most {MAX_KEYS} can be set")
    return parsed


def check_value(what: str, value: str) -> str:
    """Return `value` when it can be the value of a dimension; raises InvalidInput."""
    if not value or value != value.strip() or len(value) > MAX_VALUE_CHARS or "|" in value or not value.isprintable():
        raise InvalidInput(f"{what}: {value!r} must be 1 to {MAX_VALUE_CHARS} characters, unpadded, without '|'")
    return value


def _locale(env: Mapping[str, str]) -> str:
    """Return the locale that programs see: the most specific variable that says one."""
    said = next((env[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if env.get(name)), "")
    return said if LOCALE.fullmatch(said) else "C"


def user_name() -> str:
    """Return who runs this process, as a number when it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
