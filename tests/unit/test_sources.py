"""isolate.sources: how much of a download is left, in the words of 2020."""

from __future__ import annotations

import threading

import pytest

from isolate.sources import remaining
from isolate.terminal import TerminalMonitor
from tests.processes import wait_until


def test_what_remains_is_told_until_it_is_over(capfd: pytest.CaptureFixture[str]) -> None:
    monitor = TerminalMonitor("isolateserver")
    monitor.expect("fetched_blobs", 7)
    monitor.count("fetched_blobs", 4)
    told: list[str] = []

    def has_told() -> bool:
        told.append(capfd.readouterr().err)
        return bool(told[-1])

    with remaining(monitor, every_s=0.001):
        assert wait_until(has_told)
        monitor.count("fetched_blobs", 3)
    assert set("".join(told).splitlines()) == {"3 files remaining..."}


def test_what_remains_is_not_told_where_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    monitor = TerminalMonitor("isolateserver")
    with remaining(monitor):
        monitor.count("fetched_blobs", 3)
    assert monitor.snapshot() == {"fetched_blobs": 3}
