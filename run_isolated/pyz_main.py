"""The first file of `run_isolated.pyz` that is read, as its `__main__.py`; `pyz.py` fills in the constants.

Says in one line which Python the archive needs, or starts it. The invariant: any Python from 2.7 on can read this, so
there is no annotation, no format string and no name of a library here that one of them lacks.
"""

import platform
import sys
import sysconfig

PLATFORM = ""
VERSION = ""

if __name__ == "__main__":
    version = ".".join(platform.python_version_tuple()[:2])
    needed = "cpython " + VERSION + " on " + PLATFORM
    found = platform.python_implementation().lower() + " " + version + " on " + sysconfig.get_platform()
    if found != needed:
        sys.stderr.write("run_isolated: error: this archive is for " + needed + "; this is " + found + "\n")
        sys.exit(1)
    sys.exit(__import__("pyz_start").main())
