"""Performance stats of a run, from what the bot sent to what clients see.

Bots send lists of item sizes packed as 2020 does (ascending, delta, varint, zlib, base64); replies repeat them and add
counts derived from them. A list that cannot be unpacked is repeated without counts: stats are never worth an error.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from isolate.cas.codec import zlib_decompress
from isolate.errors import IsolateError
from swarming.wire import compact, str64

MAX_UNPACKED_BYTES = 10 << 20  # two million items
OPERATIONS = {"isolated_download": "download", "isolated_upload": "upload"}


def performance_stats(stats: Mapping[str, Any]) -> dict[str, Any]:
    """Return a PerformanceStats."""
    sent = stats.get("isolated_stats")
    operations = sent if isinstance(sent, Mapping) else {}
    body: dict[str, Any] = {"bot_overhead": stats.get("bot_overhead")}
    for name, key in OPERATIONS.items():
        body[name] = _operation(operations.get(key))
    return compact(body)


def _operation(sent: object) -> dict[str, Any]:
    if not isinstance(sent, Mapping):
        return {}
    body: dict[str, Any] = {"duration": sent.get("duration")}
    for key in ("initial_number_items", "initial_size"):
        number = sent.get(key)
        body[key] = str64(number) if isinstance(number, int) else None
    for kind in ("cold", "hot"):
        packed = sent.get(f"items_{kind}")
        if isinstance(packed, str) and packed:
            items = unpack(packed)
            body[f"items_{kind}"] = packed
            body[f"num_items_{kind}"] = str64(len(items) or None)
            body[f"total_bytes_items_{kind}"] = str64(sum(items) if items else None)
    return compact(body)


def unpack(packed: str) -> list[int]:
    """Return the sizes in a packed list; empty when it is none."""
    try:
        data = zlib_decompress(base64.b64decode(packed, validate=True), MAX_UNPACKED_BYTES)
    except (binascii.Error, ValueError, IsolateError):
        return []
    items, current, value, shift = [], 0, 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            current += value
            items.append(current)
            value = shift = 0
    return items
