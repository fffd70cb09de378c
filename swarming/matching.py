"""Which bot may run what: dimensions to queue keys, and whether a bot serves a queue.

Pure. A queue key is the canonical JSON of the dimensions as they were asked for, so a value `a|b` stays whole and one
task is in one queue; what it means is expanded here, where a bot is matched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from swarming.model import Lists, Pairs

Traits = Mapping[str, frozenset[str]]
Bucket = tuple[str, str]  # a (dimension, value) that everyone concerned has in common; ("", "") is everybody

_NOTHING: frozenset[str] = frozenset()
_ANYWHERE: Bucket = ("", "")


@lru_cache(maxsize=4096)  # thousands of tasks in a few queues
def queue_key(dimensions: Pairs) -> str:
    """Return the key of the queue of tasks with these dimensions, which are sorted, each value's alternatives too."""
    return json.dumps(dimensions, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Demand:
    """What a queue asks of a bot: of each wish, one of the values."""

    wishes: tuple[tuple[str, frozenset[str]], ...]

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """Where to look for bots: by id if there is one, else by pool, else everywhere."""
        for name in ("id", "pool"):
            for key, values in self.wishes:
                if key == name:
                    return tuple((name, value) for value in sorted(values))
        return (_ANYWHERE,)


@lru_cache(maxsize=4096)  # parsed again and again for the same few queues
def demand(queue: str) -> Demand:
    """Return what the queue with this key asks for."""
    return Demand(tuple((key, frozenset(value.split("|"))) for key, value in json.loads(queue)))


def dimensions(queue: str) -> Pairs:
    """Return the dimensions that a queue key was made of."""
    return tuple((key, value) for key, value in json.loads(queue))


def traits(dimensions: Lists) -> Traits:
    """Return a bot's dimensions in the form that `serves` wants."""
    return {key: frozenset(values) for key, values in dimensions}


def buckets(bot: Traits) -> Iterator[Bucket]:
    """Yield every bucket whose demands this bot may meet."""
    yield _ANYWHERE
    for name in ("id", "pool"):
        for value in bot.get(name, _NOTHING):
            yield (name, value)


def serves(bot: Traits, wanted: Demand) -> bool:
    """Say whether the bot has, for every wish, one of the values."""
    return not any(values.isdisjoint(bot.get(key, _NOTHING)) for key, values in wanted.wishes)
