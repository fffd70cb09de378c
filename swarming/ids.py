"""Task and run ids: 2020's packed form, to and from numbers.

A number holds milliseconds since 2010, 16 random bits and the format's version (1); its hex form gets one more digit:
`0` is the task, `1` and `2` are its runs. Draws no randomness and reads no clock itself. An id that parses is valid.
"""

from __future__ import annotations

import re
from functools import lru_cache

from isolate.errors import InvalidInput

EPOCH_S = 1_262_304_000  # 2010-01-01T00:00:00Z
MAX_TRIES = 2  # the last digit of a run id is 1 or 2
_FORM = re.compile(r"(?:[1-7][0-9a-f]{14}|[1-9a-f][0-9a-f]{0,13})?1[012]")  # at most 63 bits, no leading zero


def number(now_s: float, random16: int) -> int:
    """Return the number of a task created at `now_s` (epoch seconds)."""
    milliseconds = max(0, int((now_s - EPOCH_S) * 1000))
    return (milliseconds & ((1 << 43) - 1)) << 20 | (random16 & 0xFFFF) << 4 | 1


def pack(value: int, try_number: int = 0) -> str:
    """Return the id of a task (`try_number` 0) or of one of its runs."""
    return f"{value:x}{try_number:x}"


@lru_cache(maxsize=4096)  # the same few ids are taken apart again and again while their tasks run
def unpack(text: str) -> tuple[int, int]:
    """Return (number, try number) of a task or run id; raises InvalidInput."""
    if not _FORM.fullmatch(text):
        raise InvalidInput(f"{text} is an invalid key.")
    return int(text[:-1], 16), int(text[-1])


def run_id(task_id: str, try_number: int) -> str:
    """Return the run id of a try of `task_id`."""
    return f"{task_id[:-1]}{try_number:x}"


def task_id(run_or_task_id: str) -> str:
    """Return the task id a run id belongs to; raises InvalidInput."""
    unpack(run_or_task_id)
    return f"{run_or_task_id[:-1]}0"
