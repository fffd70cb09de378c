"""HTTP by hand: a client for tests that shares no code with the server. One connection for each call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any


async def call(
    port: int, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> tuple[int, Any]:
    """Make one call; returns status and JSON. Raises OSError when no whole answer came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        data = b"" if body is None else json.dumps(body).encode()
        named = {
            "Host": f"127.0.0.1:{port}",
            "Connection": "close",
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }
        head = "".join(f"{key}: {value}\r\n" for key, value in named.items())
        writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data)
        answer = await reader.read()
    finally:
        writer.close()
    top, separator, content = answer.partition(b"\r\n\r\n")
    lines = top.decode("latin-1").split("\r\n")
    sizes = [line for line in lines if line.lower().startswith("content-length:")]
    if not separator or not sizes or int(sizes[0].partition(":")[2]) != len(content):
        raise ConnectionResetError("The answer was cut off")
    return int(lines[0].split(" ")[1]), json.loads(content)
