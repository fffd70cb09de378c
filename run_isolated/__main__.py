"""`python -m run_isolated`: the command, where its script is not installed."""

from __future__ import annotations

import sys

from run_isolated.cli import main

if __name__ == "__main__":
    sys.exit(main())
