"""From the place a configuration names to the store that lives there: the one function that knows all backends.

A backend's driver is imported when it is asked for, so that an embedded server needs none.
"""

from __future__ import annotations

from pathlib import Path

from isolate.clock import Clock
from isolate.errors import IndexCorrupt, InvalidInput
from isolate.monitor import Monitor
from server.stores.blobs import LocalBlobStores
from server.stores.limits import BlobLimits


def with_advice(error: IndexCorrupt) -> IndexCorrupt:
    """Return the same error with what to do about it."""
    return IndexCorrupt(f"{error} (swarming-server check --rebuild-index makes it anew, from the packs)")


async def open_blob_stores(
    place: str | Path, clock: Clock, monitor: Monitor, limits: BlobLimits | None = None
) -> LocalBlobStores:
    """Open the blob store at `place`: a directory, or `file:` and one; InvalidInput for another kind of place."""
    text = str(place)
    scheme, separator, rest = text.partition(":")
    is_path = not separator or "/" in scheme
    if not is_path and not (scheme == "file" and rest):
        raise InvalidInput(f"Blobs cannot be kept in {text!r}: expected a directory")
    try:
        return await LocalBlobStores.open(Path(text if is_path else rest), clock, monitor, limits)
    except IndexCorrupt as error:
        raise with_advice(error) from error
