"""Clients that fetch a tree and keep nothing: `python -m bench.readers PORT DIGESTS CLIENTS`.

It says `ready` and waits for a line. Then each client asks for all digests of the file DIGESTS at once over a
connection of its own, follows the frames of the answer and verifies the check of each; nothing is decompressed. Prints
a JSON list: plain bytes, wire bytes, records.
"""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from isolate.cas.layout import BLOCK, BLOCK_HEAD, END, layout_of
from isolate.cas.wire import DIGESTS_TYPE, call_path

PIECE_BYTES = 1 << 20


def main(port: str, digests: str, clients: str) -> None:
    """Fetch as often as there are clients, all at the same time."""
    body = Path(digests).read_bytes()
    with ThreadPoolExecutor(int(clients)) as executor:
        connections = [http.client.HTTPConnection("127.0.0.1", int(port)) for _ in range(int(clients))]
        for connection in connections:
            connection.connect()
        print("ready", flush=True)
        sys.stdin.readline()
        found = list(executor.map(lambda connection: fetch(connection, body), connections))
    print(json.dumps([sum(numbers) for numbers in zip(*found, strict=True)]))


def fetch(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, int, int]:
    """Return plain bytes, bytes on the wire, and records of one answer."""
    headers = {"Content-Type": DIGESTS_TYPE, "Content-Length": str(len(body))}
    connection.request("POST", call_path("blake3-zstd", "read"), body, headers)
    reply = connection.getresponse()
    assert reply.status == 200, (reply.status, reply.read(500))
    plain = wire = records = 0
    ended = False
    for record in frames(reply):
        wire += len(record)
        records += 1
        ended = record[:4] == END
        if record[:4] == BLOCK:
            plain += BLOCK_HEAD.unpack_from(record)[5]
    assert ended, "the answer was cut off"
    return plain, wire, records


def frames(reply: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the records of an answer, their checks verified."""
    buffer = bytearray()
    while piece := reply.read1(PIECE_BYTES):
        buffer += piece
        start = 0
        while layout := layout_of(bytes(buffer[start : start + 128])) if len(buffer) > start else None:
            if len(buffer) < start + layout.length:
                break
            record = bytes(memoryview(buffer)[start : start + layout.length])
            assert layout.check_of(record) == record[layout.check_at : layout.check_at + 8], "a frame is damaged"
            yield record
            start += layout.length
        del buffer[:start]


if __name__ == "__main__":
    main(*sys.argv[1:])
