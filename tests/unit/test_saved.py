"""isolate.saved: states of 2020 are read, what cannot be trusted is none, with a warning."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from isolate.cas.digest import Namespace
from isolate.entries import Entry, Kind
from isolate.errors import InvalidInput
from isolate.saved import STATE_SUFFIX, Saved, checked_isolated, load_saved, state_writer
from isolate.selection import Selection, Variables

GOOD: dict[str, Any] = {
    "OS": "linux",
    "algo": "sha-1",
    "child_isolated_files": [],
    "command": ["run"],
    "config_variables": {"n": 7, "os": "x"},
    "files": {"f": {"h": "0" * 40, "s": 1, "m": 416}, "l": {"l": "f"}},
    "isolate_file": "sub/t.isolate",
    "path_variables": {"OUT": "../out"},
    "read_only": 1,
    "relative_cwd": "sub",
    "root_dir": "/nowhere",
    "version": "1.6.2",
}


def loaded(folder: Path, record: object) -> tuple[Saved, list[str]]:
    (folder / "x.isolated.state").write_text(record if isinstance(record, str) else json.dumps(record))
    warnings: list[str] = []
    return load_saved(folder / "x.isolated", "linux", warnings.append), warnings


def test_a_state_of_2020_is_read(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/t.isolate").write_text("{}")
    saved, warnings = loaded(tmp_path, GOOD)
    assert not warnings
    assert (saved.isolate_file, saved.command, saved.read_only) == (f"{tmp_path}/sub/t.isolate", ("run",), 1)
    assert saved.files == {"f": None, "l": "f"}
    # The root is gone, so the variables are relative to the `.isolate`, which has moved along.
    updated = saved.updated(Variables(config={"os": "y"}, paths={"NEW": "n"}))
    assert updated.config == {"n": "7", "os": "y"}
    assert updated.paths == {"OUT": f"{tmp_path}/out", "NEW": "n"}
    saved, _ = loaded(tmp_path, {**GOOD, "root_dir": str(tmp_path)})
    assert saved.updated(Variables()).paths == {"OUT": f"{tmp_path}/out"}


def test_a_lost_isolate_file_is_forgotten(tmp_path: Path) -> None:
    saved, warnings = loaded(tmp_path, GOOD)
    assert (saved.isolate_file, saved.config_variables, warnings) == (None, {"n": 7, "os": "x"}, [])


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("", "Expecting value"),
        ("[" * 100_000, "recursion"),
        ([], "not an object"),
        ({**GOOD, "version": "100.42"}, "its version is '100.42'"),
        ({**GOOD, "OS": "win32"}, "it was written on 'win32'"),
        ({**GOOD, "new": 1}, "unknown key 'new'"),
        ({**GOOD, "files": []}, "'files' is of the wrong type"),
        ({**GOOD, "files": {"a": 1}}, "entry 'a'"),
        ({**GOOD, "files": {"a": {"l": 1}}}, "entry 'a'"),
        ({**GOOD, "config_variables": {"a": []}}, "'a' is of the wrong type"),
        ({**GOOD, "command": [1]}, "is of the wrong type"),
    ],
)
def test_what_cannot_be_trusted_is_none(tmp_path: Path, record: object, reason: str) -> None:
    saved, warnings = loaded(tmp_path, record)
    assert saved == Saved()
    assert len(warnings) == 1
    assert reason in warnings[0]
    assert load_saved(tmp_path / "y.isolated", "linux", warnings.append) == Saved()
    assert len(warnings) == 1


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"x.isolated{STATE_SUFFIX}")
    warnings: list[str] = []
    assert load_saved(tmp_path / "x.isolated", "linux", warnings.append) == Saved()
    (warning,) = warnings
    assert warning.endswith(" is ignored: it is a pipe, not a file")


def test_a_tree_looked_at_twice_is_written_once(tmp_path: Path) -> None:
    space = Namespace.parse("default-gzip")
    selection = Selection(
        name=f"{tmp_path}/sub/t.isolate",
        root=str(tmp_path),
        items=(),
        command=("run",),
        cwd="sub",
        said_read_only=1,
        path_variables={"OUT": "../out"},
    )
    with state_writer(tmp_path / "x.isolated", space) as state:
        state.begin()
        state.add([Entry("old", Kind.LINK, target="x")])
        state.begin()
        state.add([Entry("f", Kind.FILE, space.blob(b"x"), 416)])
        state.add([])
        state.add([Entry("l", Kind.LINK, target="f")])
        state.save(selection, Variables(config={"n": "7", "os": "x"}), b"root", [b"part"], "linux")
    record = json.loads((tmp_path / "x.isolated.state").read_bytes())
    files = {"f": {"h": space.blob(b"x").digest.hex(), "m": 416, "s": 1}, "l": {"l": "f"}}
    assert record == {**GOOD, "files": files, "root_dir": str(tmp_path), "child_isolated_files": ["x.0.isolated"]}
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    assert (tmp_path / "x.isolated.state").read_text() == text
    assert (tmp_path / "x.isolated").read_bytes() + (tmp_path / "x.0.isolated").read_bytes() == b"rootpart"


def test_the_name_of_an_isolated(tmp_path: Path) -> None:
    assert checked_isolated(tmp_path / "x.isolated")
    for path in (tmp_path / "x", tmp_path / "no/x.isolated"):
        with pytest.raises(InvalidInput):
            checked_isolated(path)
