"""Texts nobody would write: every one is read or refused with its place; what is read is formatted without loss."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isolate.cas.digest import Namespace
from isolate.conditions import holds, parse_condition
from isolate.errors import InvalidIsolateFile, InvalidManifest
from isolate.isolated import Entry, Kind, Manifest, dumps, loads
from isolate.isolatefile import load_isolate
from isolate.isolateformat import format_isolate
from isolate.isolatesyntax import MAX_TEXT, parse_isolate

many = settings(max_examples=2_600, deadline=None, suppress_health_check=list(HealthCheck))
pieces = st.sampled_from(
    ["{", "}", "[", "]", "(", ")", ",", ":", "+", "'variables'", "'files'", "'command'", "'includes'", "'conditions'",
     "'read_only'", "1", "None", "'OS==\"x\"'", '"a"', "'''b\n'''", "#c\n", "\n", " ", "\t", "\\\n", "\0", "\ufeff",
     "é", "f'{x}'", "b'x'", "**", "lambda: 0", "open('x')", "9" * 5000, "\ud800", "'\\udcff'", ";", "=", "-", "'\\",
     "\r"]
)  # fmt: skip
soup = st.lists(pieces, max_size=25).map("".join)
words = st.text(max_size=6) | st.sampled_from(["it's", 'a"b', "\\", "\udcff", "<(OS)/", "a\nb", "#no comment"])
plain_words = words.filter(lambda word: "\0" not in word)
lists = st.lists(plain_words, max_size=3)
variables = st.fixed_dictionaries(
    {}, optional={"command": lists, "files": lists, "read_only": st.sampled_from([0, 1, 2, None])}
)
conditions = st.tuples(
    st.sampled_from(['OS=="x"', "a==1 or b=='y'", "(a==2)"]), st.fixed_dictionaries({"variables": variables})
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "includes": st.lists(plain_words.filter(lambda word: not word.startswith("/")), max_size=2),
        "variables": variables,
        "conditions": st.lists(conditions.map(list), max_size=2),
    },
)
comments = st.sampled_from(["", "# one\n", "  # two\n# three\n", "\n\n"])


def refusal(read: Callable[[str, str], object], text: str) -> str:
    """Return why `text` is refused, nothing when it is not."""
    try:
        read(text, "t")
    except InvalidIsolateFile as error:
        return str(error)
    return ""


@many
@given(soup)
def test_a_text_is_read_or_refused_with_its_place(text: str) -> None:
    reason = refusal(parse_isolate, text)
    assert re.match(r"t:\d+:\d+: " if reason else "", reason)
    if not reason:
        assert format_isolate(text, "t").startswith(("{", "#"))


@many
@given(documents, comments, comments)
def test_the_canonical_form_says_the_same_and_is_its_own(document: dict[str, Any], above: str, behind: str) -> None:
    text = above + repr(document).replace(", ", f", {behind}" if behind.startswith("#") else ", ") + "\n" + behind
    try:
        meant = parse_isolate(text, "t")
    except InvalidIsolateFile:  # a comment within a string with ", "
        return
    formatted = format_isolate(text, "t")
    assert parse_isolate(formatted, "t") == meant
    assert format_isolate(formatted, "t") == formatted
    assert formatted.count("# three") == text.count("# three")


words_of_conditions = ["a", "b", "==", "'x'", "1", "1.5", " or ", " and ", "(", ")", "!=", "not ", "-", "\0"]


@many
@given(st.lists(st.sampled_from(words_of_conditions)).map("".join))
def test_a_condition_is_an_outcome_or_refused(text: str) -> None:
    outcomes: list[object] = []
    reason = refusal(lambda text, _: outcomes.append(holds(parse_condition(text), {"a": "x"})), text)
    assert reason.startswith("Condition ") or outcomes[0] in {True, False, None}


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=5).filter(
    lambda name: name not in {".", ".."}
) | st.sampled_from(["\udcff", "\\", '"', "é", "\x7f", "\u2028"])


@many
@given(
    st.dictionaries(names, st.sampled_from(["file", "exec", "link", "dir", "tar", "no mode"]), max_size=5),
    lists,
    st.none() | st.just("."),
    st.none() | st.integers(0, 2),
    st.booleans(),
)
def test_manifests_are_written_as_json_would_write_them(
    tree: dict[str, str], command: list[str], cwd: str | None, read_only: int | None, has_include: bool
) -> None:
    space = Namespace.parse("blake3-zstd")
    blob = space.blob(b"x")
    kinds: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
        "file": ({"h": blob.digest.hex(), "m": 416, "s": 1}, (Kind.FILE, blob, 416)),
        "exec": ({"h": blob.digest.hex(), "m": 488, "s": 1}, (Kind.FILE, blob, 488)),
        "no mode": ({"h": blob.digest.hex(), "s": 1}, (Kind.FILE, blob)),
        "tar": ({"h": blob.digest.hex(), "m": 416, "s": 1, "t": "tar"}, (Kind.TAR, blob, 416)),
        "dir": ({"t": "dir"}, (Kind.DIR,)),
        "link": ({"l": "\udcfe\n"}, (Kind.LINK, None, None, "\udcfe\n")),
    }
    manifest = Manifest(
        algorithm=space.algorithm,
        entries=tuple(Entry(name, *kinds[tree[name]][1]) for name in sorted(tree)),
        command=tuple(command),
        relative_cwd=cwd,
        read_only=read_only,
        includes=(blob.digest,) if has_include else (),
    )
    record: dict[str, Any] = {"algo": space.algorithm.name, "version": "2.0"}
    record |= {"files": {name: kinds[kind][0] for name, kind in tree.items()}}
    record |= {"command": command} if command else {}
    record |= {} if cwd is None else {"relative_cwd": cwd}
    record |= {} if read_only is None else {"read_only": read_only}
    record |= {"includes": [blob.digest.hex()]} if has_include else {}
    data = dumps(manifest)
    assert data == json.dumps(record, sort_keys=True, separators=(",", ":")).encode("ascii")
    with suppress(InvalidManifest):  # of text that no system call takes
        assert loads(data, space) == manifest


HOSTILE = {
    "deep lists": "[" * MAX_TEXT,
    "deep dictionaries": "{'a':" * (MAX_TEXT // 5),
    "deep tuples": "(1," * 100_000,
    "a long sum": "{'variables': {'files': [" + "'a'+" * 200_000 + "'a']}}",
    "many signs": "-" * (MAX_TEXT - 1) + "1",
    "a huge string": "{'variables': {'files': ['" + "x" * (MAX_TEXT - 40) + "']}}",
    "a huge number": "{'variables': {'read_only': " + "9" * (MAX_TEXT - 40) + "}}",
    "many files": "{'variables': {'files': [" + "'abc'," * 150_000 + "]}}",
    "many conditions": "{'conditions': [" + "['a==1',{'variables':{}}]," * 35_000 + "]}",
    "many comments": "{\n" + "#\n" * 400_000 + "}",
    "a long condition": "{'conditions': [['" + "a==1 or " * 100_000 + "a==1', {'variables': {}}]]}",
    "a deep condition": "{'conditions': [['" + "(" * 100_000 + "a==1', {'variables': {}}]]}",
    "blank lines": "\n" * (MAX_TEXT - 1) + "x",
    "too long": "#" * (MAX_TEXT + 1),
    "NULs": "\0" * 1000,
    "lone surrogates": "{'variables': {'files': ['\ud800']}}",
    "surrogate escapes": "{'variables': {'files': ['\\udcff\udcff']}}",
}
MAX_GROWTH_KB = 600 << 10  # far above what is needed, 200 MB


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_cost_little(name: str) -> None:
    before, text = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, HOSTILE[name]
    for read in (lambda text, _: load_isolate("/t", {"a": 2}, lambda _: text), format_isolate):
        assert len(refusal(read, text)) < 1_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_GROWTH_KB
