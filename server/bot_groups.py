"""Groups of bots: which group a bot belongs to, the dimensions it is given, and who owns it.

Pure. An exact id wins over a prefix, a prefix over a pattern, and those over the group without any, which takes the
rest; a bot that no group takes is refused. `host--suffix` is in the group of `host`. The version of a group changes
exactly when what its bots are told does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from isolate.cas.digest import SHA256
from server.toml_reader import Table, TomlFile
from swarming.bots import BotHello
from swarming.wire_rules import is_dimension_key, is_dimension_value

NO_VERSION = "default"  # of a server without groups, as in 2020
MAX_EXPANDED = 10_000  # bots of one `{1..n}`
_VERSION_CHARS = 14
ARCHIVE_NAME = re.compile(r"[A-Za-z0-9_\-]{1,100}\.zip")
SCRIPT_NAME = re.compile(r"[A-Za-z0-9_\-]{1,100}\.py")
_BRACES = re.compile(r"([^{}]*)\{([^{}]*)\}([^{}]*)")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")


@dataclass(frozen=True, slots=True)
class BotGroup:
    """What the bots of one group have in common."""

    version: str = NO_VERSION
    dimensions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    owners: tuple[str, ...] = ()
    script: str = ""  # the name of the hooks that its bots get on top of those for all
    archive: str = ""  # what its bots of 2020 are to become; ours know what they came from

    def told(self, hello: BotHello) -> BotHello:
        """Return what a bot says with the dimensions of its group in place of its own."""
        if not self.dimensions:
            return hello
        return replace(hello, dimensions=tuple(sorted({**dict(hello.dimensions), **self.dimensions}.items())))


@dataclass(frozen=True, slots=True)
class There:
    """The names of the files that a group may name."""

    scripts: Collection[str]
    archives: Collection[str] | None = None  # None: nobody knows


@dataclass(frozen=True, slots=True)
class BotGroups:
    """All groups; without any, every bot is in one that changes nothing."""

    by_id: Mapping[str, BotGroup] = field(default_factory=dict)
    by_prefix: tuple[tuple[str, BotGroup], ...] = ()
    by_pattern: tuple[tuple[re.Pattern[str], BotGroup], ...] = ()
    default: BotGroup | None = BotGroup()

    def of(self, bot_id: str) -> BotGroup | None:
        """Return the group of a bot; None when it is not welcome."""
        return self._of(bot_id) or (self._of(bot_id.partition("--")[0]) if "--" in bot_id else None) or self.default

    @property
    def archives(self) -> list[str]:
        """The names of all archives that bots of 2020 are to become."""
        found = [*self.by_id.values(), *(one for _, one in self.by_prefix), *(one for _, one in self.by_pattern)]
        found += [] if self.default is None else [self.default]
        return sorted({group.archive for group in found} - {""})

    def _of(self, bot_id: str) -> BotGroup | None:
        if bot_id in self.by_id:
            return self.by_id[bot_id]
        for prefix, group in self.by_prefix:
            if bot_id.startswith(prefix):
                return group
        for pattern, group in self.by_pattern:
            if pattern.fullmatch(bot_id):
                return group
        return None


def read_groups(file: TomlFile, there: There | None = None) -> BotGroups:
    """Return the groups in `bots.toml`; problems are noted in `file`, also with what is not `there`, if it is known."""
    top = file.top()
    by_id: dict[str, BotGroup] = {}
    prefixes: list[tuple[str, BotGroup]] = []
    patterns: list[tuple[re.Pattern[str], BotGroup]] = []
    default: BotGroup | None = None
    for table in top.tables("group"):
        group = _group(table, there)
        ids, starts, texts = table.texts("ids"), table.texts("prefixes"), table.texts("patterns")
        for one in ids:
            for bot_id in _expanded(table, one):
                if bot_id in by_id:
                    table.problem("ids", f"Bot {bot_id!r} is in two groups, or twice in one")
                by_id[bot_id] = group
        for prefix in starts:
            other = next((one for one, _ in prefixes if one.startswith(prefix) or prefix.startswith(one)), None)
            if other is not None:
                table.problem("prefixes", f"Prefix {prefix!r} overlaps with {other!r}: which one a bot has is unclear")
            prefixes.append((prefix, group))
        for text in texts:
            try:
                patterns.append((re.compile(text), group))
            except re.error as error:
                table.problem("patterns", f"{text!r} is no regular expression: {error}")
        if not (ids or starts or texts):
            if default is not None:
                table.problem("", "There are two groups without ids, prefixes and patterns: only one can have the rest")
            default = group
        table.close()
    top.close()
    return BotGroups(by_id, tuple(prefixes), tuple(patterns), default)


def _group(table: Table, there: There | None) -> BotGroup:
    dimensions: dict[str, tuple[str, ...]] = {}
    for text in table.texts("dimensions"):
        key, _, value = text.partition(":")
        if not is_dimension_key(key) or not is_dimension_value(value):
            table.problem("dimensions", f"{text!r} is no dimension: expected key:value")
        elif key == "id":
            table.problem("dimensions", "A bot's id cannot be given by its group")
        elif value in dimensions.get(key, ()):
            table.problem("dimensions", f"{text!r} is there twice")
        else:
            dimensions[key] = (*dimensions.get(key, ()), value)
    owners, script = table.texts("owners"), table.text("bot_config_script")
    if script and not SCRIPT_NAME.fullmatch(script):
        table.problem("bot_config_script", f"{script!r} is no name of a script: letters, digits, '_' and '-', and .py")
    elif script and there is not None and script not in there.scripts:
        table.problem("bot_config_script", f"There is no script {script} in the folder scripts beside this file")
    archive = table.text("bot_archive")
    if archive and not ARCHIVE_NAME.fullmatch(archive):
        table.problem("bot_archive", f"{archive!r} is no name of an archive: letters, digits, '_' and '-', and .zip")
    elif archive and there is not None and there.archives is not None and archive not in there.archives:
        table.problem("bot_archive", f"There is no archive {archive} in the folder bot_archives of the server's data")
    told = json.dumps([dimensions, owners, script], sort_keys=True).encode()
    return BotGroup(f"hash:{SHA256.digest(told).hex()[:_VERSION_CHARS]}", dimensions, owners, script, archive)


def _expanded(table: Table, text: str) -> list[str]:
    """Return the ids that `a{1..3}` or `a{x,y}` stands for; one set of braces at most."""
    if not {"{", "}"} & set(text):
        return [text]
    match = _BRACES.fullmatch(text)
    if match is None:
        table.problem("ids", f"{text!r} must have one pair of braces at most")
        return []
    head, inner, tail = match.groups()
    numbers = _RANGE.fullmatch(inner)
    if numbers is not None:
        low, high = int(numbers[1]), int(numbers[2])
        if not low <= high < low + MAX_EXPANDED:
            table.problem("ids", f"{text!r} must count up, to {MAX_EXPANDED} ids at most")
            return []
        return [f"{head}{number}{tail}" for number in range(low, high + 1)]
    words = inner.split(",")
    if len(words) < 2 or not all(words):
        table.problem("ids", f"{text!r}: braces hold a range 1..9 or words with commas between them")
        return []
    return [f"{head}{word}{tail}" for word in words]
