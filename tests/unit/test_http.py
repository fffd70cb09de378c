"""The HTTP client against a real server on a loopback socket."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import ClientConnectionResetError, web

from isolate import errors
from isolate.http import HttpClient, RetryPolicy
from isolate.monitor import TallyMonitor
from tests.loopback import SkippingClock, serving, unused_url

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
POLICY = RetryPolicy(attempts=3, total_s=60, first_delay_s=1)


def at(handler: Handler) -> list[web.RouteDef]:
    return [web.route("*", "/call", handler)]


def client_of(
    url: str, *, clock: SkippingClock | None = None, monitor: TallyMonitor | None = None, connections: int = 8
) -> HttpClient:
    return HttpClient(
        url,
        user_agent="test/1",
        connections=connections,
        clock=clock or SkippingClock(),
        monitor=monitor,
        policy=POLICY,
        draw=lambda: 0.5,
    )


async def echo(request: web.Request) -> web.Response:
    body = await request.read()
    return web.json_response({
        "method": request.method, "bytes": len(body), "query": dict(request.query),
        "type": request.headers.get("Content-Type"),
        "agent": request.headers.get("User-Agent"), "encoding": request.headers.get("Accept-Encoding"),
    })  # fmt: skip


class Scripted:
    """Answers with each of the given statuses in turn, then 200."""

    def __init__(self, *statuses: int, headers: dict[str, str] | None = None) -> None:
        self.requests = 0
        self._statuses = list(statuses)
        self._headers = headers

    async def answer(self, request: web.Request) -> web.Response:
        self.requests += 1
        await request.read()
        status = self._statuses.pop(0) if self._statuses else 200
        return web.json_response({"error": {"message": "As told"}}, status=status, headers=self._headers)


# JSON calls


async def test_json_both_ways() -> None:
    async with serving(at(echo)) as url, client_of(url) as client:
        said = await client.json("POST", "/call", body={"a": "ü"}, params={"q": "1"})
    assert said == {
        "method": "POST", "bytes": len(b'{"a": "\\u00fc"}'), "type": "application/json", "query": {"q": "1"},
        "agent": "test/1", "encoding": "identity",
    }  # fmt: skip


async def test_an_empty_reply_is_none() -> None:
    async def empty(_: web.Request) -> web.Response:
        return web.Response(status=204)

    async with serving(at(empty)) as url, client_of(url) as client:
        assert await client.json("DELETE", "/call") is None


async def test_a_reply_that_is_no_json_is_refused() -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>Please log in</html>")

    async with serving(at(page)) as url, client_of(url) as client:
        with pytest.raises(errors.Refused, match="does not answer in JSON"):
            await client.json("GET", "/call")


async def test_redirections_are_not_followed() -> None:
    async def elsewhere(_: web.Request) -> web.Response:
        raise web.HTTPFound("https://example.invalid/")

    async with serving(at(elsewhere)) as url, client_of(url) as client:
        with pytest.raises(errors.Refused) as caught:
            await client.json("GET", "/call")
    assert caught.value.status == 302


async def test_a_base_path_is_kept() -> None:
    async with serving([web.get("/base/call", echo)]) as url, client_of(f"{url}/base/") as client:
        assert (await client.json("GET", "/call"))["method"] == "GET"


# Retries


@pytest.mark.parametrize(("failures", "requests"), [(0, 1), (1, 2), (2, 3)])
async def test_what_is_unavailable_is_asked_again(failures: int, requests: int) -> None:
    handler, monitor = Scripted(*[503] * failures), TallyMonitor()
    async with serving(at(handler.answer)) as url, client_of(url, monitor=monitor) as client:
        await client.json("POST", "/call", body={})
    assert handler.requests == requests
    assert monitor.counters["retried_requests"] == failures


async def test_attempts_end() -> None:
    handler = Scripted(*[503] * 9)
    async with serving(at(handler.answer)) as url, client_of(url) as client:
        with pytest.raises(errors.Unavailable, match=r"answered 503: As told"):
            await client.json("GET", "/call")
        assert handler.requests == 3
        with pytest.raises(errors.Unavailable):
            await client.json("GET", "/call", attempts=1)
    assert handler.requests == 4


async def test_the_server_says_when_to_come_back() -> None:
    clock = SkippingClock()
    async with (
        serving(at(Scripted(503, headers={"Retry-After": "20"}).answer)) as url,
        client_of(url, clock=clock) as client,
    ):
        await client.json("GET", "/call")
    assert clock.slept == [20.5]


@pytest.mark.parametrize("value", ["soon", "Wed, 21 Oct 2015 07:28:00 GMT", "", "nan", "inf", "-5"])
async def test_other_spellings_of_retry_after_do_no_harm(value: str) -> None:
    clock = SkippingClock()
    async with (
        serving(at(Scripted(503, headers={"Retry-After": value}).answer)) as url,
        client_of(url, clock=clock) as client,
    ):
        await client.json("GET", "/call")
    assert 0 < clock.slept[0] <= 1


async def test_a_refusal_is_final() -> None:
    handler = Scripted(403)
    async with serving(at(handler.answer)) as url, client_of(url) as client:
        with pytest.raises(errors.Refused, match=r"^As told$"):
            await client.json("GET", "/call")
    assert handler.requests == 1


# Dead and dying servers


async def test_a_dead_server_is_one_clear_line() -> None:
    url, clock = unused_url(), SkippingClock()
    async with client_of(url, clock=clock) as client:
        with pytest.raises(errors.Unavailable) as caught:
            await client.json("GET", "/call")
    assert str(caught.value) == f"Cannot reach {url}: connection refused"
    assert len(clock.slept) == 2


async def test_plain_http_is_told_from_a_certificate_nobody_trusts() -> None:
    async with serving(at(echo)) as url:
        secure = url.replace("http:", "https:")
        async with client_of(secure) as client:
            with pytest.raises(errors.Refused) as refused:
                await client.json("GET", "/call")
    assert str(refused.value) == f"{secure} does not speak HTTPS: is it {url}?"


async def test_a_server_that_hangs_up() -> None:
    async def hang_up(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with serving(at(hang_up)) as url, client_of(url) as client:
        with pytest.raises(errors.Unavailable, match=url):
            await client.json("POST", "/call", body={})


async def cut_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b"half of it")
    assert request.transport is not None
    request.transport.close()
    return response


async def test_a_reply_that_is_cut_off() -> None:
    async with serving(at(cut_off)) as url, client_of(url) as client:
        async with client.request("GET", "/call") as response:
            pieces = response.chunks()
            assert await anext(pieces) == b"half of it"
            with pytest.raises(errors.Unavailable, match="cut off"):
                await anext(pieces)
        with pytest.raises(errors.Unavailable, match="cut off"):
            await client.json("GET", "/call", attempts=1)


async def silence(_: web.Request) -> web.Response:
    await asyncio.Event().wait()
    return web.Response()


async def test_a_silent_server_is_given_up() -> None:
    async with serving(at(silence)) as url, client_of(url) as client:
        with pytest.raises(errors.Unavailable, match="did not answer in time"):
            await client.json("GET", "/call", timeout_s=0.05, attempts=1)
        with pytest.raises(errors.Unavailable, match="did not answer in time"):
            async with client.request("GET", "/call", timeout_s=0.05, attempts=1):
                pytest.fail("there is no reply")


# Streamed bodies


async def megabytes(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield bytes(1 << 20)


async def test_bodies_stream() -> None:
    async with (
        serving(at(echo)) as url,
        client_of(url) as client,
        client.request("POST", "/call", data=lambda: megabytes(20)) as response,
    ):
        assert (response.status, (await response.json())["bytes"]) == (200, 20 << 20)


@pytest.mark.parametrize("size", [0, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 5 << 20])
async def test_bodies_of_any_size(size: int) -> None:
    async with (
        serving(at(echo)) as url,
        client_of(url) as client,
        client.request("POST", "/call", data=bytes(size)) as response,
    ):
        assert (await response.json())["bytes"] == size


async def test_an_answer_in_the_middle_of_an_upload_is_heard() -> None:
    async def refuse(request: web.Request) -> web.Response:
        await request.content.readany()
        return web.json_response({"error": {"message": "Enough"}}, status=413)

    async with serving(at(refuse)) as url, client_of(url) as client:
        with pytest.raises(errors.TooLarge, match="Enough"):
            async with client.request("POST", "/call", data=lambda: megabytes(30)):
                pytest.fail("it was refused")
        with pytest.raises(errors.TooLarge, match="Enough"):
            await client.json("POST", "/call", body="x")  # the client is still usable


@pytest.mark.parametrize(
    "error", [OSError("Disk gone"), TimeoutError("Slow disk"), ValueError("Odd"), errors.FileChanged("f")]
)
async def test_what_a_body_raises_arrives_unchanged(error: Exception) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"begin"
        raise error

    async def drain(request: web.Request) -> web.Response:
        with contextlib.suppress(ConnectionError):  # the client hangs up
            await request.read()
        return web.Response()

    async with serving(at(drain)) as url, client_of(url) as client:
        with pytest.raises(type(error)) as caught:
            async with client.request("POST", "/call", data=body):
                pytest.fail("there is no reply")
    assert caught.value is error


async def test_a_body_is_started_once_for_each_attempt() -> None:
    started = 0

    def body() -> AsyncIterator[bytes]:
        nonlocal started
        started += 1
        return megabytes(1)

    handler = Scripted(503, 503)
    async with serving(at(handler.answer)) as url, client_of(url) as client:
        async with client.request("POST", "/call", data=body) as response:
            assert response.status == 200
        assert (started, handler.requests) == (3, 3)


async def test_a_body_that_cannot_be_repeated_is_not() -> None:
    handler, begun = Scripted(503), False

    async def body() -> AsyncIterator[bytes]:
        nonlocal begun
        begun = True
        yield b"once"

    async with serving(at(handler.answer)) as url, client_of(url) as client:
        with pytest.raises(errors.Unavailable):
            async with client.request("POST", "/call", data=body, may_retry=lambda: not begun):
                pytest.fail("there is no good reply")
    assert handler.requests == 1


async def test_no_body_is_begun_towards_a_dead_server() -> None:
    async def body() -> AsyncIterator[bytes]:
        pytest.fail("nobody listens")
        yield b""

    clock = SkippingClock()
    async with client_of(unused_url(), clock=clock) as client:
        with pytest.raises(errors.Unavailable, match="connection refused"):
            async with client.request("POST", "/call", data=body):
                pytest.fail("nobody answers")
    assert len(clock.slept) == 2


async def test_a_server_that_stops_reading_is_given_up() -> None:
    async def deaf(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    async with serving(at(deaf)) as url, client_of(url) as client:
        with pytest.raises(errors.Unavailable, match="did not answer in time"):
            async with client.request("POST", "/call", data=lambda: megabytes(200), timeout_s=0.2, attempts=1):
                pytest.fail("there is no reply")


async def test_the_time_a_body_takes_does_not_count() -> None:
    patience_s = 0.05

    async def slow() -> AsyncIterator[bytes]:
        yield b"a"
        done = asyncio.Event()
        asyncio.get_running_loop().call_later(3 * patience_s, done.set)
        await done.wait()
        yield b"b"

    async with (
        serving(at(echo)) as url,
        client_of(url) as client,
        client.request("POST", "/call", data=slow, timeout_s=patience_s, attempts=1) as response,
    ):
        assert (await response.json())["bytes"] == 2


# Replies


async def test_statuses_of_interest_are_handed_over() -> None:
    async with serving(at(Scripted(409, 409).answer)) as url, client_of(url) as client:
        async with client.request("GET", "/call", also={409}) as response:
            error, problem = await response.problem()
        assert (response.status, str(error), problem) == (409, "As told", {"message": "As told"})
        with pytest.raises(errors.Stale):
            async with client.request("GET", "/call"):
                pytest.fail("409 is an error")


@pytest.mark.parametrize(("limit", "fits"), [(999, False), (1000, True), (1001, True)])
async def test_a_reply_has_a_limit(limit: int, fits: bool) -> None:
    async def thousand(_: web.Request) -> web.Response:
        return web.Response(body=bytes(1000))

    async with serving(at(thousand)) as url, client_of(url) as client, client.request("GET", "/call") as response:
        if fits:
            assert await response.read(limit) == bytes(1000)
        else:
            with pytest.raises(errors.TooLarge):
                await response.read(limit)


async def test_leaving_a_reply_early_frees_its_connection() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # the client hangs up
            while True:
                await response.write(bytes(1 << 16))
        return response

    routes = [*at(endless), web.get("/echo", echo)]
    async with serving(routes) as url, client_of(url, connections=1) as client:
        for _ in range(3):
            async with client.request("GET", "/call") as response:
                assert await anext(response.chunks())
        assert (await client.json("GET", "/echo"))["method"] == "GET"


def test_certificates_are_read_for_who_needs_them_only() -> None:
    """They take a tenth of the time of a small run."""
    script = """
import asyncio, ssl
read, real = [], ssl.SSLContext.set_default_verify_paths  # which all ways to read them lead to
ssl.SSLContext.set_default_verify_paths = lambda context: (read.append(1), real(context))
from isolate.http import HttpClient
async def opened(url):
    async with HttpClient(url, user_agent="test"):
        return len(read)
print(len(read), asyncio.run(opened("http://127.0.0.1:9")), asyncio.run(opened("https://127.0.0.1:9")))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0", "1"]


async def test_a_connection_lost_behind_a_body_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async with HttpClient("http://127.0.0.1:1", user_agent="test"):
        loop = asyncio.get_running_loop()
        message = "Task exception was never retrieved"
        loop.call_exception_handler({"message": message, "exception": ClientConnectionResetError("closing")})
        assert caplog.messages == []
        loop.call_exception_handler({"message": message, "exception": ValueError("ours")})
        assert caplog.messages == [message]
