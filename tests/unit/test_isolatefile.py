"""isolate.isolatefile: the grammar, precedence and includes of 2020, errors with file and line."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolate.conditions import Value
from isolate.errors import InvalidIsolateFile
from isolate.isolatefile import Chosen, IsolateFile, load_isolate, parse_isolate, substitute, variables_in
from isolate.isolatesyntax import MAX_TEXT
from isolate.places import place_of


def chosen(files: dict[str, Any], **config: Value) -> Chosen:
    """Load /p/main.isolate; a file is given as text or as the object it spells."""
    texts = {path: text if isinstance(text, str) else repr(text) for path, text in files.items()}
    return load_isolate("/p/main.isolate", config, texts.__getitem__)


def condition(expression: str, **variables: Any) -> list[Any]:
    return [expression, {"variables": variables}]


def test_everything_python_literals_allow() -> None:
    text = """
# A comment
{
  'variables': {
    'command': ['python', 'a' 'b' + "c"],  # adjacent and added strings
    'files': ['x'] + ['y/',],
    'read_only': None,
  },
}
"""
    file = parse_isolate(text, "t")
    assert file.variables.command == ("python", "abc")
    assert file.variables.files == ("x", "y/")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t:1:1: the file is empty"),
        (" # only this", "t:1:1: the file is empty"),
        ("[]", "t:1:[0-9]+: the file must be a dictionary"),
        ("{", "t:1:[0-9]+: "),
        ("{'x': 1}", "t:1:[0-9]+: the file has the unknown key 'x'; known are conditions, includes, variables"),
        ("{\n'variables': {\n'files': ('a',)}}", "t:3:10: files must be a list"),
        ("{'variables': {'command': ['a', 1]}}", "t:1:[0-9]+: command may hold only strings, not '1'"),
        ("{'variables': {'read_only': 3}}", "t:1:[0-9]+: read_only must be 0, 1, 2 or None"),
        ("{'variables': {'files': [open('x')]}}", "t:1:[0-9]+: files may hold only strings, not 'open.….'"),
        ("{'conditions': [\n['a==1', {'variables': {}}, {}]]}", "t:2:29: .*'else' is not supported anymore"),
        ("{'conditions': [['a==1', {}]]}", "t:1:[0-9]+: Missing 'variables' in condition 'a==1'"),
        ("{'conditions': [['a==1']]}", "t:1:[0-9]+: a condition has 1 parts"),
        ("{'conditions': [\n\n['a<1', {'variables': {}}]]}", "t:3:2: Condition 'a<1' has 'a < 1' where only"),
        ("{'includes': ['/x']}", "t:1:[0-9]+: absolute include path '/x'"),
        ("{'variables': {}, 'variables': {}}", "t:1:[0-9]+: the file has the key 'variables' twice"),
        ("{**{}}", "t:1:[0-9]+: the file may not use '\\*\\*'"),
        ("{'variables': {'files': ['a' 'b' for x in y]}}", "t:1:[0-9]+: files must be a list"),
        ("{'variables': {'files': [f'{x}']}}", "t:1:[0-9]+: files may hold only strings"),
        ("(" * 300, "t:1:[0-9]+: "),
        ("{'variables': {'files': [" + "'a'+" * 30000 + "'a']}}", "t:1:1: nested too deeply"),
        ("\0", "t"),
        ("{'variables': {'files': ['a\\0b']}}", "t:1:26: files may not hold a NUL"),
        ("\ufeff # x\n\n  {'é': 1}", "t:3:4: the file has the unknown key 'é'"),
        ("{'é': 1, 'x': 2}", "t:1:2: the file has the unknown key 'é'"),
        ("{'variables': {'é': [], 'file': []}}", "t:1:16: "),
        ("{'variables': {'files': ['é', 1]}}", "t:1:31: files may hold only strings"),
        ("{'variable': {}}", "t:1:2: .*did you mean 'variables'"),
        ("{'variables': {'isolate_dependency_tracked': []}}", "t:1:16: .*did you mean 'files'"),
        ("{'variables': {'files': ['a'}}", "t:1:29: closing"),
        ("{'variables': {'files': [True]}}", "t:1:26: .* not 'True' \\(hint: leave it out, or write the text"),
        ("{'variables': {'files': [b'a']}}", "t:1:26: .* \\(hint: leave out the b before the quote\\)$"),
        ("{'variables': {'files': [5]}}", 't:1:26: .* \\(hint: write "5"\\)$'),
        ("{'conditions': [['a==\\'" + "b" * 9000 + "\\' or c', {}]]}", "t:1:18: .{0,400}$"),
        ("{'conditions': [['a==1 or " + "b" * 9000 + "', {}]]}", "t:1:18: .{0,400}$"),
        ("{'conditions': [['a==\\'" + "b" * 9000 + "\\'', {}]]}", "t:1:[0-9]+: Missing .{0,300}$"),
        ("{'includes': [\n'/" + "b" * 9000 + "']}", "t:2:1: .{0,300}$"),
        ("{}\n" + " " * MAX_TEXT, f"t:2:{MAX_TEXT - 2}: A .isolate of {MAX_TEXT + 3} characters is longer"),
        ("{'variables': {'files': [" + "9" * 100_000 + "]}}", "t:1:.*"),
    ],
)
def test_errors_name_file_and_line(text: str, message: str) -> None:
    with pytest.raises(InvalidIsolateFile, match=f"^{message}"):
        parse_isolate(text, "t")


@given(st.text() | st.from_regex(r"[\[\]{}'a:,+()=1 \n]{0,40}"))
def test_no_text_does_worse_than_a_clear_error(text: str) -> None:
    outcome: object
    try:
        outcome = parse_isolate(text, "t")
    except InvalidIsolateFile as error:
        outcome = str(error)[0]
    assert isinstance(outcome, IsolateFile) or outcome == "t"


def test_conditions_select_and_the_bound_command_beats_the_global_one() -> None:
    file = {
        "variables": {"command": ["global"], "files": ["always"], "read_only": 0},
        "conditions": [
            condition("OS=='linux'", command=["first"], files=["linux"], read_only=2),
            condition("OS=='linux' or OS=='mac'", command=["second"], files=["unix"]),
        ],
    }
    linux = chosen({"/p/main.isolate": file}, OS="linux")
    assert (linux.command, linux.read_only) == (("first",), 2)
    assert sorted(item for _, item in linux.files) == ["always", "linux", "unix"]
    other = chosen({"/p/main.isolate": file}, OS="win")
    assert (other.command, other.read_only, other.files) == (("global",), 0, (("/p", "always"),))


def test_values_are_typed_and_must_be_given() -> None:
    file = {"/p/main.isolate": {"conditions": [condition("a==1", files=["x"]), condition("b=='y'", files=["z"])]}}
    assert chosen(file, a=1, b="n").files == (("/p", "x"),)
    assert chosen(file, a="1", b="n").files == ()
    with pytest.raises(
        InvalidIsolateFile,
        match=r"^/p/main.isolate:1:18: .* missing from the command line: a, b \(hint: say --config-var.*\)$",
    ):
        chosen(file)
    many = {"/p/main.isolate": {"conditions": [condition(f"a{number:05}==1", files=["x"]) for number in range(500)]}}
    with pytest.raises(InvalidIsolateFile, match=r": a00000, .*, a00019 and 480 more \(hint: say --config-v"):
        chosen(many)


def test_places_are_right_in_whatever_order_they_are_asked_for() -> None:
    words = [f"é{number}" for number in range(3000)]
    text = "# é\n  {'variables': {'files': [" + ", ".join(f"'{word}'" for word in words) + "]}}"
    items = parse_isolate(text, "t").variables.files
    line = text.split("\n")[1]
    for item in (*items, *reversed(items), items[5], items[900], items[5]):
        assert place_of(item, "") == f"t:2:{line.index(repr(str(item))) + 1}"


def test_an_unlisted_value_ends_the_evaluation_as_in_2020() -> None:
    file = {"/p/main.isolate": {"conditions": [condition("foo==1 or bar=='b'", files=["x"])]}}
    assert not chosen(file, foo=9, bar="b").files
    assert chosen(file, foo=1, bar="zzz").files


def test_includes_merge_with_the_last_one_first() -> None:
    files = {
        "/p/main.isolate": {"includes": ["a/one.isolate", "b/two.isolate"], "variables": {"files": ["m"]}},
        "/p/a/one.isolate": {"variables": {"command": ["one"], "files": ["f1"]}},
        "/p/b/two.isolate": {"includes": ["../c/three.isolate"], "variables": {"command": ["two"], "files": ["f2"]}},
        "/p/c/three.isolate": {"variables": {"command": ["three"], "files": ["f3"], "read_only": 1}},
    }
    result = chosen(files)
    assert (result.command, result.directory, result.read_only) == (("two",), "/p/b", 1)
    assert result.files == (("/p", "m"), ("/p/b", "f2"), ("/p/c", "f3"), ("/p/a", "f1"))


@pytest.mark.parametrize(
    ("main", "included", "directory"),
    [
        ({"files": ["m"]}, {"files": ["f"]}, "/p"),  # nobody has a command: whose files come first
        ({"read_only": 0}, {"files": ["f"]}, "/p/a"),
        ({}, {"files": ["f"]}, "/p/a"),
        ({"files": ["m"]}, {"command": ["c"]}, "/p/a"),
        ({"command": ["c"]}, {"files": ["f"]}, "/p"),
        ({}, {}, "/p"),
    ],
)
def test_what_paths_are_relative_to(main: dict[str, Any], included: dict[str, Any], directory: str) -> None:
    files = {
        "/p/main.isolate": {"includes": ["a/one.isolate"], "variables": main},
        "/p/a/one.isolate": {"variables": included},
    }
    assert chosen(files).directory == directory


@pytest.mark.parametrize(("value", "expected"), [("True", 1), ("False", 0), ("2", 2), ("None", None)])
def test_whatever_equals_a_mode_is_one(value: str, expected: int | None) -> None:
    assert parse_isolate(f"{{'variables': {{'read_only': {value}}}}}", "t").variables.read_only == expected


def test_what_two_conditions_name_is_named_twice() -> None:
    file = {"conditions": [condition("a==1", files=["x"]), condition("a==1 or b==2", files=["x"])]}
    assert chosen({"/p/main.isolate": file}, a=1, b=2).files == (("/p", "x"), ("/p", "x"))


def test_a_command_anywhere_drops_the_commands_of_includes_everywhere() -> None:
    files = {
        "/p/main.isolate": {"includes": ["a.isolate"], "conditions": [condition("OS=='x'", command=["mine"])]},
        "/p/a.isolate": {"variables": {"command": ["theirs"]}},
    }
    assert chosen(files, OS="x").command == ("mine",)
    assert chosen(files, OS="y").command == ()


def test_a_condition_of_an_include_beats_a_global_of_another() -> None:
    files = {
        "/p/main.isolate": {"includes": ["a.isolate", "b.isolate"]},
        "/p/a.isolate": {"conditions": [condition("OS=='x'", command=["bound"])]},
        "/p/b.isolate": {"variables": {"command": ["global"]}},
    }
    assert chosen(files, OS="x").command == ("bound",)


def test_includes_that_grow_by_powers_or_in_depth_are_bounded() -> None:
    doubling = {f"/p/{n}.isolate": {"includes": [f"{n + 1}.isolate"] * 2} for n in range(60)}
    doubling["/p/60.isolate"] = {"includes": []}
    with pytest.raises(InvalidIsolateFile, match="includes more than 1000 files"):
        chosen({**doubling, "/p/main.isolate": {"includes": ["0.isolate"]}})
    chain = {f"/p/{n}.isolate": {"includes": [f"{n + 1}.isolate"]} for n in range(200)}
    with pytest.raises(InvalidIsolateFile, match="more than 100 files include each other in a row"):
        chosen({**chain, "/p/main.isolate": {"includes": ["0.isolate"]}})


def test_a_cycle_of_includes_is_an_error() -> None:
    files = {"/p/main.isolate": {"includes": ["a.isolate"]}, "/p/a.isolate": {"includes": ["main.isolate"]}}
    with pytest.raises(InvalidIsolateFile, match=r"/p/a\.isolate:1:15: '/p/main.isolate' includes itself"):
        chosen(files)


def test_what_is_found_out_late_is_named_with_its_place() -> None:
    texts = {
        "/p/main.isolate": "# é\n{'includes': [\n  'é' 'b/a.isolate']}",
        "/p/éb/a.isolate": "{'variables': {'command': ['x',\n  '<(Z)'], 'files': ['é', 'd' + '<(Y)']}}",
    }
    result = load_isolate("/p/main.isolate", {}, texts.__getitem__)
    for text, place in ((result.command[1], "2:3"), (result.files[1][1], "2:27")):
        with pytest.raises(InvalidIsolateFile, match=f"^/p/éb/a.isolate:{place}: Variable"):
            substitute(text, {}, "t")

    def read(path: str) -> str:
        if path != "/p/main.isolate":
            raise InvalidIsolateFile(f"Cannot read {path!r}")
        return texts[path]

    with pytest.raises(InvalidIsolateFile, match=r"^/p/main.isolate:3:3: Cannot read '/p/éb/a.isolate'$"):
        load_isolate("/p/main.isolate", {}, read)


def test_variables_are_replaced_once_and_only_when_well_formed() -> None:
    assert substitute("<(A)/<(B)<(9Z)<( X)<X>", {"A": "<(B)", "B": 2}, "t") == "<(B)/2<(9Z)<( X)<X>"
    assert variables_in("<(A)x<(B_1)") == ["A", "B_1"]
    with pytest.raises(InvalidIsolateFile, match=r'Variable "Z" was not found in .* --path-variable'):
        substitute("<(Z)", {}, "t")
