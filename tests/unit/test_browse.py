"""`/browse` and `/content`: what is shown, and that nothing stored gets any rights in a browser."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from urllib.parse import urlencode

import pytest

from isolate.cas.digest import Namespace
from server.pages import browse
from server.pages.browse import BrowsePages
from tests.isolate_server import Site, hex_of, isolate_site
from tests.stored import put

HOSTILE = b"<script>alert(1)</script>"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with isolate_site(tmp_path, routes=lambda stores: BrowsePages(stores, "0.1.0").routes()) as site:
        yield site


async def page(site: Site, path: str, **query: str) -> tuple[int, Mapping[str, str], str]:
    status, headers, body = await site.get(f"{site.url}{path}?{urlencode(query)}")
    assert headers["X-Content-Type-Options"] == "nosniff"
    return status, headers, body.decode()


async def test_content_is_plain_text_without_rights(site: Site) -> None:
    for namespace in ("default", "sha512-deflate"):
        await site.store(namespace, HOSTILE)
        status, headers, body = await page(site, "/content", namespace=namespace, digest=hex_of(namespace, HOSTILE))
        assert (status, body) == (200, HOSTILE.decode())
        assert headers["Content-Type"] == "text/plain; charset=utf-8"
        assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
        assert headers["X-Frame-Options"] == "SAMEORIGIN"
        assert headers["Content-Disposition"] == f"inline; filename={hex_of(namespace, HOSTILE)}"


async def test_blobs_of_every_namespace_and_size(site: Site) -> None:
    content = b"0123456789" * 600_000
    for namespace in ("blake3-zstd", "default-gzip"):
        (blob, small) = await put(site.stores.namespace(Namespace.parse(namespace)), [content[: 5 << 20], b"small"])
        _, _, body = await page(site, "/content", namespace=namespace, digest=blob.digest.hex())
        assert body.encode() == content[: 5 << 20]
        _, _, body = await page(site, "/content", namespace=namespace, hash=small.digest.hex())
        assert body == "small"
        _, _, body = await page(site, "/content", namespace=namespace, digest=hex_of(namespace, b""))
        assert body == ""
    status, _, rest = await site.get(f"{site.url}/content?namespace=default-gzip&digest={blob.digest.hex()}", "HEAD")
    assert (status, rest) == (200, b"")


async def test_too_large_for_a_browser(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browse, "MAX_SHOWN_BYTES", 10)
    await site.store("default", b"x" * 11)
    _, headers, body = await page(site, "/content", namespace="default", digest=hex_of("default", b"x" * 11))
    digest = hex_of("default", b"x" * 11)
    fetching = f"isolate download --namespace default -f {digest} {digest}"
    assert body == f"11 bytes are too many to show here. Fetch them with: {fetching}\n"
    assert headers["Content-Type"].startswith("text/plain")


async def test_a_tree_is_a_table_with_links(site: Site) -> None:
    tree = {
        "algo": "sha-1",
        "files": {
            "<b>/x y&z": {"h": "a" * 40, "m": 0o640, "s": 12},
            "link": {"l": "<i>elsewhere"},
            "odd": 5,
            "\udc80name": {"h": "b" * 40, "s": 1},
        },
        "includes": ["c" * 40],
        "version": "1.6",
    }
    content = json.dumps(tree).encode()
    await site.store("default-gzip", content)
    status, headers, body = await page(
        site, "/content", namespace="default-gzip", digest=hex_of("default-gzip", content)
    )
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert "allow-scripts" not in policy
    assert "<b>" not in body
    assert "<i>" not in body
    assert "0640" in body
    assert f"/browse?namespace=default-gzip&amp;digest={'a' * 40}&amp;as=%3Cb%3E%2Fx+y%26z" in body
    assert f"/browse?namespace=default-gzip&amp;digest={'c' * 40}" in body


@pytest.mark.parametrize(
    "content",
    [
        b'{"files": []}',
        b'{"includes": {}}',
        b'{"version": "1.6"}',
        b'{"files": {}, "more": 1}',
        b'{"files": {',
        b"[]",
        b'{"a":' * 100_000,
        b'{"files": \xff}',
        b'{"files": {}, "read_only": ' + b"9" * 6000 + b"}",
    ],
)
async def test_what_does_not_look_like_a_tree_is_text(site: Site, content: bytes) -> None:
    await site.store("default", content)
    status, headers, data = await site.get(f"{site.url}/content?namespace=default&digest={hex_of('default', content)}")
    assert (status, headers["Content-Type"], data) == (200, "text/plain; charset=utf-8", content)


async def test_browse_frames_the_content(site: Site) -> None:
    await site.store("default-gzip", HOSTILE)
    digest = hex_of("default-gzip", HOSTILE)
    for key in ("digest", "hash"):
        status, headers, body = await page(site, "/browse", **{key: digest, "as": "a<b>.txt"})
        assert status == 200
        assert f'src="/content?namespace=default-gzip&amp;digest={digest}&amp;as=a%3Cb%3E.txt"' in body
        assert "sandbox=" in body
        assert "allow-scripts" not in body
        assert "<b>" not in body
        assert f"{len(HOSTILE)} bytes" in body
        assert "script-src" not in headers["Content-Security-Policy"]
    status, _, body = await page(site, "/browse")
    assert (status, "<form" in body) == (200, True)


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("/browse", {"digest": "f" * 40}, 404),
        ("/browse", {"digest": "xyz"}, 400),
        ("/browse", {"digest": "f" * 40, "namespace": "a/b"}, 400),
        ("/content", {"digest": "f" * 40, "namespace": "default"}, 404),
        ("/content", {"digest": "f" * 40}, 400),
        ("/content", {"namespace": "default"}, 400),
        ("/content", {}, 400),
    ],
)
async def test_what_cannot_be_shown(site: Site, path: str, query: dict[str, str], status: int) -> None:
    found, headers, body = await page(site, path, **query)
    assert (found, headers["Content-Type"]) == (status, "text/html; charset=utf-8")
    assert "Traceback" not in body


async def test_names_cannot_break_headers(site: Site) -> None:
    await site.store("default", b"x")
    query = {"namespace": "default", "digest": hex_of("default", b"x"), "as": 'a"\r\nX-Evil: 1;é'}
    _, headers, _ = await page(site, "/content", **query)
    assert "X-Evil" not in headers
    assert headers["Content-Disposition"] == 'inline; filename="a%22%0D%0AX-Evil: 1%3B%C3%A9"'


async def test_addresses_of_2020(site: Site) -> None:
    assert (await site.get(f"{site.url}/_ah/warmup"))[::2] == (200, b"ok")
    async with site.session.get(f"{site.url}/newui", allow_redirects=False) as reply:
        assert (reply.status, reply.headers["Location"]) == (302, "/")
