"""What the benchmark says is what was measured: verdicts, counted bytes, changes, the large index."""

from __future__ import annotations

import json
import sqlite3
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from bench import big_index, report
from bench.goals import Goal
from bench.measure import Contestant, Race, Result, Sample, alternate
from bench.relay import Relay, Wire
from bench.table import Measured, shown
from bench.tree import Changer
from isolate.clock import SystemClock
from isolate.monitor import NullMonitor
from server.stores.sqlite_index import BlobIndex


def result(name: str, *walls: float, is_peer: bool = False) -> Result:
    return Result(name, is_peer, tuple(Sample(wall) for wall in walls))


RESULTS = [
    result("isolate", 1, 9, 2),
    result("a", 8, 8, 8, is_peer=True),
    result("b", 10, is_peer=True),
    result("c", 1),
]


@pytest.mark.parametrize(
    ("goal", "measured", "word"),
    [
        (Goal(text="", limit=0.25), "0.25 x a", "met"),
        (Goal(text="", limit=0.24), "0.25 x a", "MISSED"),
        (Goal(text="", limit=2, against=("c",)), "2.00 x c", "met"),
        (Goal(text="", limit=2, against=("absent",)), "nobody to compare with", "no peer"),
        (Goal(text="", limit=2, against=None), "2 s", "met"),
        (Goal(text="", limit=3, against=None, at_least=True), "2 s", "MISSED"),
        (Goal(text="", limit=3, of="absent"), "not measured", "no peer"),
    ],
)
def test_a_goal_is_about_medians_and_the_fastest_peer(goal: Goal, measured: str, word: str) -> None:
    verdict = goal.judge(RESULTS)
    assert (verdict.measured, verdict.word) == (measured, word)


def test_the_document_is_made_of_what_was_measured(tmp_path: Path) -> None:
    sample = Sample(1.0, 2.0, 3_000_000, 0.5, figures={"work_s": 1.5})
    results = (Result("isolate", False, (sample,), Wire(1_000_000, 2, 3)), result("restic", 4.0, is_peer=True))
    verdicts = (Goal(text="≤ 0.2 x", limit=0.2).judge(results), Goal(text="≤ 0.3 x", limit=0.3).judge(results))
    seconds = {"setting up": 20.0, "running": 100.0}
    row = Measured("1", "archive cold", "/a/tree: 3 files, 1 MB", results, verdicts, seconds, 7.0)
    table = tmp_path / "table.json"
    machine = {"cores": 2, "tools": {"x": "1"}}
    table.write_text(json.dumps({"machine": machine, "load": 0.5, "sittings": 2, "rows": [row.as_json()]}))
    assert report.main([str(table), "--output", str(tmp_path / "out.md")], standalone_mode=False) is None
    lines = (tmp_path / "out.md").read_text().splitlines()
    assert "| 1 | archive cold | tree | ≤ 0.2 x | 0.25 x restic | **missed** |" in lines
    assert "| 1 | archive cold | tree | ≤ 0.3 x | 0.25 x restic | met |" in lines
    assert "| isolate | 1.000 | 2.00 | 0.50 | 3 |  | 1.00 | 0.00 | 3 |" in lines
    silence = "the rows took 2 min; others and the kernel had 3% of the processors meanwhile"
    assert f"- measured in 2 runs; {silence}" in lines
    assert "Took 120 s (setting up 20, running 100); others and the kernel used 7 CPU s meanwhile." in lines
    assert [line for line in shown(row) if "MISSED" in line] == ["  target ≤ 0.2 x: 0.25 x restic: MISSED"]


def test_the_first_turn_is_discarded_and_all_take_turns() -> None:
    order: list[str] = []
    walls = iter(range(100))

    def run(name: str) -> Sample:
        order.append(name)
        return Sample(next(walls))

    contestants = [Contestant("a", lambda: run("a")), Contestant("b", lambda: run("b"))]
    race = Race(contestants, before_turn=lambda _: order.append("-"))
    first, second = alternate(2, race)
    assert order == ["-", "a", "b"] * 3
    assert [sample.wall_s for sample in (*first.samples, *second.samples)] == [2, 4, 3, 5]


def test_who_is_hopelessly_slow_has_one_run_and_the_table_says_so() -> None:
    walls = {"isolate": 3.0, "isolate --slow": 99.0, "fast": 20.0, "near": 25.0, "far": 26.0, "for scale": 50.0}
    order: list[str] = []

    def contestant(name: str) -> Contestant:
        def once() -> Sample:
            order.append(name)
            return Sample(walls[name])

        return Contestant(name, once, is_peer=name in {"fast", "near", "far"})

    found = alternate(3, Race([contestant(name) for name in walls]))
    assert {one.name: order.count(one.name) for one in found} == {
        "isolate": 4, "isolate --slow": 4, "fast": 4, "near": 4, "far": 1, "for scale": 1
    }  # fmt: skip
    lines = list(shown(Measured("1", "archive cold", "", tuple(found), ())))
    assert [line.split("  ")[1] for line in lines if "first run only" in line] == [
        "far (first run only)", "for scale (first run only)"
    ]  # fmt: skip


def serve_three(server: HTTPServer) -> None:
    for _ in range(3):  # connections: this client keeps none
        server.handle_request()


def test_the_relay_counts_bytes_and_requests() -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server, Relay(server.server_port) as relay:
        thread = Thread(target=serve_three, args=(server,))
        thread.start()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(3):
            with opener.open(f"http://127.0.0.1:{relay.port}/x", b"POST / " * 100_000) as reply:
                assert len(reply.read()) == 700_000
        thread.join()
    assert relay.wire.requests == 3
    assert 2_100_000 < relay.wire.sent_bytes < 2_102_000
    assert 2_100_000 < relay.wire.received_bytes < 2_102_000


def test_a_share_of_a_tree_changes_and_is_new_each_time(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number}.txt").write_bytes(b"%d " % number * (number % 20))
    changer, before = Changer(tmp_path, 0.05), contents(tmp_path)
    changer.change()
    middle = contents(tmp_path)
    changer.change()
    after = contents(tmp_path)
    assert [sum(one[path] != other[path] for path in one) for one, other in ((before, middle), (middle, after))] == [
        5
    ] * 2
    assert set(middle.values()) - set(before.values()) != set()


def contents(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*.txt")}


async def test_the_large_index_is_one_that_the_server_reads(tmp_path: Path) -> None:
    index = BlobIndex(tmp_path / "blobs.sqlite", SystemClock(), NullMonitor())
    await index.find("blake3-zstd", [bytes(32)])
    await index.database.close()
    big_index.make(tmp_path, 2_000)
    index = BlobIndex(tmp_path / "blobs.sqlite", SystemClock(), NullMonitor())
    wanted = big_index.batch(500, 100, 2_000)
    digests = [wanted[at : at + 32] for at in range(0, len(wanted), 32)]
    found = await index.find("blake3-zstd", digests)
    assert sorted(found.places) == sorted(set(digests))
    assert len(found.blocks) == 100 // big_index.PER_BLOCK
    await index.database.close()
    with sqlite3.connect(tmp_path / "blobs.sqlite") as connection:
        ((committed,),) = connection.execute("SELECT SUM(committed_bytes) FROM pack").fetchall()
    connection.close()
    assert committed == sum(path.stat().st_size for path in tmp_path.rglob("*.pack"))
