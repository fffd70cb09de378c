"""What the server asks of the system and of the interpreter it runs in, before it serves.

Knows nothing of what is served. Every wish may be refused or be impossible here; the server then works, with less.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Callable


def raise_file_limit() -> None:
    """Allow as many open files as the system grants: each waiting bot is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # macOS grants less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory where the extra `fast` is installed, None for the standard loop."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
