"""The canonical text of a `.isolate`: one way to write what it says, comments kept.

Pure. Two spaces, single quotes, trailing commas; `variables`, `command`, `files`, `read_only` before other keys; a list
in a list begins on its line. The invariants: the formatted text says the same, holds the same comments, and is its own
format.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from isolate.errors import InvalidIsolateFile
from isolate.isolatesyntax import parse_isolate, syntax_tree

_PRIORITY = {name: index for index, name in enumerate(("variables", "condition", "command", "files", "read_only"))}
_OPENERS, _CLOSERS = {ast.Dict: "{", ast.List: "["}, {"{": "}", "[": "]"}

Place = tuple[int, int]  # line from 1, byte in it


@dataclass(slots=True)
class _Comment:
    place: Place
    text: str
    is_alone: bool  # nothing but the comment is on its line


@dataclass(slots=True)
class _Item:
    """One value of a list or dictionary with the comments that belong to it."""

    key: str | None  # as written, of a dictionary
    value: ast.expr
    start: Place
    end: Place
    leading: list[str] = field(default_factory=list)
    trailing: list[str] = field(default_factory=list)
    inner: list[_Comment] = field(default_factory=list)


def format_isolate(text: str, name: str) -> str:
    """Return the canonical form of `text`; raises InvalidIsolateFile as `parse_isolate` does."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    parse_isolate(text, name)
    shifted = _at_margin(text)
    root = syntax_tree(shifted, name)
    try:
        return "".join(f"{line}\n" for line in _file(root, list(_comments(shifted))))
    except RecursionError as error:
        raise InvalidIsolateFile(f"{name}:1:1: nested too deeply") from error


def _at_margin(text: str) -> str:
    """Return `text` with its first expression at the margin, so that places in the tree are places in the text."""
    match = re.match(r"(?:[ \t\f]*(?:#[^\n]*)?\n)*", text)
    end = match.end() if match else 0
    above = "".join(f"{line.strip()}\n" for line in text[:end].splitlines())
    return above + text[end:].lstrip(" \t\f")


def _comments(text: str) -> Iterator[_Comment]:
    lines = text.split("\n")
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                line, column = token.start
                before = lines[line - 1][:column]
                yield _Comment((line, len(before.encode("utf-8", "surrogatepass"))), token.string, not before.strip())
    except (tokenize.TokenError, IndentationError):  # behind the end of the expression; that has been parsed
        return


def _file(root: ast.expr, comments: list[_Comment]) -> Iterator[str]:
    start, end = _span(root)
    yield from _shown([comment.text for comment in comments if comment.place < start])
    inside = [comment for comment in comments if start <= comment.place < end]
    yield from _value(root, inside, "", "", "")
    yield from _shown([comment.text for comment in comments if comment.place >= end])


def _shown(comments: list[str]) -> list[str]:
    return [comment.rstrip() for comment in comments]


def _value(node: ast.expr, comments: list[_Comment], indent: str, before: str, behind: str) -> Iterator[str]:
    """Yield the lines of a value: `before` stands in front of it on its first line, `behind` after its last."""
    items = _items(node)
    if items is None:
        yield f"{indent}{before}{_scalar(node)}{behind}"
        return
    opener = _OPENERS.get(type(node), "[")
    left = _deal(items, comments)
    if opener == "{":
        items.sort(key=lambda item: (_PRIORITY.get(item.key or "", len(_PRIORITY)), item.key or ""))
    if not items and not left:
        yield f"{indent}{before}{opener}{_CLOSERS[opener]}{behind}"
        return
    if _is_condition(items) and not left:
        yield from _condition(items, indent, before, behind)
        return
    yield f"{indent}{before}{opener}"
    for item in items:
        yield from _item(item, indent + "  ")
    yield from (f"{indent}  {comment}" for comment in _shown(left))
    yield f"{indent}{_CLOSERS[opener]}{behind}"


def _item(item: _Item, indent: str) -> Iterator[str]:
    yield from (f"{indent}{comment}" for comment in _shown(item.leading))
    before = "" if item.key is None else f"{_quoted(item.key)}: "
    lines = list(_value(item.value, item.inner, indent, before, ","))
    if item.trailing:
        lines[-1] += "  " + "  ".join(_shown(item.trailing))
    yield from lines


def _is_condition(items: list[_Item]) -> bool:
    """Say whether this is `['expression', {…}]` without a comment between the two."""
    if len(items) != 2 or not isinstance(items[1].value, ast.Dict) or items[0].key is not None:
        return False
    return _items(items[0].value) is None and not any(item.leading or item.trailing for item in items)


def _condition(items: list[_Item], indent: str, before: str, behind: str) -> Iterator[str]:
    lead = f"{before}[{_scalar(items[0].value)}, "
    yield from _value(items[1].value, items[1].inner, indent, lead, f"]{behind}")


def _deal(items: list[_Item], comments: list[_Comment]) -> list[str]:
    """Give each comment to the item it is about; return those behind the last item."""
    left = []
    starts = [item.start for item in items]
    for comment in comments:
        ahead = bisect_right(starts, comment.place)
        item = items[ahead - 1] if ahead else None
        if item is not None and comment.place < item.end:
            if isinstance(item.value, ast.Constant) or _items(item.value) is None:
                item.leading.append(comment.text)
            else:
                item.inner.append(comment)
        elif item is not None and not comment.is_alone and item.end[0] == comment.place[0]:
            item.trailing.append(comment.text)
        elif ahead < len(items):
            items[ahead].leading.append(comment.text)
        else:
            left.append(comment.text)
    return left


def _items(node: ast.expr) -> list[_Item] | None:
    """Return what a list or dictionary holds, None for a value of another kind."""
    match node:
        case ast.Dict(keys=keys, values=values):
            pairs = [(key, value) for key, value in zip(keys, values, strict=True) if key is not None]
            return [_Item(_text(key), value, _span(key)[0], _span(value)[1]) for key, value in pairs]
        case ast.List(elts=elements):
            return [_Item(None, element, *_span(element)) for element in elements]
        case ast.BinOp(left=left, right=right):
            one, other = _items(left), _items(right)
            return None if one is None or other is None else one + other
    return None


def _span(node: ast.expr) -> tuple[Place, Place]:
    return (node.lineno, node.col_offset), (node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)


def _text(node: ast.expr) -> str:
    """Return the text that a string, or a sum of strings, means."""
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _scalar(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and not isinstance(node.value, str):
        return repr(node.value)
    return _quoted(_text(node))


def _quoted(text: str) -> str:
    """Return `text` as a literal in single quotes."""
    plain = repr(text)
    if plain.startswith("'"):
        return plain
    inner = plain[1:-1].replace("'", "\\'")
    return f"'{inner}'"
