"""swarming.board: what the table says, and where it is not drawn."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from swarming import board
from swarming.board import ROWS, Board
from tests.clock import ManualClock


def screen() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)


def drawn(shown: Board) -> str:
    console = screen()
    console.print(shown.table())
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_it_shows_who_is_awaited_and_counts_the_rest() -> None:
    clock = ManualClock()
    ids = [f"{index:x}10" for index in range(ROWS + 5)]
    shown = Board(ids, clock, None)
    shown.states({index: "RUNNING" if index < ROWS else "PENDING" for index in range(len(ids))})
    shown.ended(0, "COMPLETED")
    clock.advance(65)
    text = drawn(shown)
    assert f"1 of {len(ids)} shards ended, 1:05" in text
    assert "1 COMPLETED" in text
    assert "4 more" in text
    assert "4 PENDING" in text
    assert "110" in text
    assert f" {ids[-1]} " not in text


def test_nothing_is_drawn_without_a_terminal_or_within_the_first_second() -> None:
    console = screen()
    for terminal in (None, console):
        with Board(["a10"], ManualClock(), terminal) as shown, shown.aside():
            shown.states({0: "RUNNING"})
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""


def test_lines_stand_beside_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "QUIET_S", 0.0)
    console = screen()
    with Board(["a10"], ManualClock(), console) as shown:
        shown.opened()
        shown.states({0: "RUNNING"})
        with shown.aside():
            console.file.write("\na line of results\n")
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "0 of 1 shards ended" in text
    assert "a line of results\n" in text
