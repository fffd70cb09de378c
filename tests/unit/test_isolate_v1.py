"""The isolate API of 2020 on a socket: its calls, what they refuse, and who may make them."""

from __future__ import annotations

import base64
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from isolate.cas.digest import Namespace
from server.discovery import document
from server.isolate_table import ISOLATE
from server.tickets import LIFETIME_S
from tests.isolate_server import API, Site, encode, hex_of, isolate_site, item
from tests.unit.old_client import BIG, HUGE, NAMESPACES, OK, SMALL, inline, of, ticket


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with isolate_site(tmp_path) as site:
        yield site


# The calls


async def test_server_details_is_answered_to_both_methods(site: Site) -> None:
    for method in ("GET", "POST"):
        assert await site.call("server_details", None if method == "GET" else {}, method) == (
            200,
            {"server_version": "0.1.0"},
        )
    async with site.session.get(site.url + "/api/isolateservice/v1/server_details") as reply:
        assert (reply.status, await reply.json()) == (200, {"server_version": "0.1.0"})


@pytest.mark.parametrize("namespace", NAMESPACES)
async def test_a_blob_goes_in_and_comes_out_byte_for_byte(site: Site, namespace: str) -> None:
    for content in (b"", SMALL, BIG):
        data = zlib.compress(content, 1) if encode(namespace, b"") else content  # not as we would encode it
        await site.store(namespace, content, data)
        assert await site.fetch(namespace, content) == data
        assert await site.lookup(namespace, content) == []
    assert await site.ok("preupload", of(namespace, items=[item(namespace, BIG)])) == {}


async def test_the_order_and_the_index_are_those_of_the_request(site: Site) -> None:
    await site.store("default", b"1")
    found = await site.lookup("default", b"0", b"1", b"2", b"1", b"4")
    assert [one["index"] for one in found] == ["0", "2", "4"]
    assert all(one["upload_ticket"] for one in found)


@pytest.mark.parametrize(
    ("size", "is_isolated", "bulk"),
    [(500, False, False), (501, False, True), (501, True, False), (512_000, True, False), (512_001, True, True)],
)
async def test_what_goes_in_bulk(site: Site, size: int, is_isolated: bool, bulk: bool) -> None:
    found = await ticket(site, "default-gzip", bytes(size), is_isolated=is_isolated)
    assert ("gs_upload_url" in found) is bulk


async def test_an_isolated_of_middle_size_comes_back_within_json(site: Site) -> None:
    content = BIG
    found = await ticket(site, "default-gzip", content, is_isolated=True)
    assert await site.ok("store_inline", inline(found, zlib.compress(content, 9))) == OK
    reply = await site.ok("retrieve", of("default-gzip", digest=hex_of("default-gzip", content)))
    assert reply == {"content": base64.b64encode(zlib.compress(content, 9)).decode()}


async def test_numbers_may_be_strings_and_unknown_fields_are_ignored(site: Site) -> None:
    body = {
        "items": [{"digest": hex_of("default", SMALL), "size": "6", "is_isolated": None, "colour": "red"}],
        "namespace": {"namespace": None, "digest_hash": 5},
        "more": [],
    }
    (found,) = (await site.ok("preupload", body))["items"]
    await site.ok("store_inline", inline(found, SMALL))
    reply = await site.ok("retrieve", {"digest": hex_of("default", SMALL), "offset": "2"})
    assert base64.b64decode(reply["content"]) == SMALL[2:]


@pytest.mark.parametrize("spelling", ["standard", "urlsafe", "unpadded"])
async def test_every_spelling_of_base64(site: Site, spelling: str) -> None:
    content = b"\xfb\xff\xfe?>"
    text = base64.b64encode(content).decode()
    text = text.replace("+", "-").replace("/", "_") if spelling == "urlsafe" else text
    text = text.rstrip("=") if spelling == "unpadded" else text
    found = await ticket(site, "default", content)
    assert await site.ok("store_inline", {"upload_ticket": found["upload_ticket"], "content": text}) == OK
    assert await site.fetch("default", content) == content


async def test_the_empty_blob_may_be_sent_as_nothing_and_is_always_there(site: Site) -> None:
    empty = await site.ok("retrieve", of("default-gzip", digest=hex_of("default-gzip", b"")))
    assert zlib.decompress(base64.b64decode(empty["content"])) == b""
    found = await ticket(site, "default-gzip", b"")
    assert await site.ok("store_inline", inline(found, b"")) == OK
    assert await site.ok("retrieve", of("default-gzip", digest=hex_of("default-gzip", b""))) == {"content": ""}


async def test_offsets(site: Site) -> None:
    await site.store("default", SMALL)
    digest = hex_of("default", SMALL)
    for offset in range(len(SMALL) + 1):
        reply = await site.ok("retrieve", of("default", digest=digest, offset=offset))
        assert base64.b64decode(reply["content"]) == SMALL[offset:]
    await site.store("default", BIG)
    for content, wrong in ((SMALL, -1), (SMALL, len(SMALL) + 1), (BIG, -1), (BIG, len(BIG) + 1)):
        status, message = await site.refused("retrieve", of("default", digest=hex_of("default", content), offset=wrong))
        assert (status, message) == (
            400,
            f"Invalid offset {wrong}. Offset must be between 0 and content length.",
        )
    whole = await site.ok("retrieve", of("default", digest=hex_of("default", BIG), offset=7))
    assert (await site.get(whole["url"]))[2] == BIG


# What is refused


HEX = "f" * 40


@pytest.mark.parametrize(
    ("name", "body", "status", "message"),
    [
        ("preupload", b"{", 400, "Body is not JSON"),
        ("preupload", b'{"a":"\xff"}', 400, "Body is not JSON"),
        ("preupload", b"[]", 400, "not a JSON object"),
        ("preupload", b"[" * 100_000, 400, "Body is not JSON"),
        ("preupload", {"items": []}, 400, "namespace is required"),
        ("preupload", of("default", items={}), 400, "items is not a list"),
        ("preupload", of("default", items=[5]), 400, "not an object"),
        ("preupload", of("default", items=[{"digest": HEX}] * 1001), 400, "Only up to 1000 items can be looked up at"),
        ("preupload", of("a/b", items=[]), 400, "Namespace 'a/b'"),
        ("preupload", of("blake3-zstd", items=[]), 400, "not served by this API"),
        ("preupload", of("blake3-old", items=[]), 400, "blake3"),
        ("preupload", of("default", items=[{"digest": HEX.upper()}]), 400, "not a sha-1 digest"),
        ("preupload", of("sha256-flat", items=[{"digest": HEX}]), 400, "not a sha-256 digest"),
        ("preupload", of("default", items=[{"size": 3}]), 400, "not a sha-1 digest"),
        ("preupload", of("default", items=[{"digest": HEX, "size": -1}]), 400, "Invalid size"),
        ("preupload", of("default", items=[{"digest": HEX, "size": "1" + "0" * 18}]), 400, "Invalid size"),
        ("preupload", of("default", items=[{"digest": HEX, "size": 1.5}]), 400, "size is not an integer"),
        ("preupload", of("default", items=[{"digest": HEX, "size": "9" * 5000}]), 400, "size is not an integer"),
        ("store_inline", {}, 400, "Upload ticket was empty"),
        ("store_inline", {"upload_ticket": "AQ"}, 400, "Ticket is not one of this server"),
        ("store_inline", {"upload_ticket": 7}, 400, "upload_ticket is not a string"),
        ("finalize_gs_upload", {}, 400, "Upload ticket was empty"),
        ("finalize_gs_upload", {"upload_ticket": "ü"}, 400, "Ticket is not one of this server"),
        ("retrieve", of("default"), 400, "digest is required"),
        ("retrieve", of("default", digest=""), 400, "digest is required"),
        ("retrieve", of("default", digest="x" * 40), 400, "not a sha-1 digest"),
        ("retrieve", of("blake3-zstd", digest="f" * 64), 400, "not served by this API"),
        ("retrieve", of("default", digest=HEX, offset="x"), 400, "offset is not an integer"),
        ("retrieve", of("default", digest=HEX), 404, "not found"),
        ("nonsense", {}, 404, "No such page or call"),
    ],
)
async def test_refusals_are_one_clear_line(site: Site, name: str, body: Any, status: int, message: str) -> None:
    found, text = await site.refused(name, body)
    assert found == status
    assert message in text
    assert "\n" not in text


async def test_a_thousand_items_are_looked_up(site: Site) -> None:
    assert len(await site.lookup("default", *(str(number).encode() for number in range(1000)))) == 1000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"other!", "Embedded digest does not match provided data"),
        (SMALL[:-1], "Embedded digest does not match provided data"),
        (SMALL + b"!", "Embedded digest does not match provided data"),
    ],
)
async def test_wrong_plain_content(site: Site, data: bytes, message: str) -> None:
    found = await ticket(site, "default", SMALL)
    status, text = await site.refused("store_inline", inline(found, data))
    assert status == 400
    assert message in text
    assert len(await site.lookup("default", SMALL)) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (SMALL, "Data is corrupted"),
        (b"", "Data is corrupted"),
        (zlib.compress(SMALL)[:-1], "Data is corrupted"),
        (zlib.compress(SMALL) + b"!", "Data is corrupted"),
        (zlib.compress(b"other!"), "Embedded digest does not match provided data"),
        (zlib.compress(bytes(40_000_000)), "Embedded digest does not match provided data"),
        (bytes(100_000), "Embedded digest does not match provided data"),
    ],
)
async def test_wrong_zlib_content(site: Site, data: bytes, message: str) -> None:
    found = await ticket(site, "default-gzip", SMALL)
    status, text = await site.refused("store_inline", inline(found, data))
    assert status == 400
    assert message in text
    assert len(await site.lookup("default-gzip", SMALL)) == 1


async def test_tickets_belong_to_one_flow_and_one_server(site: Site, tmp_path: Path) -> None:
    small, big = await ticket(site, "default", SMALL), await ticket(site, "default", BIG)
    assert (await site.refused("finalize_gs_upload", {"upload_ticket": small["upload_ticket"]}))[0] == 400
    assert (await site.refused("store_inline", inline(big, BIG)))[0] == 400
    async with isolate_site(tmp_path / "other") as other:
        assert (await other.refused("store_inline", inline(small, SMALL)))[0] == 400
    get = (
        await site.put(big["gs_upload_url"], BIG),
        await site.ok("retrieve", of("default", digest=hex_of("default", BIG))),
    )
    assert (await site.put(get[1]["url"], BIG))[0] == 400
    assert (await site.get(big["gs_upload_url"]))[0] == 400


async def test_everything_signed_expires(site: Site) -> None:
    small, big = await ticket(site, "default", SMALL), await ticket(site, "default", BIG)
    await site.store("default", HUGE[:2000])
    url = (await site.ok("retrieve", of("default", digest=hex_of("default", HUGE[:2000]))))["url"]
    site.clock.advance(LIFETIME_S)
    assert (await site.get(url))[0] == 200
    site.clock.advance(1)
    assert "expired" in (await site.refused("store_inline", inline(small, SMALL)))[1]
    assert "expired" in (await site.refused("finalize_gs_upload", {"upload_ticket": big["upload_ticket"]}))[1]
    assert (await site.put(big["gs_upload_url"], BIG))[0] == 400
    assert (await site.get(url))[0] == 400


# What holds for every call


async def test_a_mask_selects_parts_of_a_reply(site: Site) -> None:
    body = of("default", items=[item("default", SMALL), item("default", BIG)])
    reply = await site.ok("preupload?fields=items(index,gs_upload_url)", body)
    assert [set(one) for one in reply["items"]] == [{"index"}, {"index", "gs_upload_url"}]


def test_the_discovery_document_describes_every_call() -> None:
    described = document(ISOLATE, "http://127.0.0.1:1")
    methods = described["resources"]["isolateservice"]["methods"]
    assert described["baseUrl"] == "http://127.0.0.1:1/_ah/api/isolateservice/v1/"
    assert {name: (one["httpMethod"], one["path"]) for name, one in methods.items()} == {
        "server_details": ("GET", "server_details"),
        "preupload": ("POST", "preupload"),
        "store_inline": ("POST", "store_inline"),
        "finalize_gs_upload": ("POST", "finalize_gs_upload"),
        "retrieve": ("POST", "retrieve"),
    }
    used = {one[part]["$ref"] for one in methods.values() for part in ("request", "response") if part in one}
    assert used <= described["schemas"].keys()


# Guarantee 14


async def test_other_pages_are_refused_and_no_origin_is_allowed(site: Site) -> None:
    url = f"{site.url}{API}preupload"
    async with site.session.options(url) as reply:
        assert reply.status == 200
        assert "POST" in reply.headers["Access-Control-Allow-Methods"]
        assert "Access-Control-Allow-Origin" not in reply.headers
    async with site.session.post(url, data=b"{}", headers={"Origin": "https://evil.example"}) as reply:
        assert reply.status == 403
    async with site.session.options(url, headers={"Origin": "https://evil.example"}) as reply:
        assert reply.status == 403


async def test_blob_of_unknown_size_is_never_trusted(site: Site) -> None:
    """A ticket for the right digest with the wrong size stores nothing."""
    body = of("default", items=[{"digest": hex_of("default", SMALL), "size": 5}])
    (found,) = (await site.ok("preupload", body))["items"]
    assert (await site.refused("store_inline", inline(found, SMALL)))[0] == 400
    assert await site.stores.shared(Namespace.parse("default")).held(bytes.fromhex(hex_of("default", SMALL))) is None
