"""What holds for every request, on a real socket with routes that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import unused_port

from isolate.errors import Unavailable
from server.auth import LoopbackGuard
from server.middleware import Gate, reply
from tests.clock import ManualClock


class Site:
    """A small application behind a gate."""

    def __init__(self, gate: Gate, url: str, session: ClientSession) -> None:
        self.gate, self.url, self.session = gate, url, session

    async def get(self, path: str, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        async with self.session.get(self.url + path, headers=named, allow_redirects=False) as response:
            return response.status, response.headers, await response.read()


async def broken(_: web.Request) -> web.StreamResponse:
    raise RuntimeError("the secret is 42")


async def later(_: web.Request) -> web.StreamResponse:
    raise Unavailable("Busy", retry_after_s=7)


async def fine(_: web.Request) -> web.StreamResponse:
    return reply({"path": "caf\udce9"})


async def moved(_: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("/fine")


async def half(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"half")
    raise RuntimeError("in the middle")


async def read(request: web.Request) -> web.StreamResponse:
    return reply({"length": len(await request.read())})


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    port = unused_port()
    gate = Gate(LoopbackGuard("127.0.0.1", {port}), ManualClock(), "test")
    app = web.Application(middlewares=[gate.middleware()], client_max_size=1000)
    app.on_response_prepare.append(gate.add_headers)
    for handler in (broken, later, fine, moved, half):
        app.router.add_get(f"/{handler.__name__}", handler)
    app.router.add_post("/read", read)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    async with ClientSession() as session:
        yield Site(gate, f"http://127.0.0.1:{port}", session)
    await runner.cleanup()


async def test_every_reply_has_its_own_id(site: Site) -> None:
    ids = [(await site.get(path))[1]["X-Request-Id"] for path in ("/fine", "/fine", "/nothing", "/broken", "/moved")]
    assert len(set(ids)) == 5
    assert all(one.startswith("test-") for one in ids)


async def test_our_mistake_is_a_500_without_details_and_in_the_log(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    status, headers, body = await site.get("/broken")
    assert status == 500
    assert body == b'{"error":{"code":"internal","message":"Internal error of the server"}}'
    assert headers["X-Request-Id"] in caplog.text
    assert "the secret is 42" in caplog.text


async def test_errors_of_the_framework_are_json_too(site: Site) -> None:
    status, headers, body = await site.get("/nothing")
    assert (status, headers["Content-Type"]) == (404, "application/json; charset=utf-8")
    assert b'"code":"not_found"' in body
    status, headers, body = await site.get("/read")
    assert (status, headers["Allow"]) == (405, "POST")
    assert headers["Content-Type"].startswith("application/json")
    async with site.session.post(site.url + "/read", data=b"x" * 1001) as response:
        assert response.status == 413
        assert (await response.json())["error"]["message"] == "The body of the request is too large"
    async with site.session.post(site.url + "/read", data=b"x" * 1000) as response:
        assert await response.json() == {"length": 1000}


async def test_what_may_succeed_later_says_when(site: Site) -> None:
    status, headers, body = await site.get("/later")
    assert (status, headers["Retry-After"]) == (503, "7")
    assert b"Busy" in body


async def test_redirects_pass(site: Site) -> None:
    status, headers, _ = await site.get("/moved")
    assert (status, headers["Location"]) == (302, "/fine")


async def test_a_name_that_is_not_utf8_does_not_break_a_reply(site: Site) -> None:
    status, _, body = await site.get("/fine")
    assert (status, body) == (200, b'{"path": "caf\\udce9"}')


async def test_a_reply_that_broke_is_cut_off(site: Site) -> None:
    with pytest.raises(Exception, match=r"payload|Connection|disconnected"):
        await site.get("/half")
    assert (await site.get("/fine"))[0] == 200


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}]
)
async def test_foreign_requests_get_403_wherever_they_go(site: Site, headers: dict[str, str]) -> None:
    for path in ("/fine", "/nothing", "/broken"):
        status, found, body = await site.get(path, **headers)
        assert status == 403
        assert b'"code":"refused"' in body
        assert "Access-Control-Allow-Origin" not in found


async def test_a_closed_gate_answers_503(site: Site) -> None:
    await site.gate.close()
    status, headers, _ = await site.get("/fine")
    assert (status, headers["Retry-After"]) == (503, "1")


async def test_a_client_that_leaves_is_no_error(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(site.url.rpartition(":")[2]))
    host = site.url.removeprefix("http://").encode()
    writer.write(b"POST /read HTTP/1.1\r\nHost: " + host + b"\r\nContent-Length: 500\r\n\r\nhalf")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    del reader
    assert (await site.get("/fine"))[0] == 200
    assert "failed" not in caplog.text
