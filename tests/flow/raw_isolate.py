"""A client of the isolate API of 2020 on plain sockets, written from the protocol alone.

Shares no code with the server and uses no HTTP library, so that a mistake cannot be made twice and cancel out.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import zlib
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

BASE = "/_ah/api/isolateservice/v1/"
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Reply:
    """A reply as it was on the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json; charset=utf-8", self
        return json.loads(self.body)

    def error(self) -> str:
        """Return the message of an error envelope."""
        message = self.json()["error"]["message"]
        assert isinstance(message, str)
        return message


class Wire:
    """One connection, kept alive."""

    def __init__(self, host: str, port: int) -> None:
        self.host = f"{host}:{port}"
        self.socket = socket.create_connection((host, port), TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # head and body are two segments
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def send_head(self, method: str, path: str, headers: dict[str, str]) -> None:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
        self.socket.sendall("\r\n".join(lines).encode())

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        length = {} if body is None else {"Content-Length": str(len(body))}
        self.send_head(method, path, {**(headers or {}), **length})
        if body:
            self.socket.sendall(body)
        return self.reply(method)

    def reply(self, method: str = "GET") -> Reply:
        version, status, _ = self.line().split(" ", 2)
        assert version == "HTTP/1.1"
        headers: dict[str, str] = {}
        while line := self.line():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return Reply(int(status), headers, b"" if method == "HEAD" else self.body(headers))

    def body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            pieces = []
            while size := int(self.line(), 16):
                pieces.append(self.file.read(size))
                assert self.line() == ""
            assert self.line() == ""
            return b"".join(pieces)
        return self.file.read(int(headers.get("content-length", "0")))

    def line(self) -> str:
        line = self.file.readline()
        assert line.endswith(b"\r\n"), line
        return line[:-2].decode()


class Client:
    """What the tools of 2020 do, step by step."""

    def __init__(self, url: str, namespace: str, base: str = BASE) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        self.address = (parts.hostname, parts.port)
        self.namespace, self.base = namespace, base
        self.algorithm = next(
            (name for prefix, name in (("sha256-", "sha-256"), ("sha512-", "sha-512")) if namespace.startswith(prefix)),
            "sha-1",
        )
        self.deflates = namespace.endswith(("-gzip", "-deflate"))

    def digest(self, content: bytes) -> str:
        return hashlib.new(self.algorithm.replace("-", ""), content).hexdigest()

    def encode(self, content: bytes, level: int = 7) -> bytes:
        return zlib.compress(content, level) if self.deflates else content

    def decode(self, data: bytes) -> bytes:
        return zlib.decompress(data) if self.deflates else data

    def described(self) -> dict[str, str]:
        compression = "flate" if self.deflates else ""
        return {"compression": compression, "digest_hash": self.algorithm, "namespace": self.namespace}

    def request(self, method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Reply:
        parts = urlsplit(url)
        assert not parts.query
        with Wire(*self.address) as wire:
            return wire.request(method, parts.path, body, headers)

    def post(self, call: str, body: Any) -> Reply:
        data = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json; charset=UTF-8", "User-Agent": "isolateserver.py/0.9.0"}
        return self.request("POST", self.base + call, data, headers)

    def preupload(self, contents: list[bytes], *, is_isolated: bool = False) -> list[dict[str, str]]:
        items = [{"digest": self.digest(one), "is_isolated": is_isolated, "size": len(one)} for one in contents]
        reply = self.post("preupload", {"items": items, "namespace": self.described()})
        assert reply.status == 200, reply
        body = reply.json()
        assert set(body) <= {"items"}
        assert body.get("items", True), "an empty list is left out"
        for item in body.get("items", []):
            assert isinstance(item["index"], str)
            assert isinstance(item["upload_ticket"], str)
            assert set(item) <= {"index", "upload_ticket", "gs_upload_url"}
        return list(body.get("items", []))

    def store_inline(self, ticket: str, data: bytes) -> Reply:
        return self.post("store_inline", {"content": base64.b64encode(data).decode(), "upload_ticket": ticket})

    def put(self, url: str, data: bytes) -> Reply:
        headers = {"Content-Type": "application/octet-stream", "Cache-Control": "public, max-age=31536000"}
        return self.request("PUT", url, data, headers)

    def finalize(self, ticket: str) -> Reply:
        return self.post("finalize_gs_upload", {"upload_ticket": ticket})

    def push(self, item: dict[str, str], content: bytes, level: int = 7) -> bytes:
        """Send one item the way the server asked for; returns the bytes that were sent."""
        data = self.encode(content, level)
        if url := item.get("gs_upload_url"):
            reply = self.put(url, data)
            assert 200 <= reply.status < 300, reply
            checksum = "md5=" + base64.b64encode(hashlib.md5(data).digest()).decode()
            assert checksum in [one.strip() for one in reply.headers["x-goog-hash"].split(",")]
            done = self.finalize(item["upload_ticket"])
        else:
            done = self.store_inline(item["upload_ticket"], data)
        assert (done.status, done.json()) == (200, {"ok": True})
        return data

    def retrieve(self, digest: str, offset: int = 0) -> Reply:
        return self.post("retrieve", {"digest": digest, "namespace": self.described(), "offset": offset})

    def fetch(self, content: bytes) -> tuple[bool, bytes]:
        """Return whether a content travels by URL, and its encoded bytes."""
        body = self.retrieve(self.digest(content)).json()
        assert len(body) == 1
        if "content" in body:
            return False, base64.b64decode(body["content"], validate=True)
        reply = self.request("GET", body["url"])
        assert reply.status == 200
        return True, reply.body
