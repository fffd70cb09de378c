"""What a run came to, and its JSON form: the `--json` file of the tools of 2020, version 5.

Knows no process, no store and no file system. The invariant: `exit_code` is the command's own and None when it did not
end; whatever went wrong on our side is in `internal_failure`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from isolate.errors import InternalFailure

VERSION = 5
NOT_FINISHED = "Was terminated before completion"


class Stopped(InternalFailure):
    """The caller asked to stop before there was anything to end well."""


@dataclass(frozen=True, slots=True)
class OutputsRef:
    """Where the outputs of a run can be fetched."""

    isolated: str  # the hash, in hex
    isolatedserver: str  # the URL
    namespace: str

    def to_json(self) -> dict[str, object]:
        return {"isolated": self.isolated, "isolatedserver": self.isolatedserver, "namespace": self.namespace}


@dataclass(frozen=True, slots=True)
class Transfer:
    """How inputs came or outputs went; sizes are in bytes, one per item."""

    duration_s: float
    items_cold: Sequence[int] = ()  # had to be transferred
    items_hot: Sequence[int] = ()  # were there already

    def counted(self) -> dict[str, int]:
        """Return how many items and bytes there were, as whoever watches a transfer counts them."""
        cold, hot = self.items_cold, self.items_hot
        fetched = {"fetched_blobs": len(cold), "fetched_bytes": sum(cold)}
        return fetched | {"known_blobs": len(hot), "known_bytes": sum(hot)}

    def after(self, earlier: Transfer) -> Transfer:
        """Return both as one: what is hot only since the earlier one is cold."""
        cold = array("Q", [*earlier.items_cold, *self.items_cold])
        return Transfer(earlier.duration_s + self.duration_s, cold, earlier.items_hot)

    def to_json(self) -> dict[str, object]:
        return {
            "duration": self.duration_s,
            "items_cold": pack_sizes(self.items_cold),
            "items_hot": pack_sizes(self.items_hot),
        }


@dataclass(frozen=True, slots=True)
class Stats:
    """The numbers of a run; a part that did not happen is None."""

    download: Transfer | None = None
    upload: Transfer | None = None
    initial_number_items: int | None = None  # the local cache before the run
    initial_size_bytes: int | None = None
    mapped: str = ""  # for who asked for an overlay: "overlay", or what there was instead, and why

    def to_json(self) -> dict[str, object]:
        download: dict[str, object] = {}
        if self.initial_number_items is not None:
            download |= {"initial_number_items": self.initial_number_items, "initial_size": self.initial_size_bytes}
        if self.download is not None:
            download |= self.download.to_json()
        if self.mapped:
            download["mapped"] = self.mapped
        isolated: dict[str, object] = {"download": download}
        if self.upload is not None:
            isolated["upload"] = self.upload.to_json()
        return {"isolated": isolated}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What `run` returns, whatever happened.

    `exit_code` and `duration_s` are the command's own (negative: the signal that ended it), None when it never ran.
    `inputs_missing` names what the store no longer has: trying again elsewhere is of no use.
    """

    exit_code: int | None = None
    duration_s: float | None = None
    had_hard_timeout: bool = False
    stopped: bool = False  # ended because the caller asked
    internal_failure: str | None = None
    inputs_missing: str | None = None
    outputs: OutputsRef | None = None
    stats: Stats = field(default_factory=Stats)

    def to_json(self) -> dict[str, object]:
        """Return the result as the tools of 2020 write it."""
        return {
            "version": VERSION,
            "exit_code": self.exit_code,
            "duration": self.duration_s,
            "had_hard_timeout": self.had_hard_timeout,
            "internal_failure": self.internal_failure,
            "outputs_ref": None if self.outputs is None else self.outputs.to_json(),
            "cas_output_root": None,
            "stats": self.stats.to_json(),
        }


def pack_sizes(sizes: Iterable[int]) -> str:
    """Return base64(zlib(varint differences of the ascending `sizes`)); "" for none."""
    import base64  # neither is paid for by a run whose result nobody reads

    from isolate.cas.codec import zlib_compress

    packed = bytearray()
    previous = 0
    for size in sorted(sizes):
        delta, previous = size - previous, size
        while delta > 0x7F:
            packed.append(delta & 0x7F | 0x80)
            delta >>= 7
        packed.append(delta)
    return base64.b64encode(zlib_compress(bytes(packed))).decode() if packed else ""
