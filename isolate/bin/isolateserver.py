#!/usr/bin/env python3
"""The `isolateserver.py` spelling of `isolateserver`; see isolate.py about its neighbours."""

import sys

from isolate.cli import isolateserver_main

if __name__ == "__main__":
    sys.exit(isolateserver_main())
