"""isolate.isolateformat: what this repository shows others is in the form it prints."""

from __future__ import annotations

from pathlib import Path

from isolate.isolatefile import load_isolate
from isolate.isolateformat import format_isolate

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def test_the_examples_are_formatted() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in EXAMPLES.rglob("*.isolate")}
    assert texts
    assert {name: format_isolate(text, name) for name, text in texts.items()} == texts


def test_the_example_takes_every_package_along() -> None:
    chosen = load_isolate(str(EXAMPLES / "unit_tests.isolate"), {}, lambda path: Path(path).read_text(encoding="utf-8"))
    packages = {f"../{path.parent.name}/" for path in ROOT.glob("*/__init__.py")}
    assert packages <= {name for _, name in chosen.files}
