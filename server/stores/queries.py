"""SQL by name: reads the sections of `sql/*.sql`.

A file is a list of sections, each a line `-- name --`, comment lines that say what the statement is for, and the
statement. Knows no database; a statement is never assembled or formatted, so what is in the file is what runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_HEADING = re.compile(r"-- ([a-z][a-z0-9_]*) --")
_DIRECTORY = Path(__file__).parent / "sql"


@cache
def load(name: str) -> Mapping[str, str]:
    """Return the sections of `sql/<name>.sql`; called while importing, so that a missing name stops the start."""
    return parse((_DIRECTORY / f"{name}.sql").read_text(encoding="utf-8"))


def parse(text: str) -> Mapping[str, str]:
    """Return the statements of `text` by name; raises ValueError for a text that is no list of named statements."""
    sections: dict[str, list[str]] = {}
    lines: list[str] | None = None
    for line in text.splitlines():
        if heading := _HEADING.fullmatch(line.strip()):
            if heading[1] in sections:
                raise ValueError(f"Two statements are called {heading[1]}")
            lines = sections[heading[1]] = []
        elif line.strip() and not line.lstrip().startswith("--"):
            if lines is None:
                raise ValueError(f"A statement without a name: {line.strip()}")
            lines.append(line.rstrip())
    empty = [name for name, body in sections.items() if not body]
    if empty:
        raise ValueError(f"A name without a statement: {empty[0]}")
    return {name: "\n".join(body) for name, body in sections.items()}
