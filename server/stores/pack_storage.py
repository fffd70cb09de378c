"""What keeps packs: byte strings in groups, found again by place.

Knows no file. Nobody who uses `PackStorage` may assume that a pack grows, because a store of objects will write one per
group.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from server.stores.pack_scan import Head


class Pack(NamedTuple):
    """A pack's namespace and its name, a UUID of version 7: later packs sort behind earlier ones."""

    namespace: str
    name: str


class Location(NamedTuple):
    """Where a record lies."""

    pack: Pack
    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


class PackJournal(Protocol):
    """Who remembers which packs there are; durable on return."""

    async def announce(self, pack: Pack) -> None:
        """Note a pack that is about to be created."""
        ...

    async def seal(self, pack: Pack) -> None:
        """Note that nothing is appended to a pack any more."""
        ...


class PackStorage(Protocol):
    """Keeps groups of byte strings."""

    async def append(self, namespace: str, group: Sequence[bytes], lane: str = "") -> list[Location]:
        """Store `group` and return where each is, once durable; one call at a time per namespace and lane.

        What is appended in different lanes never shares a pack. Raises NoSpace, Unavailable; then nothing of the group
        is stored.
        """
        ...

    async def withdraw(self, locations: Sequence[Location]) -> None:
        """Give back what an `append` just stored and nobody will ask for."""
        ...

    async def read(self, locations: Sequence[Location]) -> list[bytes | None]:
        """Return the bytes at each location, None where they are gone or cannot be read."""
        ...

    async def lengths(self, packs: Collection[Pack]) -> Mapping[Pack, int]:
        """Return how long each pack is, 0 when it is gone; as seen in the last TRUST_S seconds."""
        ...

    async def retire(self, pack: Pack) -> None:
        """Append no more to `pack`; no append to its namespace may be running."""
        ...

    async def rescue(self, pack: Pack, places: Sequence[tuple[int, int]]) -> bool:
        """Save what is left at each (offset, length) elsewhere before a pack goes; False when it cannot be read.

        What lies behind the end of a pack that was cut off is gone, and nothing can be saved of it.
        """
        ...

    async def heads(self, pack: Pack) -> list[Head]:
        """Return the records of a pack by their headers, up to the first place where there is none."""
        ...

    async def delete(self, pack: Pack) -> None:
        """Remove a whole pack, durably."""
        ...
