"""The arguments of `run_isolated` that need more than a type: pairs, inner paths, a file of arguments.

Knows no flags' names beyond its messages, and no run. Every mistake raises InvalidInput, which is exit status 2.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from isolate.cas.digest import DEFAULT_NAMESPACE, Namespace
from isolate.errors import InvalidInput
from isolate.urls import normalize_url
from run_isolated.command import OUTDIR, inner_path
from run_isolated.named_state import cache_name
from run_isolated.spec import NamedCache, RunSpec


def read_argsfile(path: Path) -> list[str]:
    """Return the arguments in the JSON file `path`."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"Cannot read {str(path)!r}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInput(f"{str(path)!r} is not a JSON array of strings: {error}") from error
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        raise InvalidInput(f"{str(path)!r} is not a JSON array of strings")
    return given


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The flags of a run as they were typed: nothing here has been checked."""

    isolated: str | None
    server: str | None  # also where the environment names it
    namespace: str | None
    words: Sequence[str]
    raw_command: bool
    relative_cwd: str | None
    env: Sequence[str]
    env_prefix: Sequence[str]
    bot_file: str | None
    outputs: Sequence[str]
    hard_timeout: float | None
    grace_period: float | None
    cache_dir: Path | None
    max_cache_size: int
    min_free_space: int
    max_items: int
    root_dir: Path | None
    leak_temp_dir: bool
    mapping: str
    verify_inputs: bool
    named_caches: Sequence[tuple[str, str, str]]
    named_cache_root: Path | None
    lower_priority: bool
    no_network: bool
    switch_to_account: str | None
    containment: str


def parse_spec(asked: Asked, *, base_env: Mapping[str, str], cache_dir: Path, named_root: Path) -> RunSpec:
    """Return what is `asked` for, with the directories to take where it names none; raises InvalidInput."""
    check_combination(asked)
    cache_dir = (asked.cache_dir or cache_dir).absolute()
    return RunSpec(
        root_dir=(asked.root_dir or cache_dir.parent).absolute(),
        cache_dir=cache_dir,
        base_env=base_env,
        server=None if asked.server is None else normalize_url(asked.server),
        isolated=asked.isolated,
        namespace=input_namespace(asked.isolated, asked.namespace),
        command=asked.words,
        raw_command=asked.raw_command or asked.isolated is None,
        relative_cwd="" if asked.relative_cwd is None else inner_path(asked.relative_cwd),
        env=environment_changes(asked.env),
        env_prefixes=environment_prefixes(asked.env_prefix),
        outputs=[inner_path(path) for path in asked.outputs],
        bot_file=asked.bot_file,
        hard_timeout_s=limit_s("--hard-timeout", asked.hard_timeout),
        grace_period_s=limit_s("--grace-period", asked.grace_period),
        max_cache_size_bytes=asked.max_cache_size,
        max_cache_items=asked.max_items,
        min_free_space_bytes=asked.min_free_space,
        leak_temp_dir=asked.leak_temp_dir,
        mapping=asked.mapping,
        verify_inputs=asked.verify_inputs,
        named_caches=wanted_caches(asked.named_caches),
        named_cache_root=(asked.named_cache_root or named_root).absolute(),
        lower_priority=asked.lower_priority,
        no_network=asked.no_network,
        switch_to_account=asked.switch_to_account,
        containment=asked.containment,
    )


def needs_places(
    isolated: str | None,
    cache_dir: Path | None,
    root_dir: Path | None,
    named_caches: object,
    named_cache_root: Path | None,
    **_: object,
) -> bool:
    """Whether a run uses a directory that no flag names."""
    return (cache_dir is None and (root_dir is None or isolated is not None)) or bool(
        named_caches and named_cache_root is None
    )


def environment_changes(pairs: Sequence[str]) -> dict[str, str]:
    """Return the variables of `--env KEY=VALUE`; an empty value deletes."""
    return dict(_pair("--env", text, "KEY=VALUE") for text in pairs)


def environment_prefixes(pairs: Sequence[str]) -> dict[str, list[str]]:
    """Return the paths of `--env-prefix KEY=./PATH`, in order."""
    prefixes: dict[str, list[str]] = {}
    for text in pairs:
        key, path = _pair("--env-prefix", text, "KEY=./PATH")
        if not path:
            raise InvalidInput(f"--env-prefix {text!r} names no path")
        prefixes.setdefault(key, []).append(inner_path(path))
    return prefixes


def wanted_caches(given: Sequence[tuple[str, str, str]]) -> list[NamedCache]:
    """Return the named caches of `--named-cache NAME PATH HINT`; each name and each place once."""
    wanted: list[NamedCache] = []
    for name, path, hint in given:
        try:
            cache = NamedCache(cache_name(name), inner_path(path), int(hint))
        except ValueError as error:
            raise InvalidInput(f"--named-cache {name}: the hint {hint!r} is not a number of bytes") from error
        if cache.path == ".":
            raise InvalidInput(f"--named-cache {name} cannot be the run directory itself")
        for other in wanted:
            if name == other.name or cache.path == other.path:
                raise InvalidInput(f"--named-cache {name} at {path!r} collides with {other.name} at {other.path!r}")
        wanted.append(cache)
    return wanted


def limit_s(flag: str, value: float | None) -> float | None:
    """Return a number of seconds, None for no limit."""
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise InvalidInput(f"{flag} must be a number of seconds, not {value}")
    return value or None


def input_namespace(isolated: str | None, name: str | None) -> Namespace:
    """Return the namespace to use: the one that is named, else that of the hash's length; checks the hash."""
    if name is not None:
        namespace = Namespace.named(name)
    else:
        namespace = Namespace.parse(DEFAULT_NAMESPACE) if isolated is None else Namespace.of_hash(isolated)
    if isolated is not None:
        namespace.algorithm.parse_hex(isolated.lower())
    return namespace


def check_combination(asked: Asked) -> None:
    """Raise InvalidInput for flags that make no sense, alone or together."""
    about = {"--isolate-server": asked.server, "--bot-file": asked.bot_file}
    empty = [flag for flag, value in about.items() if value == ""] + ["--output"] * ("" in asked.outputs)
    if empty:
        raise InvalidInput(f"{empty[0]} is empty")
    if asked.words and not asked.words[0] and (asked.raw_command or asked.isolated is None):
        raise InvalidInput("The command is empty")
    if asked.isolated is None and not asked.words:
        raise InvalidInput("--isolated or command to run is required.")
    if asked.isolated is not None and asked.server is None:
        raise InvalidInput("--isolated requires --isolate-server")
    if asked.raw_command and not asked.words:
        raise InvalidInput("--raw-cmd requires a command")
    if asked.relative_cwd is not None and not asked.raw_command:
        raise InvalidInput("--relative-cwd requires --raw-cmd")
    if asked.server is None and OUTDIR in asked.words:
        raise InvalidInput(f"{OUTDIR} requires --isolate-server")


def _pair(flag: str, text: str, form: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InvalidInput(f"{flag} {text!r} is not {form}")
    return key, value
