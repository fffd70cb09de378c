"""What 2020's isolate server has for those who look after it: statistics, a purge, reports of crashes."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from isolate.cas.digest import Namespace
from server.traffic import FIELDS, FILE, MAX_KEPT, Resolution, Traffic
from tests.clock import ManualClock
from tests.isolate_server import Site, hex_of, isolate_site
from tests.stored import put

STATS = "/prpc/isolated.v1.Isolated/Stats"
SMALL, BIG = b"small", bytes(range(256)) * 20


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with isolate_site(tmp_path) as site:
        yield site


async def post(site: Site, path: str, body: Any) -> tuple[int, Any, Any]:
    async with site.session.post(site.url + path, data=json.dumps(body).encode()) as reply:
        return reply.status, await reply.json(), reply.headers


async def measured(site: Site, **query: Any) -> list[dict[str, Any]]:
    status, reply, headers = await post(site, STATS, {"resolution": "MINUTE", "page_size": 10} | query)
    assert (status, headers["X-Prpc-Grpc-Code"]) == (200, "0")
    found: list[dict[str, Any]] = reply.get("measurements", [])
    return found


async def test_what_the_api_did_is_counted(site: Site) -> None:
    assert await measured(site) == []
    await site.store("default", SMALL)  # a look-up and an upload
    await site.store("default", BIG)  # the same with a bulk URL, and its end
    for content in (SMALL, BIG):
        assert await site.fetch("default", content) == content
    assert (await site.call("retrieve", {"digest": "f" * 40}))[0] == 404
    (one,) = await measured(site)
    assert one == {
        "start_time": "2023-11-14T22:13:00Z", "uploads": "2", "uploads_bytes": str(len(SMALL) + len(BIG)),
        "downloads": "2", "downloads_bytes": str(len(SMALL) + len(BIG)), "contains_requests": "2",
        "contains_lookups": "2", "requests": "9", "failures": "0",
    }  # fmt: skip
    assert [found["requests"] for found in await measured(site, resolution="DAY")] == ["9"]


async def test_statistics_come_newest_first_and_up_to_a_time(site: Site) -> None:
    for _ in range(3):
        await site.call("server_details", {})
        site.clock.advance(60)
    starts = [found["start_time"][11:16] for found in await measured(site)]
    assert starts == ["22:15", "22:14", "22:13"]
    assert len(await measured(site, page_size=2)) == 2
    for latest in ("2023-11-14T22:14:30Z", "2023-11-14T23:14:30+01:00", "2023-11-14T22:14:30"):
        assert len(await measured(site, latest_time=latest)) == 2
    assert len(await measured(site, resolution="HOUR")) == 1


@pytest.mark.parametrize(
    "query",
    [{}, {"resolution": "WEEK"}, {"resolution": 1}, {"page_size": 0}, {"page_size": 1001}, {"page_size": "x"},
     {"latest_time": "soon"}],
)  # fmt: skip
async def test_questions_that_make_no_sense(site: Site, query: dict[str, Any]) -> None:
    body = {"resolution": "DAY", "page_size": 1} | query if query else {}
    status, reply, headers = await post(site, STATS, body)
    assert (status, headers["X-Prpc-Grpc-Code"], bool(reply["error"]["message"])) == (400, "3", True)


async def test_counters_outlive_the_process_and_are_bounded(tmp_path: Path) -> None:
    clock = ManualClock()
    traffic = Traffic.open(tmp_path, clock)
    for _ in range(MAX_KEPT + 5):
        traffic.count(uploads=1)
        clock.advance(60)
    await traffic.save()
    again = Traffic.open(tmp_path, clock)
    found = again.measurements(Resolution.MINUTE, None, 2 * MAX_KEPT)
    assert len(found) == MAX_KEPT
    assert found == traffic.measurements(Resolution.MINUTE, None, 2 * MAX_KEPT)
    days = again.measurements(Resolution.DAY, None, 9)
    assert sum(counters[FIELDS.index("uploads")] for _, counters in days) == MAX_KEPT + 5
    for damage in (b"", b"[]", b'{"MINUTE":{"0":[1]}}', b'{"MINUTE":3}'):
        (tmp_path / FILE).write_bytes(damage)
        assert Traffic.open(tmp_path, clock).measurements(Resolution.DAY, None, 9) == []


async def test_a_disk_that_takes_no_statistics_is_survived(tmp_path: Path) -> None:
    traffic = Traffic(ManualClock(), tmp_path / "none" / "file")
    traffic.count(requests=1)
    await traffic.save()
    (tmp_path / "none").mkdir()
    await traffic.save()
    assert (tmp_path / "none" / "file").exists()


async def xsrf_token(site: Site) -> str:
    _, _, page = await site.get(f"{site.url}/restricted/purge")
    found = re.search(r'name="xsrf_token" type="hidden" value="([^"]+)"', page.decode())
    assert found is not None
    return found[1]


async def purge(site: Site, **fields: str) -> int:
    async with site.session.post(f"{site.url}/restricted/purge", data=fields) as reply:
        assert reply.content_type == "text/html"
        return reply.status


@pytest.mark.parametrize("content", [SMALL, BIG])
async def test_a_purged_blob_is_missing_and_can_be_stored_again(site: Site, content: bytes) -> None:
    await site.store("default", content)
    await put(site.stores.shared(Namespace.parse("default")), [content])  # in both forms
    fields = {"namespace": "default", "digest": hex_of("default", content), "xsrf_token": await xsrf_token(site)}
    assert await purge(site, **fields) == 200
    assert len(await site.lookup("default", content)) == 1
    assert await purge(site, **fields) == 404
    await site.store("default", content)
    assert await site.fetch("default", content) == content


async def test_a_purge_in_a_namespace_of_ours(site: Site) -> None:
    namespace = Namespace.parse("blake3-zstd")
    store = site.stores.namespace(namespace)
    await put(store, [SMALL, BIG])
    token = await xsrf_token(site)
    assert await purge(site, namespace=namespace.name, digest=hex_of(namespace.name, SMALL), xsrf_token=token) == 200
    assert await store.missing([namespace.blob(SMALL), namespace.blob(BIG)]) == [namespace.blob(SMALL)]


async def test_a_purge_needs_a_token_and_a_blob(site: Site) -> None:
    await site.store("default", SMALL)
    (upload,) = await site.lookup("default", BIG)
    digest = hex_of("default", SMALL)
    for token in ("", "x", upload["upload_ticket"]):
        assert await purge(site, namespace="default", digest=digest, xsrf_token=token) == 403
    token = await xsrf_token(site)
    assert await purge(site, namespace="default", digest="x", xsrf_token=token) == 400
    assert await purge(site, namespace="a/b", digest=digest, xsrf_token=token) == 400
    assert await site.lookup("default", SMALL) == []


async def test_crashes_of_clients_are_kept_for_a_reader(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    status, reply, _ = await post(site, "/ereporter2/api/v1/on_error", {"v": "1", "r": {"message": "<b>\nat 7"}})
    assert (status, reply["url"]) == (200, f"{site.url}/restricted/ereporter2/errors/{reply['id']}")
    assert f"error {reply['id']}: '<b>\\nat 7'" in caplog.text
    status, _, page = await site.get(reply["url"])
    assert (status, b"&lt;b&gt;" in page, b"<b>" in page) == (200, True, False)
    assert (await site.get(f"{site.url}/restricted/ereporter2/errors/none"))[0] == 404
    bad: list[Any] = [{}, {"v": "2", "r": {}}, {"v": "1", "r": "x"}, []]
    for body in bad:
        assert (await post(site, "/ereporter2/api/v1/on_error", body))[0] == 400
    for _ in range(100):
        await post(site, "/ereporter2/api/v1/on_error", {"v": "1", "r": {}})
    assert (await site.get(reply["url"]))[0] == 404


async def test_limits_are_shown(site: Site) -> None:
    status, _, page = await site.get(f"{site.url}/restricted/config")
    assert (status, b"168 hours" in page, b"--max-size" in page) == (200, True, True)
    with pytest.raises(aiohttp.ClientResponseError, match="405"):
        await site.session.post(f"{site.url}/restricted/config", raise_for_status=True)
