"""isolate.isolateformat: what this repository shows others is in the form it prints."""

from __future__ import annotations

from pathlib import Path

from isolate.isolateformat import format_isolate

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_examples_are_formatted() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in EXAMPLES.rglob("*.isolate")}
    assert texts
    assert {name: format_isolate(text, name) for name, text in texts.items()} == texts
