"""The `fields=` mask of the REST API: which parts of a reply the caller wants.

Pure. `a,b(c,d)`, `items/bot_id` and `*` mean what they mean at Google; a mask that cannot be read is ignored, as in
2020, so there is no error here.
"""

from __future__ import annotations

import re
from typing import Any

MAX_MASK_CHARS = 4_000
MAX_DEPTH = 20  # no reply is deeper
_TOKEN = re.compile(r"[A-Za-z0-9_]+|[*,()/]")

Mask = dict[str, Any]  # key -> Mask of what is below; an empty one wants everything


def parse(text: str) -> Mask | None:
    """Return the mask, or None for one that cannot be read."""
    text = text.strip()
    tokens = _TOKEN.findall(text)
    if not text or len(text) > MAX_MASK_CHARS or "".join(tokens) != "".join(text.split()):
        return None
    try:
        mask, rest = _selection(tokens, 0)
    except ValueError:
        return None
    return None if rest else mask


def _selection(tokens: list[str], depth: int) -> tuple[Mask, list[str]]:
    """Return what a comma-separated list selects, and the tokens behind it."""
    if depth > MAX_DEPTH:
        raise ValueError(depth)
    mask: Mask = {}
    while True:
        inner, tokens = _path(tokens, mask, depth)
        if tokens[:1] == ["("]:
            below, tokens = _selection(tokens[1:], depth + 1)
            if tokens[:1] != [")"]:
                raise ValueError(tokens)
            inner.update(below)
            tokens = tokens[1:]
        if tokens[:1] != [","]:
            return mask, tokens
        tokens = tokens[1:]


def _path(tokens: list[str], mask: Mask, depth: int) -> tuple[Mask, list[str]]:
    """Enter `a/b/c` into `mask`; returns the mask below its end, and the tokens behind it."""
    while True:
        if not tokens or tokens[0] in {",", "(", ")", "/"} or depth > MAX_DEPTH:
            raise ValueError(tokens)
        mask, tokens, depth = mask.setdefault(tokens[0], {}), tokens[1:], depth + 1
        if tokens[:1] != ["/"]:
            return mask, tokens
        tokens = tokens[1:]


def apply(mask: Mask, value: Any) -> Any:
    """Return the parts of a reply that `mask` wants."""
    if not mask:
        return value
    if isinstance(value, list):
        return [apply(mask, one) for one in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, inner in value.items():
        below = mask.get(key, mask.get("*"))
        if below is not None:
            found[key] = apply(below, inner)
    return found
