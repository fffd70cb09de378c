"""doc/reference says what the commands say."""

from __future__ import annotations

import pytest

from tests.reference import PLACE, pages


@pytest.mark.parametrize("name", sorted(pages()))
def test_a_page_is_fresh(name: str) -> None:
    written = PLACE / name
    assert written.is_file(), f"{name} is missing: python -m tests.reference writes it"
    assert written.read_text(encoding="utf-8") == pages()[name], "python -m tests.reference writes it anew"


def test_there_is_no_page_of_a_program_that_is_gone() -> None:
    assert {path.name for path in PLACE.iterdir()} == set(pages())
