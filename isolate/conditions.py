"""Conditions of a `.isolate`: expressions over configuration variables, parsed and never run as Python.

Pure. `expr := expr ('or'|'and') expr | '(' expr ')' | NAME '==' (STRING | NUMBER)`; comparison is typed: 1 is not "1".
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from isolate.errors import InvalidIsolateFile
from isolate.places import shortened

Value = str | int | float


@dataclass(frozen=True, slots=True)
class Equals:
    """A variable has a value."""

    name: str
    value: Value


@dataclass(frozen=True, slots=True)
class Combined:
    """All (`and`) or some (`or`) of the parts hold."""

    all_of: bool
    parts: tuple[Condition, ...]


Condition = Equals | Combined


def parse_condition(text: str, named: Callable[[str], str] = str) -> Condition:
    """Return the condition written as `text`; raises InvalidIsolateFile saying what is wrong with it.

    `named` makes the names of variables what they shall be.
    """
    try:
        return _condition(ast.parse(text.strip(), mode="eval").body, text, named)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidIsolateFile(f"Condition {shortened(text)!r} is not an expression") from error


def holds(condition: Condition, values: Mapping[str, Value]) -> bool | None:
    """Say whether `condition` is true; None if that depends on a variable without a value.

    Looks at the parts from left to right and no further than it must, as 2020 did with Python's own operators.
    """
    if isinstance(condition, Equals):
        value = values.get(condition.name)
        if value is None:
            return None
        return isinstance(value, str) == isinstance(condition.value, str) and value == condition.value
    for part in condition.parts:
        outcome = holds(part, values)
        if outcome is not condition.all_of:
            return outcome
    return condition.all_of


def comparisons(condition: Condition) -> Iterator[Equals]:
    """Yield every comparison in it, also those that cannot change the outcome."""
    if isinstance(condition, Equals):
        yield condition
    else:
        for part in condition.parts:
            yield from comparisons(part)


def _condition(node: ast.expr, text: str, named: Callable[[str], str]) -> Condition:
    match node:
        case ast.BoolOp(op=op, values=values):
            return Combined(isinstance(op, ast.And), tuple(_condition(value, text, named) for value in values))
        case ast.Compare(left=ast.Name(id=name), ops=[ast.Eq()], comparators=[ast.Constant(value=value)]):
            if isinstance(value, (str, int, float)) and not isinstance(value, bool):
                return Equals(named(name), value)
    raise InvalidIsolateFile(
        f"Condition {shortened(text)!r} has {shortened(ast.unparse(node))!r} "
        "where only NAME == 'text', NAME == number, 'and', 'or' may stand"
    )
