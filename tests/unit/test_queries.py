"""Named SQL statements."""

from __future__ import annotations

import pytest

from server.stores import queries


def test_sections_become_statements_without_their_comments() -> None:
    text = "-- A file about things.\n\n-- first --\n-- Says why.\nSELECT 1\nFROM a;\n\n-- second --\nSELECT 2;\n"
    assert queries.parse(text) == {"first": "SELECT 1\nFROM a;", "second": "SELECT 2;"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("-- a --\nSELECT 1;\n-- a --\nSELECT 2;", "called a"),
        ("SELECT 1;", "without a name"),
        ("-- a --\n-- only words\n", "without a statement: a"),
    ],
)
def test_a_text_that_is_no_list_of_statements_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        queries.parse(text)
