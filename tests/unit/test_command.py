"""Which program runs, with what arguments and variables, and where."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from isolate.errors import InternalFailure, InvalidInput
from run_isolated.command import absolute, environment, inner_path, resolve, substitute, working_directory


def program(path: Path, mode: int = 0o700) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    path.chmod(mode)
    return path


def test_parameters_are_replaced_wherever_they_stand() -> None:
    text = "a${EXECUTABLE_SUFFIX} ${ISOLATED_OUTDIR}/x ${SWARMING_BOT_FILE} ${OTHER}"
    assert substitute(text, Path("/w/io"), "/bot.json") == "a /w/io/x /bot.json ${OTHER}"


def test_bot_file_stays_when_there_is_none() -> None:
    assert substitute("${SWARMING_BOT_FILE}", None, None) == "${SWARMING_BOT_FILE}"


def test_outputs_without_a_server_are_an_internal_failure() -> None:
    with pytest.raises(InternalFailure, match="needs an isolate server"):
        substitute("--out=${ISOLATED_OUTDIR}", None, None)


def test_environment_is_changed_then_prefixed_then_given_its_temp_dir() -> None:
    env = environment(
        {"KEEP": "1", "GONE": "2", "PATH": "/usr/bin", "TMPDIR": "/tmp"},
        {"GONE": "", "NEW": "3", "PATH": "/bin"},
        {"PATH": ["./a", "b/"], "FRESH": ["."]},
        Path("/w/ir"),
        Path("/w/it"),
    )
    assert env == {
        "KEEP": "1",
        "NEW": "3",
        "PATH": "/w/ir/a:/w/ir/b:/bin",
        "FRESH": "/w/ir",
        "TMPDIR": "/w/it",
    }


@pytest.mark.parametrize(("text", "plain"), [("./a/", "a"), ("", "."), (".", "."), ("a/../b", "b"), ("a//b", "a/b")])
def test_inner_path_is_plain(text: str, plain: str) -> None:
    assert inner_path(text) == plain


@pytest.mark.parametrize("text", ["/a", "..", "a/../../b", "a\0b", "//"])
def test_inner_path_stays_inside(text: str) -> None:
    with pytest.raises(InvalidInput, match="not inside"):
        inner_path(text)


def test_working_directory_is_made(tmp_path: Path) -> None:
    assert working_directory(tmp_path, "a/b") == tmp_path.resolve() / "a/b"
    assert (tmp_path / "a/b").is_dir()


@pytest.mark.parametrize("relative", ["..", "link", "link/new", "/", "inner/../../x"])
def test_working_directory_does_not_leave_the_run_directory(tmp_path: Path, relative: str) -> None:
    run_dir, outside = tmp_path / "ir", tmp_path / "ir-2"
    run_dir.mkdir()
    outside.mkdir()
    (run_dir / "link").symlink_to(outside)
    assert working_directory(run_dir, relative) is None
    assert not list(outside.iterdir())


def test_link_that_stays_inside_is_a_working_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert working_directory(tmp_path, "link/new") == tmp_path.resolve() / "real/new"


def test_bare_name_is_looked_for_in_the_directory_then_in_the_path(tmp_path: Path) -> None:
    cwd, first, second = tmp_path / "cwd", tmp_path / "first", tmp_path / "second"
    program(first / "tool", 0o600)  # not executable
    program(second / "tool")
    search_path = f":{first}:{second}"
    cwd.mkdir()
    assert resolve(["tool", "x"], cwd, search_path) == [str(second / "tool"), "x"]
    program(cwd / "tool")
    assert resolve(["tool", "x"], cwd, search_path) == [str(cwd / "tool"), "x"]


def test_directory_of_that_name_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "tool").mkdir()
    assert resolve(["tool"], tmp_path, "") == ["tool"]


def test_relative_name_is_relative_to_the_working_directory(tmp_path: Path) -> None:
    assert absolute(resolve(["../out/some.exe"], tmp_path / "some", "/bin")[0], tmp_path / "some") == os.fspath(
        tmp_path / "out/some.exe"
    )


def test_absolute_name_is_left_alone(tmp_path: Path) -> None:
    assert absolute(resolve(["/a/link/../b"], tmp_path, "/bin")[0], tmp_path) == "/a/link/../b"


@pytest.mark.parametrize("name", ["python", "python3"])
def test_script_is_run_by_python_of_either_name(tmp_path: Path, name: str) -> None:
    python = program(tmp_path / "bin" / name)
    assert resolve(["a.py", "x"], tmp_path, str(tmp_path / "bin")) == [str(python), "a.py", "x"]


@pytest.mark.parametrize("relative", ["file", "file/x", "loop/x"])
def test_file_in_the_place_of_a_working_directory_is_one_clear_sentence(tmp_path: Path, relative: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InternalFailure, match=f"Cannot use '{relative}' as a directory of the run directory"):
        working_directory(tmp_path, relative)
