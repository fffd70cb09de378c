"""What every test may count on, wherever the run was started: signals reach the processes it starts.

A shell starts a job in the background with SIGINT ignored, `nohup` with SIGHUP, and children inherit that; commands
would then outlive what the tests send them.
"""

from __future__ import annotations

import signal

from tests.small_disk import disk as disk  # noqa: PLC0414 - the alias says that this is a fixture

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
