"""The transfer API on a loopback socket, inside the test's event loop, behind the server's own middleware."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from isolate.clock import SystemClock
from server.auth import LoopbackGuard
from server.cas_api import CasLimits, cas_routes
from server.middleware import Gate
from server.stores.blobs import LocalBlobStores


@asynccontextmanager
async def serving_cas(stores: LocalBlobStores, limits: CasLimits | None = None) -> AsyncIterator[str]:
    """Serve `stores` on a free port; gives the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        gate = Gate(LoopbackGuard("127.0.0.1", {port}), SystemClock(), "test")
        app = web.Application(middlewares=[gate.middleware()])
        app.on_response_prepare.append(gate.add_headers)
        app.add_routes(cas_routes(stores, limits))
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.SockSite(runner, listener).start()
            yield f"http://127.0.0.1:{port}"
        finally:
            await runner.cleanup()
