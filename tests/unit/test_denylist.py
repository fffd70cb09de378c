"""isolate.denylist: the defaults of 2020, and what users add."""

from __future__ import annotations

import re

import pytest

from isolate.denylist import DEFAULT_PATTERNS, denylist, nothing
from isolate.errors import InvalidInput

NAMES = ["a.pyc", "b/a.pyc", "b/.pyc", ".pyc", "a.swp", ".swp", ".git", "b/.git", "b/.svn", ".git2", "allo.git", "a.py",
         "a.pyc\n", "a\nb.pyc", "b/.git\n", "a.pycx", "git", "b/.gitignore", "\udcff.pyc", ".svn/x"]  # fmt: skip


@pytest.mark.parametrize("path", NAMES)
def test_the_defaults_are_exactly_the_two_expressions_of_2020(path: str) -> None:
    expected = any(re.match(pattern, path) for pattern in DEFAULT_PATTERNS)
    assert denylist()(path) is expected


@pytest.mark.parametrize(("path", "denied"), [("b/a.pyc", True), (".pyc", False), (".git", True), ("allo.git", False)])
def test_documented_examples(path: str, denied: bool) -> None:
    assert denylist()(path) is denied


def test_patterns_add_to_the_defaults_and_match_from_the_start() -> None:
    is_denied = denylist([r"out/", r".*\.o$"])
    assert [is_denied(path) for path in ("out/x", "in/out/x", "in/x.o", "x.pyc")] == [True, False, True, True]


def test_without_the_defaults_only_the_patterns_count() -> None:
    assert not denylist(defaults=False)("x.pyc")
    assert not nothing(".git")


def test_a_bad_expression_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"'\(' is not a regular expression"):
        denylist(["("])
