"""`python -m bench` as it is typed: what is in its file is not measured again; nothing is left when it is ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from bench.watching import family
from tests.processes import is_running, wait_until

BENCH = (sys.executable, "-m", "bench", "--quick", "--rows", "9")


def bench(file: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    argv = [*BENCH, "--json", str(file), "--scratch", str(file.parent / "scratch"), *flags]
    return subprocess.run(argv, capture_output=True, text=True)


def test_what_is_in_the_file_is_not_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    measured = bench(file)
    assert measured.returncode == 0, measured.stderr
    assert "row 9, isolate, turn 1: " in measured.stderr
    content = json.loads(file.read_text())
    assert [row["row"] for row in content["rows"]] == ["9"]
    assert set(content["rows"][0]["seconds"]) == {"setting up", "preparing", "running", "tidying"}
    again = bench(file, "--resume")
    assert (again.returncode, again.stderr) == (0, "")
    assert "known: row 9, ten files, all present\n" in again.stdout
    assert list(tmp_path.iterdir()) == [file]
    other = bench(file, "--resume", "--runs", "2")
    assert other.returncode == 2
    assert "was measured with another size: runs was 1, is 2. Measure anew, without --resume" in other.stderr


def test_a_run_that_is_ended_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    argv = [*BENCH, "--runs", "1000", "--scratch", str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        assert "row 9, ten files" in running.stderr.readline()
        assert "row 9, isolate, turn 0" in running.stderr.readline()
        started = family(running.pid)
        assert len(started) >= 2  # it, and a server
        running.send_signal(signal.SIGTERM)
        assert running.wait() == 130
        lines = running.stderr.read().splitlines()
    assert lines[-1].startswith("python -m bench: interrupted: nothing is kept. --json FILE keeps each row")
    assert not [line for line in lines if "Traceback" in line or "Abort" in line]
    assert wait_until(lambda: not any(map(is_running, started)))
    assert list(tmp_path.iterdir()) == []
