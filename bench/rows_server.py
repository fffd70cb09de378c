"""Rows 10 to 12: the memory of a server, its start with a large index, and many clients that fetch at the same time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import count
from pathlib import Path

from bench import big_index
from bench.goals import OURS
from bench.measure import Contestant, Race, Sample
from bench.place import Place, Server
from bench.tree import generate
from bench.watching import Watch, cpu_s, family, memory_bytes

IDLE_S = 2.0
GIVEN_BACK_S = 12.0  # until what an upload needed is free again: the server looks every 5 s
UPLOAD_FILES = 100  # of 300 KB, in each of CLIENTS trees
ASKED = 100_000
CLIENTS = 10
READERS = 2  # processes
GB = 1e9


def idle_server(place: Place) -> Race:
    """Row 10: a server that has nothing to do, since its start, and again since ten clients uploaded at once."""

    def once() -> Sample:
        trees = [place.fresh("upload") for _ in range(CLIENTS)]
        for number, tree in enumerate(trees):
            generate(tree, UPLOAD_FILES, seed=100 + number, mean_bytes=300_000)
        server, end = place.start()
        try:
            time.sleep(IDLE_S)
            fresh_bytes = memory_bytes(family(server.pid))
            with ThreadPoolExecutor(CLIENTS) as clients:
                list(clients.map(partial(place.archive, server), trees))
            time.sleep(GIVEN_BACK_S)
            most_bytes = max(fresh_bytes, memory_bytes(family(server.pid)))
            return Sample(GIVEN_BACK_S, server_memory_bytes=most_bytes, server_cpu_s=cpu_s(server.pid))
        finally:
            end()
            for tree in trees:
                shutil.rmtree(tree)

    return Race([Contestant("idle server", once)])


def big_start(place: Place) -> Race:
    """Row 11: a server starts on an index of millions of blobs, and is asked for 100,000 that are there."""
    data = (place.data or place.scratch) / f"index-{place.size.index_blobs}"
    if not (data / "made").exists():
        shutil.rmtree(data, ignore_errors=True)
        place.start(data)[1]()
        big_index.make(data, place.size.index_blobs)
        (data / "config").mkdir(exist_ok=True)
        (data / "made").touch()
    batches = count(int(time.time()) % (place.size.index_blobs // ASKED))

    def once() -> Sample:
        first = next(batches) * ASKED % (place.size.index_blobs - ASKED)
        body = big_index.batch(first, ASKED, place.size.index_blobs)
        started_s = time.perf_counter()
        server, end = place.start(data)
        start_s = time.perf_counter() - started_s
        try:
            with Watch(server.pid) as watch:
                asked_s = time.perf_counter()
                missing = _missing(server, body)
                missing_s = time.perf_counter() - asked_s
            if missing:
                raise SystemExit(f"{missing} of {ASKED} digests were missing")
            figures = {"start_s": start_s, "missing_s": missing_s}
            return Sample(start_s + missing_s, server_cpu_s=cpu_s(server.pid), server_memory_bytes=watch.peak_bytes,
                          figures=figures)  # fmt: skip
        finally:
            end()

    return Race([Contestant(OURS, once)])


def _missing(server: Server, digests: bytes) -> int:
    request = urllib.request.Request(f"{server.url}/cas/v2/blake3-zstd/missing", digests, method="POST")
    request.add_header("Content-Type", "application/x-isolate-digests")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as reply:
        return len(reply.read()) // 32


def many_readers(place: Place) -> Race:
    """Row 12: ten clients fetch the same tree at once; they follow frames and keep nothing."""
    tree = place.fresh("egress")
    generate(tree, place.size.egress_files, seed=12, mean_bytes=200_000)
    server = place.server()
    root = place.archive(server, tree)
    shutil.rmtree(tree)
    digests = place.fresh("digests")
    digests.write_bytes(b"".join(dict.fromkeys(_digests(server, root))))

    def once() -> Sample:
        argv = [sys.executable, "-m", "bench.readers", str(server.port), str(digests), str(CLIENTS // READERS)]
        with nullcontext([_started(argv) for _ in range(READERS)]) as readers, Watch(server.pid) as watch:
            before_s, started_s = cpu_s(server.pid), time.perf_counter()
            for reader in readers:
                assert reader.stdin is not None
                reader.stdin.write("go\n")
                reader.stdin.flush()
            found = [json.loads(_line(reader)) for reader in readers]
            wall_s = time.perf_counter() - started_s
            server_s = cpu_s(server.pid) - before_s
        usage = [os.wait4(reader.pid, 0)[2] for reader in readers]
        for reader in readers:
            reader.returncode = 0
        plain, wire, _ = (sum(numbers) for numbers in zip(*found, strict=True))
        return Sample(
            wall_s,
            sum(one.ru_utime + one.ru_stime for one in usage),
            server_cpu_s=server_s,
            server_memory_bytes=watch.peak_bytes,
            figures={"gb_per_s": plain / GB / wall_s, "server_cpu_s_per_gb": server_s / (plain / GB),
                     "plain_gb": plain / GB, "wire_gb": wire / GB},
        )  # fmt: skip

    return Race([Contestant(OURS, once)])


def _started(argv: list[str]) -> subprocess.Popen[str]:
    """Start a process and wait until it says that it is ready."""
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert _line(process) == "ready\n", "a reader did not start"
    return process


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def _digests(server: Server, root: str) -> Iterator[bytes]:
    """Yield the digests of the files of a tree, those of its parts included."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        f"{server.url}/cas/v2/blake3-zstd/blob/{root}"
    ) as reply:
        manifest = json.loads(reply.read())
    for part in manifest.get("includes", ()):
        yield from _digests(server, part)
    for entry in manifest.get("files", {}).values():
        if entry.get("h") and entry.get("s"):
            yield bytes.fromhex(entry["h"])


def folder_bytes(path: Path) -> int:
    """Return how much is in a folder."""
    return sum(os.lstat(os.path.join(where, name)).st_size for where, _, names in os.walk(path) for name in names)
