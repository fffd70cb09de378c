"""`python -m run_isolated`: the command, where its script is not installed."""

from __future__ import annotations

import sys

from isolate.entry import run_isolated

if __name__ == "__main__":
    sys.exit(run_isolated())
