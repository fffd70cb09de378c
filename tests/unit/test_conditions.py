"""isolate.conditions: the expressions of a .isolate."""

from __future__ import annotations

import pytest

from isolate.conditions import Value, comparisons, holds, parse_condition
from isolate.errors import InvalidIsolateFile


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("OS=='linux'", {"OS": "linux"}, True),
        ("OS=='linux'", {"OS": "mac"}, False),
        ("a==1", {"a": 1}, True),
        ("a==1", {"a": "1"}, False),
        ("a=='1'", {"a": 1}, False),
        ("a==1 or b==2", {"a": 0, "b": 2}, True),
        ("a==1 and b==2", {"a": 1, "b": 3}, False),
        ("(a==1 or b==2) and c=='x'", {"a": 0, "b": 2, "c": "x"}, True),
        ("a==1.5", {"a": 1.5}, True),
        (" a == 1 ", {"a": 1}, True),
        # Without a value: undecided, unless the part before decides.
        ("a==1 or b==2", {"b": 2}, None),
        ("a==1 or b==2", {"a": 1}, True),
        ("a==1 and b==2", {"a": 2}, False),
        ("a==1 and b==2", {"b": 2}, None),
    ],
)
def test_truth(text: str, values: dict[str, Value], expected: bool | None) -> None:
    assert holds(parse_condition(text), values) is expected


def test_every_comparison_is_listed() -> None:
    listed = comparisons(parse_condition("a==1 or (b=='x' and a==2)"))
    assert [(one.name, one.value) for one in listed] == [("a", 1), ("b", "x"), ("a", 2)]


@pytest.mark.parametrize(
    "text",
    ["a!=1", "not a==1", "a in 'x'", "a==b==1", "a==-1", "a==True", "a==None", "a==b'x'", "1==a", "a", "f(a)==1", "",
     "a==1 or", "a=1", "a==1; b==2", "__import__('os')==1", "a.b==1", "a==1\0", "(" * 500 + "a==1" + ")" * 500,
     "not " * 5000 + "a==1", " or ".join(["a==1"] * 20000) + " or b", "a==f'{x}'", "a==[1]"],
)  # fmt: skip
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidIsolateFile, match="Condition"):
        parse_condition(text)
