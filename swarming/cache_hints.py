"""How large named caches become: learnt from what bots say of theirs, told to a bot that gets a task.

Knows the fleet and no task. A hint is the 95th percentile of the sizes among bots of one pool and one kind of system,
so that a bot can make room for a cache it does not have yet. It only saves time: a bot that says nonsense is passed
over, and what is not known is `UNKNOWN`. The invariant: a look at the fleet for one cache happens once in `KEPT_S`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from isolate.clock import Clock
from swarming.bots import BotInfo
from swarming.fleet import Fleet
from swarming.model import Lists, NamedCache

UNKNOWN = -1
SHARE = 0.95  # of the bots have one that is not larger
KEPT_S = 600.0  # sizes change slowly; 20,000 bots are looked at in some 10 ms
FORGOTTEN_S = 8 * 86_400.0  # after the last bot that had one
MAX_KNOWN = 10_000  # names are chosen by clients
Key = tuple[str, str, str]  # pool, system, name


@dataclass(frozen=True, slots=True)
class _Known:
    """What was found; times are of the monotonic clock."""

    size_bytes: int
    looked_s: float
    seen_s: float


class CacheHints:
    """Sizes of named caches."""

    def __init__(self, fleet: Fleet, clock: Clock) -> None:
        self._fleet, self._clock = fleet, clock
        self._known: dict[Key, _Known] = {}

    def of(self, dimensions: Lists, caches: Iterable[NamedCache]) -> Mapping[str, int]:
        """Return hints, in bytes and by name, for a bot of these dimensions; what is not known is left out."""
        pool, system = _kind(dimensions)
        found = {name: self._hint((pool, system, name)) for name in (cache.name for cache in caches)}
        return {name: size_bytes for name, size_bytes in found.items() if size_bytes != UNKNOWN}

    def _hint(self, key: Key) -> int:
        now_s, known = self._clock.monotonic(), self._known.get(key)
        if known is None or now_s - known.looked_s >= KEPT_S:
            known = self._known[key] = self._look(key, known, now_s)
            while len(self._known) > MAX_KNOWN:
                del self._known[next(iter(self._known))]
        return known.size_bytes

    def _look(self, key: Key, before: _Known | None, now_s: float) -> _Known:
        pool, system, name = key
        sizes = sorted(_sizes(self._fleet.of_pool(pool), system, name))
        if sizes:
            return _Known(sizes[min(int(len(sizes) * SHARE), len(sizes) - 1)], now_s, now_s)
        if before is None or now_s - before.seen_s >= FORGOTTEN_S:
            return _Known(UNKNOWN, now_s, now_s)
        return _Known(before.size_bytes, now_s, before.seen_s)


def _kind(dimensions: Lists) -> tuple[str, str]:
    """Return the pool of a bot, and the most general name of its system, which bots say first."""
    said = dict(dimensions)
    return said.get("pool", ("",))[0], said.get("os", ("",))[0]


def _sizes(bots: Iterable[BotInfo], system: str, name: str) -> Iterator[int]:
    """Yield how large a cache is on each bot of that system; `named_caches` is `{name: [[dir, size], ts]}`."""
    for info in bots:
        said = info.state.get("named_caches")
        if isinstance(said, Mapping) and name in said and _kind(info.dimensions)[1] == system:
            match said[name]:
                case [[_, int(size_bytes)], _] if size_bytes >= 0:
                    yield size_bytes
