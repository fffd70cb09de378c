"""Both blob APIs over one store on a loopback socket, inside the test's event loop; a client without any comfort."""

from __future__ import annotations

import base64
import io
import json
import socket
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from isolate.cas.digest import Namespace
from isolate.clock import SystemClock
from isolate.monitor import TallyMonitor
from server.auth import LoopbackGuard
from server.cas_api import cas_routes
from server.isolate_admin_v1 import IsolateAdmin
from server.isolate_v1 import IsolateApi
from server.middleware import Gate
from server.stores.blobs import LocalBlobStores
from server.stores.limits import BlobLimits
from server.stores.shared import SharedBlobStores
from server.tickets import TicketOffice
from server.traffic import Traffic
from tests.clock import ManualClock

API = "/_ah/api/isolateservice/v1/"


class Site:
    """One server; `clock` is its own."""

    def __init__(
        self, url: str, session: aiohttp.ClientSession, clock: ManualClock, local: LocalBlobStores, root: Path
    ) -> None:
        self.url, self.session, self.clock, self.local, self.root = url, session, clock, local, root
        self.stores = SharedBlobStores(local)

    async def call(self, name: str, body: Any = None, method: str = "POST") -> tuple[int, Any]:
        """Make a call; returns status and parsed JSON."""
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        async with self.session.request(method, f"{self.url}{API}{name}", data=data) as reply:
            assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
            return reply.status, await reply.json()

    async def ok(self, name: str, body: Any = None) -> Any:
        status, reply = await self.call(name, body)
        assert status == 200, reply
        return reply

    async def refused(self, name: str, body: Any = None) -> tuple[int, str]:
        status, reply = await self.call(name, body)
        return status, reply["error"]["message"]

    async def put(self, url: str, body: Any, **headers: str) -> tuple[int, Mapping[str, str]]:
        data = io.BytesIO(body) if isinstance(body, bytes) and body else body  # what aiohttp prefers for large ones
        async with self.session.put(url, data=data, headers=headers) as reply:
            await reply.read()
            return reply.status, reply.headers

    async def get(self, url: str, method: str = "GET") -> tuple[int, Mapping[str, str], bytes]:
        async with self.session.request(method, url) as reply:
            return reply.status, reply.headers, await reply.read()

    async def lookup(self, namespace: str, *contents: bytes, is_isolated: bool = False) -> list[dict[str, str]]:
        """Return the items of `preupload` for `contents`."""
        items = [item(namespace, content, is_isolated=is_isolated) for content in contents]
        reply = await self.ok("preupload", {"items": items, "namespace": {"namespace": namespace}})
        found: list[dict[str, str]] = reply.get("items", [])
        return found

    async def store(self, namespace: str, content: bytes, encoded: bytes | None = None) -> None:
        """Store one content as a client of 2020 would, unless it is there."""
        for found in await self.lookup(namespace, content):
            data = encode(namespace, content) if encoded is None else encoded
            if url := found.get("gs_upload_url"):
                assert (await self.put(url, data))[0] == 200
                await self.ok("finalize_gs_upload", {"upload_ticket": found["upload_ticket"]})
            else:
                body = {"upload_ticket": found["upload_ticket"], "content": base64.b64encode(data).decode()}
                assert await self.ok("store_inline", body) == {"ok": True}

    async def fetch(self, namespace: str, content: bytes) -> bytes:
        """Return the encoded bytes of a content, however they travel."""
        reply = await self.ok("retrieve", {"digest": hex_of(namespace, content), "namespace": {"namespace": namespace}})
        if "content" in reply:
            return base64.b64decode(reply["content"])
        status, _, data = await self.get(reply["url"])
        assert status == 200
        return data


def hex_of(namespace: str, content: bytes) -> str:
    return Namespace.parse(namespace).blob(content).digest.hex()


def item(namespace: str, content: bytes, *, is_isolated: bool = False) -> dict[str, Any]:
    return {"digest": hex_of(namespace, content), "size": len(content), "is_isolated": is_isolated}


def encode(namespace: str, content: bytes) -> bytes:
    return zlib.compress(content, 7) if namespace.endswith(("-gzip", "-deflate")) else content


@asynccontextmanager
async def isolate_site(
    root: Path,
    limits: BlobLimits | None = None,
    clock: ManualClock | None = None,
    routes: Callable[[SharedBlobStores], list[web.RouteDef]] = lambda _: [],
) -> AsyncIterator[Site]:
    clock = clock or ManualClock()
    root.mkdir(exist_ok=True)
    local = await LocalBlobStores.open(root, clock, TallyMonitor(), limits or BlobLimits(min_free_bytes=0))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        gate = Gate(LoopbackGuard("127.0.0.1", {port}), SystemClock(), "test")
        app = web.Application(middlewares=[gate.middleware()], client_max_size=16 << 20)
        app.on_response_prepare.append(gate.add_headers)
        async with aiohttp.ClientSession() as session:
            site = Site(f"http://127.0.0.1:{port}", session, clock, local, root)
            app.add_routes(cas_routes(site.stores))
            app.add_routes(routes(site.stores))
            office, traffic = TicketOffice.open(root, clock), Traffic.open(root, clock)
            app.add_routes(IsolateApi(site.stores, office, traffic, "0.1.0").routes())
            app.add_routes(IsolateAdmin(site.stores, office, traffic, "0.1.0").routes())
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            try:
                await web.SockSite(runner, listener).start()
                yield site
            finally:
                await runner.cleanup()
                await traffic.save()
                await site.stores.close()
                await local.close()
