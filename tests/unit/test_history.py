"""The checker of histories finds what it is there for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.history import History, Run


def world() -> tuple[History, dict[str, dict[str, Any]], dict[str, str]]:
    history = History(
        tasks={"one": "a10", "two": "b10"},
        runs=[Run("a11", "bot", 1.0, 2.0, 0.5, acknowledged=True, printed=b"hi")],
    )
    result = {"name": "one", "state": "COMPLETED", "duration": 0.5, "run_id": "a11"}
    answered = {"name": "two", "state": "COMPLETED", "duration": 0.5, "run_id": "a11", "deduped_from": "a11"}
    return history, {"a10": result, "b10": answered}, {"a10": "hi", "b10": "hi"}


def test_a_right_history_is_right() -> None:
    assert list(History.violations(*world())) == []


def test_who_was_cancelled_in_a_shared_run_has_no_part_in_its_end() -> None:
    history, results, outputs = world()
    results["a10"] = {"name": "one", "state": "KILLED", "run_id": "a11"}
    assert list(history.violations(results, outputs)) == []
    results["b10"].update(state="CANCELED", deduped_from="")
    assert any("not the one acknowledged" in one for one in history.violations(results, outputs))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda h, r, o: r.pop("b10"), "lost"),
        (lambda h, r, o: r["b10"].update(state="PENDING"), "for ever"),
        (lambda h, r, o: r.update({"c10": r["a10"]}), "made twice"),
        (lambda h, r, o: r["a10"].update(name="other"), "is not one"),
        (lambda h, r, o: h.runs.append(Run("a12", "b", 1.5, 3.0)), "at the same time"),
        (lambda h, r, o: h.runs.append(Run("a12", "b", 2.5, 3.0, 0.7, acknowledged=True)), "both finished"),
        (lambda h, r, o: r["a10"].update(duration=0.7), "not the one acknowledged"),
        (lambda h, r, o: r["b10"].update(duration=0.7), "differs from its source"),
        (lambda h, r, o: r["b10"].update(deduped_from="x11"), "no bot sent"),
        (lambda h, r, o: o.update(a10="h"), "lost output"),
    ],
)
def test_every_kind_of_violation_is_found(change: Any, reason: str) -> None:
    history, results, outputs = world()
    change(history, results, outputs)
    assert any(reason in one for one in history.violations(results, outputs))
