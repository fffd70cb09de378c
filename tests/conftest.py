"""What every test may count on, wherever the run was started: an interruption reaches the processes it starts.

A shell starts a job in the background with SIGINT ignored, and children inherit that; commands would then outlive the
interruptions the tests send them.
"""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
