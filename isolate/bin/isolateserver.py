#!/usr/bin/env python3
"""The `isolateserver.py` spelling of `isolateserver`; see isolate.py about its neighbours."""

import sys

from isolate.entry import isolateserver

if __name__ == "__main__":
    sys.exit(isolateserver())
