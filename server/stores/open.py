"""From the place a configuration names to the store that lives there: the one function that knows all backends.

A backend's driver is imported when it is asked for, so that an embedded server needs none.
"""

from __future__ import annotations

from pathlib import Path

from isolate.clock import Clock
from isolate.errors import InvalidInput
from isolate.monitor import Monitor
from server.stores.blobs import LocalBlobStores
from server.stores.limits import BlobLimits


async def open_blob_stores(
    place: str | Path, clock: Clock, monitor: Monitor, limits: BlobLimits | None = None
) -> LocalBlobStores:
    """Open the blob store at `place`: a directory, or `file:` and one; InvalidInput for another kind of place."""
    text = str(place)
    scheme, separator, rest = text.partition(":")
    if not separator or "/" in scheme:
        return await LocalBlobStores.open(Path(text), clock, monitor, limits)
    if scheme == "file" and rest:
        return await LocalBlobStores.open(Path(rest), clock, monitor, limits)
    raise InvalidInput(f"Blobs cannot be kept in {text!r}: expected a directory")
