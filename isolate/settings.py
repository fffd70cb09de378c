"""The configuration file: defaults of flags, in TOML.

Pure: text in, values out; knows no command and no place. At the top level are the few flags that are the same wherever
they occur (`swarming = "http://…"`), in a table named like a command those of that command. The invariant: values are
words, numbers and truths, or lists of them; what makes no sense is refused, never ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from isolate.errors import InvalidInput

COMMON = frozenset({"swarming", "isolate-server", "namespace", "user", "verbose"})
_SIMPLE = (str, int, float, bool)
_TEXTS = {
    "swarming": "the URL of a server",
    "isolate-server": "the URL of a server",
    "namespace": "a name such as 'blake3-zstd'",
    "user": "a name",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What one configuration file says; names of flags are spelt with `-`."""

    place: str = ""
    common: Mapping[str, Any] = field(default_factory=dict)
    commands: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def defaults(self, command: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        """Return defaults by parameter for a command; `parameters` maps its flags to them. Raises InvalidInput."""
        own = self.commands.get(command, {})
        for flag in own:
            if flag not in parameters:
                raise InvalidInput(f"{self.place}: [{command}] knows no {flag!r}")
        given = {**self.common, **own}
        return {parameters[flag]: value for flag, value in given.items() if flag in parameters}


def parse(text: str, place: str) -> Settings:
    """Return what `text` says; `place` is how errors name the file. Raises InvalidInput."""
    import tomllib  # only for who has such a file

    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidInput(f"{place}: {error}") from error
    common: dict[str, Any] = {}
    commands: dict[str, dict[str, Any]] = {}
    for key, value in content.items():
        name = _spelt(key)
        if isinstance(value, dict):
            commands[name] = {}
            for flag, one in value.items():
                commands[name][_spelt(flag)] = _checked(one, f"{place}: {key}.{flag}", _TEXTS.get(_spelt(flag)))
        elif name in COMMON:
            common[name] = _checked(value, f"{place}: {key}", _TEXTS.get(name))
        else:
            raise InvalidInput(f"{place}: {key!r} is none of {', '.join(sorted(COMMON))}, nor in a [command]")
    return Settings(place, common, commands)


def _spelt(key: str) -> str:
    return key.replace("_", "-")


def _checked(value: object, what: str, text: str | None = None) -> Any:
    """Return a value that makes sense; `text` is what it says if it must be one text."""
    if text and not isinstance(value, str):
        raise InvalidInput(f"{what} must be {text}, in quotes, not {json.dumps(value, default=str)}")
    if isinstance(value, _SIMPLE):
        return value
    if isinstance(value, list):
        return [_checked(one, what) for one in value]
    raise InvalidInput(f"{what} is no text, number, truth or list")
