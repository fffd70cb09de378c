"""What the tools of 2020 were tested for, asked of ours: states that are reloaded, trees that moved, exact bytes."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.cli.shells import Shell
from tests.flow.raw_isolate import Client
from tests.flow.servers import ServerProcess
from tests.trees import Link, read_tree, write_tree

OUT_OF_TIME = "100.42"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A `.isolate` that selects a link and what it leads to, for Linux."""
    write_tree(tmp_path / "p", {"data": {"x": b"1"}, "l": Link("data/x"), "run": b"2", "win": b"3"})
    (tmp_path / "p/t.isolate").write_text(
        "{'conditions': [['OS==\"linux\"', {'variables': {'command': ['sh', 'run'], 'files': ['l', 'run']}}]]}"
    )
    return tmp_path / "p"


CHECK = ("check", "-i", "p/t.isolate", "-s", "t.isolated", "--config-variable", "OS=linux")


def written() -> tuple[bytes, bytes]:
    return Path("t.isolated").read_bytes(), Path("t.isolated.state").read_bytes()


def test_the_exact_bytes_of_a_tree_that_is_only_a_command(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "t.isolate").write_text("{'variables': {'command': ['echo', 'é']}}")
    assert shell.isolate("check", "-i", "t.isolate", "-s", "t.isolated") == (0, "", "")
    assert written() == (
        b'{"algo":"sha-1","command":["echo","\\u00e9"],"files":{},"read_only":1,"relative_cwd":".","version":"1.6"}',
        b'{"OS":"linux","algo":"sha-1","child_isolated_files":[],"command":["echo","\\u00e9"],"config_variables":{},'
        b'"files":{},"isolate_file":"t.isolate","path_variables":{},"relative_cwd":".","root_dir":"%s","version":"1.6.2"}'
        % str(tmp_path).encode(),
    )


def test_other_versions_beside_it_are_written_anew(shell: Shell, project: Path) -> None:
    assert shell.isolate(*CHECK) == (0, "", "")
    before = written()
    for name in ("t.isolated", "t.isolated.state"):
        record = json.loads(Path(name).read_text())
        Path(name).write_text(json.dumps({**record, "version": OUT_OF_TIME}))
        ended = shell.isolate(*CHECK)
        assert (ended.status, ended.out, written() == before) == (0, "", True)
        assert (OUT_OF_TIME in ended.err) is name.endswith(".state")
    Path("t.isolated").write_text("what is here is never read")
    assert shell.isolate(*CHECK) == (0, "", "")
    assert written() == before


def test_a_state_follows_a_renamed_isolate_and_takes_new_variables(shell: Shell, project: Path) -> None:
    assert shell.isolate(*CHECK).status == 0
    (project / "t.isolate").rename(project / "u.isolate")
    ended = shell.isolate("check", "-s", "t.isolated")
    assert (ended.status, "Execution failure: A .isolate file is required." in ended.err) == (1, True)
    assert shell.isolate("check", "-i", "p/u.isolate", *CHECK[3:]).status == 0
    assert json.loads(written()[1])["isolate_file"] == "p/u.isolate"
    text = (project / "u.isolate").read_text().replace("}]]}", "}], ['bits==64', {'variables': {'files': ['win']}}]]}")
    (project / "u.isolate").write_text(text)
    assert shell.isolate("check", "-s", "t.isolated").status == 1
    assert shell.isolate("check", "-s", "t.isolated", "--config-variable", "bits", "64").status == 0
    assert json.loads(written()[1])["config_variables"] == {"OS": "linux", "bits": 64}
    assert "win" in json.loads(written()[0])["files"]


def test_a_failed_check_leaves_nothing(shell: Shell, project: Path) -> None:
    (project / "data/x").unlink()
    ended = shell.isolate(*CHECK)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("isolate: error: Failed to find an input file: ")
    assert not list(project.parent.glob("t.isolated*"))


def test_a_tree_that_moved_is_missed_and_a_copy_is_what_was_listed(shell: Shell, project: Path, tmp_path: Path) -> None:
    assert shell.isolate(*CHECK).status == 0
    assert shell.isolate("remap", "-s", "t.isolated", "-o", "copy").out == f"Remapping into {tmp_path}/copy\n"
    assert read_tree(tmp_path / "copy") == {"data": {"x": b"1"}, "l": Link("data/x"), "run": b"2"}
    (tmp_path / "moved").mkdir()
    for name in ("t.isolated", "t.isolated.state"):
        Path(name).rename(tmp_path / "moved" / name)
    project.rename(tmp_path / "moved/p")
    ended = shell.isolate("run", "-s", "moved/t.isolated", "--skip-refresh")
    assert (ended.status, ended.out, ended.err) == (1, "", f"isolate: error: {project}/data/x is missing\n")


def test_modes_tars_and_includes_of_2020_are_brought_back(shell: Shell, server: ServerProcess, tmp_path: Path) -> None:
    client = Client(server.url, "default-gzip")

    def stored(content: bytes) -> str:
        for item in client.preupload([content]):
            client.push(item, content)
        return client.digest(content)

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, mode in (("b/in", 0o755), ("plain", 0o666)):
            member = tarfile.TarInfo(name)
            member.mode, member.size = mode, 1
            tar.addfile(member, io.BytesIO(b"t"))

    def entry(content: bytes, **more: object) -> dict[str, object]:
        return {"h": stored(content), "s": len(content), **more}

    child = {"files": {"from/child": entry(b"c"), "again": entry(b"never looked at")}, "command": ["the", "command"]}
    tree = {
        "files": {
            "none": entry(b"n"), "run": entry(b"r", m=0o750), "plain": entry(b"p", m=0o640), "again": entry(b"root's"),
            "sub/x.tar": entry(packed.getvalue(), t="tar"), "way": {"l": "../anywhere"},
        },
        "includes": [stored(json.dumps(child).encode())],
        "relative_cwd": "sub",
    }  # fmt: skip
    digest = stored(json.dumps(tree).encode())
    ended = shell.isolateserver("download", "-s", digest, "-t", "out", "--cache", "")
    assert ended == (0, "To run this test please run from the directory out/sub:\n  the command\n", "")
    modes = {path: (tmp_path / "out" / path).stat().st_mode & 0o777 for path in ("none", "run", "plain", "from/child")}
    assert modes == {"none": 0o500, "run": 0o700, "plain": 0o600, "from/child": 0o500}
    members = {path: (tmp_path / "out/sub" / path).stat().st_mode & 0o777 for path in ("b/in", "plain")}
    assert members == {"b/in": 0o700, "plain": 0o600}
    assert (tmp_path / "out/way").readlink() == Path("../anywhere")
    assert (tmp_path / "out/again").read_bytes() == b"root's"
    assert not (tmp_path / "out/sub/x.tar").exists()
