"""The listening socket: owned before anything else is opened, listening only when all of it works.

Knows nothing of what is served. The invariant: a port that cannot be had is one clear error.
"""

from __future__ import annotations

import errno
import os
import socket

from aiohttp import web

from isolate.errors import Busy, InvalidInput
from server.auth import url_host

BACKLOG = 1024  # connections that arrive in one moment


def bind(address: str, port: int) -> socket.socket:
    """Return a socket that owns the port and does not listen yet; raises Busy, InvalidInput."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise _bind_problem(error, address, port) from error
    return listener


async def listen(runner: web.AppRunner, listener: socket.socket, address: str, port: int) -> None:
    """Accept connections; raises Busy."""
    try:
        await web.SockSite(runner, listener, backlog=BACKLOG).start()
    except OSError as error:
        raise _bind_problem(error, address, port) from error


def _bind_problem(error: OSError, address: str, port: int) -> Exception:
    place = f"{url_host(address)}:{port}"
    if error.errno == errno.EADDRINUSE:
        return Busy(f"Port {port} of {address} is in use by another program")
    if error.errno in {errno.EACCES, errno.EADDRNOTAVAIL}:
        return InvalidInput(f"Cannot listen on {place}: {os.strerror(error.errno)}")
    return error
