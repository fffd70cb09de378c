"""`/browse` and `/content`: one blob for a person to look at, a tree as a table with links.

Knows the blob stores and nothing of tasks. What is stored is somebody else's: it is sent as plain text that no browser
may take for anything else, without any right; a tree is shown as markup of our own, in which every name is text.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any
from urllib.parse import quote, urlencode

from aiohttp import web

from isolate.cas.digest import Namespace
from isolate.errors import BlobsMissing, InvalidInput
from server.pages.frame import Frame, document, markup_reply
from server.pages.html import Html, facts, join, table, tag
from server.stores.blobs import LocalBlobStore
from server.stores.shared import SharedBlobStore, SharedBlobStores

DEFAULT_NAMESPACE = "default-gzip"  # of this page, as in 2020
MAX_SHOWN_BYTES = 33_554_000  # more is not sent to a browser, as in 2020
MAX_TREE_BYTES = 4 << 20  # of a tree shown as a table: about 30,000 files
TREE_KEYS = {"algo", "command", "files", "includes", "read_only", "relative_cwd", "version"}
PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
RAW_POLICY = "default-src 'none'; sandbox"
# No scripts, no forms. With another origin than ours its links would be taken for those of a foreign page.
TREE_POLICY = (
    "default-src 'none'; style-src 'self'; base-uri 'none'; "
    "sandbox allow-same-origin allow-top-navigation-by-user-activation"
)
_TOKEN = re.compile(r"[A-Za-z0-9!#$&+.^_`|~-]+")
FRAME_RIGHTS = "allow-same-origin allow-top-navigation-by-user-activation"

Store = LocalBlobStore | SharedBlobStore


class BrowsePages:
    """Handlers over the blob stores."""

    def __init__(self, stores: SharedBlobStores, version: str) -> None:
        self._stores, self._frame = stores, Frame("Isolate", version, PAGE_POLICY)

    def routes(self) -> list[web.RouteDef]:
        """Return every route of these pages."""
        return [
            web.get("/browse", self._frame.shown(self.browse)),
            web.get("/content", self._frame.shown(self.content)),
            web.get("/newui", _newui),
            web.get("/_ah/warmup", _warmup),
        ]

    async def browse(self, request: web.Request) -> web.StreamResponse:
        digest = _digest(request)
        namespace = request.query.get("namespace") or DEFAULT_NAMESPACE
        form = _form(namespace, digest)
        if not digest:
            return self._frame.page("Browse", form)
        _, _, size = await self._find(namespace, digest)
        name = request.query.get("as", "")
        query = urlencode({"namespace": namespace, "digest": digest, "as": name}, errors="backslashreplace")
        shown = facts([("Namespace", namespace), ("Digest", digest), ("Size", f"{size} bytes"), ("Name", name)])
        raw = tag("a", "Content", href=f"/content?{query}")
        frame = tag(
            "iframe", src=f"/content?{query}", sandbox=FRAME_RIGHTS, width="100%", height="700", title="Content"
        )
        return self._frame.page(name or digest, form, shown, tag("p", raw), frame)

    async def content(self, request: web.Request) -> web.StreamResponse:
        digest, namespace = _digest(request), request.query.get("namespace", "")
        if not digest or not namespace:
            raise InvalidInput("Missing digest or namespace")
        store, raw, size = await self._find(namespace, digest)
        name = request.query.get("as") or digest
        if size > MAX_SHOWN_BYTES:
            fetching = f"isolate download --namespace {namespace} -f {digest} {digest}"
            return _text(f"{size} bytes are too many to show here. Fetch them with: {fetching}\n", name)
        if size <= MAX_TREE_BYTES:
            whole = await _whole(store, raw, size)
            markup = await asyncio.to_thread(_tree_page, whole, namespace)
            return _text(whole, name) if markup is None else markup_reply(markup, TREE_POLICY)
        response = web.StreamResponse(headers=_raw_headers(name))
        response.content_length = size
        async with aclosing(store.pieces(raw, 0, size)) as pieces:
            async for piece in pieces:
                if not response.prepared:
                    await response.prepare(request)
                    if request.method == "HEAD":
                        break
                await response.write(piece)
        await response.write_eof()
        return response

    async def _find(self, name: str, digest: str) -> tuple[Store, bytes, int]:
        """Return where a blob is, its digest and its size; raises InvalidInput, BlobsMissing."""
        namespace = Namespace.parse(name)
        raw = namespace.algorithm.parse_hex(digest)
        store = self._stores.namespace(namespace)
        sizes = await store.sizes([raw])
        if raw not in sizes:
            raise BlobsMissing([raw])
        return store, raw, sizes[raw]


async def _newui(_: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("/")  # where the pages of 2020 were


async def _warmup(_: web.Request) -> web.StreamResponse:
    return web.Response(text="ok")


def _digest(request: web.Request) -> str:
    return (request.query.get("digest") or request.query.get("hash") or "").strip()


def _form(namespace: str, digest: str) -> Html:
    fields = [
        tag("input", name="namespace", value=namespace, aria_label="Namespace"),
        tag("input", name="digest", value=digest, size="70", aria_label="Digest"),
    ]
    return tag("form", join([*fields, tag("button", "Show")], " "), action="/browse")


async def _whole(store: Store, digest: bytes, size: int) -> bytes:
    if not size:
        return b""
    async with aclosing(store.pieces(digest, 0, size)) as pieces:
        return b"".join([bytes(piece) async for piece in pieces])


def _tree_page(content: bytes, namespace: str) -> Html | None:
    """Return a tree as a page, None for what does not look like one."""
    if content.lstrip()[:1] != b"{":
        return None
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(tree, dict) or not tree.keys() <= TREE_KEYS or not tree.keys() & {"files", "includes"}:
        return None
    files, includes = tree.get("files", {}), tree.get("includes", [])
    if not isinstance(files, dict) or not isinstance(includes, list):
        return None
    parts = [tag("p", "Includes ", _blob_link(str(one), namespace, str(one), "")) for one in includes]
    about = facts((key, _said(tree[key])) for key in sorted(tree.keys() - {"files", "includes"}))
    listed = table(("Path", "Size", "Mode", "Kind"), _rows(files, namespace), "No files.")
    return document("Tree", tag("main", about, *parts, listed))


def _rows(files: dict[str, Any], namespace: str) -> Iterator[tuple[str | None, tuple[object, ...]]]:
    for path, entry in sorted(files.items()):
        one = entry if isinstance(entry, dict) else {}
        mode = one.get("m")
        shown: object = path
        if "h" in one:
            shown = _blob_link(path, namespace, str(one["h"]), path)
        kind = f"link to {one['l']}" if "l" in one else one.get("t", "")
        yield None, (shown, one.get("s", ""), f"{mode:04o}" if isinstance(mode, int) else "", kind)


def _blob_link(text: str, namespace: str, digest: str, name: str) -> Html:
    query = {"namespace": namespace, "digest": digest} | ({"as": name} if name else {})
    return tag("a", text, href=f"/browse?{urlencode(query, errors='backslashreplace')}", target="_top")


def _said(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _text(content: bytes | str, name: str) -> web.Response:
    body = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    return web.Response(body=body, headers=_raw_headers(name))


def _raw_headers(name: str) -> dict[str, str]:
    plain = quote(name.encode("utf-8", "backslashreplace"), safe=" !#$&+-.^_`|~()[]{},:=@")
    return {
        "Content-Type": "text/plain; charset=utf-8",
        # As 2020 wrote it, wherever a name needs no quotes.
        "Content-Disposition": "inline; filename=" + (plain if _TOKEN.fullmatch(plain) else f'"{plain}"'),
        "Content-Security-Policy": RAW_POLICY,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "SAMEORIGIN",
    }
