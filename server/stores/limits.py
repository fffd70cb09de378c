"""How much the blob store keeps, how long, and how much of it may be in flight: numbers, nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from isolate.cas.digest import Namespace
from isolate.errors import InvalidInput

MIN_PROMISE_S = 3600.0  # an archive of a large tree takes minutes; below an hour the promise protects nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobLimits:
    """Limits of one blob store; raises InvalidInput for a promise below an hour."""

    promised_s: float = 6 * 3600.0  # what was asked for is never evicted within this
    kept_s: float = 7 * 86400.0  # what nobody asks for may go after this
    temporary_kept_s: float = 86400.0  # the same, in namespaces whose name begins with `temporary`
    max_bytes: int | None = None  # of all packs together; beyond, uploads get 507
    min_free_bytes: int = 256 << 20  # left on the disk for indexes, tasks and logs
    max_blob_bytes: int = 32 << 30
    ingest_bytes: int = 64 << 20  # blocks being verified or committed, encoded and plain
    egress_bytes: int = 64 << 20  # records on their way to readers

    def __post_init__(self) -> None:
        if not MIN_PROMISE_S <= self.promised_s <= min(self.kept_s, self.temporary_kept_s):
            raise InvalidInput("Promised time must be at least an hour and at most the time unused blobs are kept")

    def kept_in_s(self, namespace: Namespace) -> float:
        """Return how long unused blobs of `namespace` are kept."""
        return self.kept_in_name_s(namespace.name)

    def kept_in_name_s(self, name: str) -> float:
        """The same for a name as the index has it: old bytes lie beside their namespace, under a name of their own."""
        return self.temporary_kept_s if name.startswith("temporary") else self.kept_s
