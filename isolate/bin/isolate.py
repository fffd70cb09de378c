#!/usr/bin/env python3
"""The `isolate.py` spelling of `isolate`.

Installed in the folder of the commands, it would shadow the package `isolate` for every script there, because that
folder comes first on their path. Imported instead of run, it therefore steps aside: it puts the real package in its own
place and the import goes on as if this file did not exist.
"""

import os
import sys

_NAME = "isolate"


def _step_aside() -> None:
    import importlib

    here = os.path.dirname(os.path.realpath(__file__))
    path = list(sys.path)
    sys.path[:] = [entry for entry in path if os.path.realpath(entry or ".") != here]
    sys.modules.pop(_NAME, None)
    try:
        sys.modules[_NAME] = importlib.import_module(_NAME)
    finally:
        sys.path[:] = path


if __name__ == "__main__":
    try:
        _step_aside()
        from isolate.entry import isolate

        sys.exit(isolate())
    except KeyboardInterrupt:  # before the door was there to be quiet about it
        sys.exit(130)
else:
    _step_aside()
