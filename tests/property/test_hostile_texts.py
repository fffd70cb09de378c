"""Texts nobody would write: every one is read or refused with its place; what is read is formatted without loss."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolate.batch import read_order
from isolate.cas.digest import Namespace
from isolate.conditions import holds, parse_condition
from isolate.entries import Entry, Kind
from isolate.errors import InvalidInput, InvalidIsolateFile, InvalidManifest
from isolate.isolated import Manifest, dumps, loads
from isolate.isolatefile import Chosen, load_isolate, substitute
from isolate.isolateformat import format_isolate
from isolate.isolatesyntax import parse_isolate
from isolate.saved import Saved, load_saved
from tests.examples import examples

STATE: dict[str, Any] = {
    "OS": "linux", "algo": "sha-1", "child_isolated_files": [], "command": [], "config_variables": {}, "files": {},
    "isolate_file": "x.isolate", "path_variables": {}, "relative_cwd": ".", "root_dir": "/r", "version": "1.6.2",
}  # fmt: skip
many = examples(2_600)
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


@examples(10_000)
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


paths = st.sampled_from(["a", "d/b", "../a", "../t", "t", "nope", ""])
including = st.fixed_dictionaries({"includes": st.lists(paths, max_size=3), "variables": variables})
included = st.dictionaries(st.sampled_from(["/t", "/a", "/d/b"]), including | documents, min_size=1)
given_values = st.dictionaries(st.sampled_from(["OS", "a", "b"]), st.sampled_from(["x", "y", 1, 2, 1.5]))


@examples(500)
@given(included, given_values)
def test_whatever_includes_whatever_is_a_choice_or_refused(files: dict[str, Any], config: dict[str, Any]) -> None:
    texts = {"/t": "{}"} | {path: repr(document) for path, document in files.items()}

    def read(path: str) -> str:
        if path not in texts:
            raise InvalidIsolateFile("Cannot read it")
        return texts[path]

    found: list[Chosen] = []
    reason = refusal(lambda text, _: found.append(load_isolate(text, config, read)), "/t")
    assert re.match(r"/[tad]\S*:\d+:\d+: |/t: " if reason else "", reason)
    assert all(chosen.directory in {"/", "/d"} for chosen in found)
    for text in (text for chosen in found for text in (*chosen.command, *(item for _, item in chosen.files))):
        reason = refusal(lambda text, where: substitute(text, {"OS": "x"}, where), text)
        assert re.match(r"/[tad]\S*:\d+:\d+: Variable" if reason else "", reason)


json_scalars = st.sampled_from(
    [None, True, 0, 1, -1, 2**70, 1.5, float("inf"), "", "1.6", "1.3", "sha-1", "sha-256", "x", "..", "\udc80", "\0",
     "tar", "basic", "dir", "f" * 40, "F" * 40, "da39a3ee5e6b4b0d3255bfef95601890afd80709", "9" * 5000]
)  # fmt: skip
json_names = st.sampled_from(
    ["a", "a/b", "a\\b", "/a", "a/..", "a/", "\\\\a", "..", "", "\udcff", "\ud800", "files", "h", "s", "l", "m", "t",
     "algo", "version", "includes", "command", "relative_cwd", "read_only", "os"]
)  # fmt: skip
entries_of_files = st.fixed_dictionaries({}, optional=dict.fromkeys("hslmt", json_scalars))
anything = st.recursive(
    json_scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(json_names, inner, max_size=4),
    max_leaves=5,
)
manifests = st.fixed_dictionaries(
    {},
    optional={
        "algo": st.just("sha-1") | anything,
        "files": st.dictionaries(json_names, entries_of_files | anything, max_size=4) | anything,
        "version": st.sampled_from(["1.0", "1.3", "1.6", "2.0"]) | anything,
        **dict.fromkeys(("command", "includes", "relative_cwd", "read_only", "os", "other"), anything),
    },
)


@examples(3_000)
@given(manifests | anything)
def test_a_manifest_is_a_tree_that_can_be_made_or_refused(value: object) -> None:
    space = Namespace.parse("default-gzip")
    try:
        manifest = loads(json.dumps(value).encode(), space)
    except InvalidManifest:
        return
    for entry in manifest.entries:
        assert not {"", ".", ".."} & set(entry.path.split("/"))
        assert (entry.blob is None) != (entry.target is None)
    assert loads(dumps(manifest), space) == manifest


@many
@given(st.binary(max_size=60) | st.binary(max_size=20).map(lambda noise: b'{"files":{' + noise + b"}}"))
def test_any_bytes_are_a_manifest_or_refused(noise: bytes) -> None:
    with suppress(InvalidManifest):
        assert loads(noise, Namespace.parse("default")).algorithm.name == "sha-1"


@examples(300)
@given(anything, anything, anything, st.binary(max_size=3))
def test_an_order_of_a_batch_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, version: Any, directory: Any, args: Any, noise: bytes
) -> None:
    place = tmp_path_factory.getbasetemp() / "x.gen.json"
    record = {"version": version, "dir": directory, "args": args}
    for content in (json.dumps(record), json.dumps(version), json.dumps({**record, "version": 1, "dir": "/"})):
        place.write_bytes(content.encode() + noise)
        with suppress(InvalidInput):
            assert all(isinstance(one, str) for one in read_order(str(place)).args)


@examples(500)
@given(st.dictionaries(st.sampled_from(sorted(STATE)), anything, max_size=3), st.binary(max_size=3))
def test_a_state_is_read_or_as_good_as_none(
    tmp_path_factory: pytest.TempPathFactory, wrong: dict[str, Any], noise: bytes
) -> None:
    """Whatever somebody wrote into a state, the next command works, with or without it."""
    place = tmp_path_factory.getbasetemp() / "x.isolated.state"
    place.write_bytes(json.dumps({**STATE, **wrong}).encode() + noise)
    warnings: list[str] = []
    saved = load_saved(place.with_suffix(""), "linux", warnings.append)
    assert saved == Saved() if warnings else saved.root == {**STATE, **wrong}["root_dir"]


HOSTILE_ACCEPTED = {  # large, and nothing is wrong with them
    "a huge string", "many files", "many conditions", "many comments", "a long condition",
    "itself", "itself in another spelling", "itself many times", "many large includes",  # when they are only formatted
}  # fmt: skip
MAX_PEAK_KIB = 700 << 10  # measured: 280 MiB


def test_hostile_files_cost_little_and_are_refused_in_a_line() -> None:
    """In a process of its own, whose memory and time are limited by the system."""
    words = [sys.executable, "-m", "tests.property.hostile_files"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["peak_kib"] < MAX_PEAK_KIB
    for name, reason in report["refusals"].items():
        kind, _, file = name.partition(" ")
        if not reason:
            assert file in HOSTILE_ACCEPTED, name
        else:
            assert len(reason) < 300, name
            assert "\n" not in reason
            assert kind == "manifest" or re.match(r"/t(:\d+:\d+)?: ", reason), name
    assert sum(not reason for reason in report["refusals"].values()) == 14
