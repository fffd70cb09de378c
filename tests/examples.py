"""How many examples a property is tried with: what a run of all tests can afford, or as many as somebody asks for.

`make fuzz` asks for 10,000 of each parser; `TEST_EXAMPLES` in the environment of pytest for any number.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

LEAST = int(os.environ.get("TEST_EXAMPLES", "0"))


def examples(count: int) -> settings:
    """Return the settings of a property that is tried with `count` examples, or more when more are asked for."""
    return settings(max_examples=max(count, LEAST), deadline=None, suppress_health_check=list(HealthCheck))
