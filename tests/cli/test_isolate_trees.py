"""The commands around a `.isolate` and around a hash: check, remap, run, batcharchive, ls, cat, diff, fmt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.shells import Shell
from tests.trees import Executable, Link, Tree, read_tree, write_tree

# sha-1 of "1", "2", "3" and "5".
ONE, TWO = "356a192b7913b04c54574d18c28d46e6395428ab", "da4b9237bacccdf19c0760cab7aec4a8359010b0"
THREE = "77de68daecd823babbb58edb1c8e14d7106e83bb"
SPLIT: Tree = {"test": {"data": {"t": b"1"}}, "out": {"Rel": {"b": b"2"}}, "m": b"3"}
SELECT = "{'variables': {'files': ['test/data/', '<(PRODUCT_DIR)/', 'm']%s}}"


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A tree whose manifest 2020 wrote in three parts."""
    write_tree(tmp_path / "sp", SPLIT)
    for path in ("test/data/t", "out/Rel/b", "m"):
        (tmp_path / "sp" / path).chmod(0o600)
    (tmp_path / "sp/sp.isolate").write_text(SELECT % "")
    return tmp_path / "sp"


CHECK = ("check", "-i", "sp/sp.isolate", "-s", "sp/sp.isolated")


def test_check_writes_what_2020_wrote(shell: Shell, split: Path) -> None:
    assert shell.isolate(*CHECK, "--path-variable", "PRODUCT_DIR", "sp/out/Rel") == (0, "", "")
    parts = [(split / f"sp{number}.isolated").read_bytes().decode() for number in ("", ".0", ".1")]
    entry = '{"algo":"sha-1","files":{"%s":{"h":"%s","m":384,"s":1}},"version":"1.6"}'
    assert parts[1:] == [entry % ("test/data/t", ONE), entry % ("out/Rel/b", TWO)]
    includes = json.loads(parts[0])["includes"]
    assert parts[0] == (
        f'{{"algo":"sha-1","files":{{"m":{{"h":"{THREE}","m":384,"s":1}}}},"includes":["{includes[0]}","{includes[1]}"],'
        '"read_only":1,"version":"1.6"}'
    )
    assert (split / "sp.isolated.state").read_text() == (
        '{"OS":"linux","algo":"sha-1","child_isolated_files":["sp.0.isolated","sp.1.isolated"],"command":[],'
        f'"config_variables":{{}},"files":{{"m":{{"h":"{THREE}","m":384,"s":1}},"out/Rel/b":{{"h":"{TWO}","m":384,"s":1}},'
        f'"test/data/t":{{"h":"{ONE}","m":384,"s":1}}}},"isolate_file":"sp.isolate",'
        f'"path_variables":{{"PRODUCT_DIR":"out/Rel"}},"relative_cwd":".","root_dir":"{split}","version":"1.6.2"}}'
    )
    digest = shell.isolate("archive", "-s", "sp/sp.isolated", "--namespace", "default-gzip").out.split()[0]
    assert (split / "sp.isolated").read_text() == parts[0]
    assert shell.isolate("ls", digest).out == "m\nout/Rel/b\ntest/data/t\n"


def test_ours_are_not_split_and_the_state_spares_the_flags(shell: Shell, split: Path) -> None:
    flags = ("-i", "sp/sp.isolate", "-s", "sp/sp.isolated")
    first = shell.isolate("archive", *flags, "--path-variable", "PRODUCT_DIR=sp/out/Rel")
    assert first.status == 0
    assert "includes" not in json.loads((split / "sp.isolated").read_bytes())
    assert shell.isolate("archive", "-s", "sp/sp.isolated") == first
    assert shell.isolate("archive", *flags).out == first.out
    (split / "m").unlink()
    before = (split / "sp.isolated").read_bytes()
    assert shell.isolate("check", "-s", "sp/sp.isolated").status == 1
    assert (split / "sp.isolated").read_bytes() == before
    other = split / "other.isolate"
    other.write_text(SELECT % "")
    ended = shell.isolate("check", "-i", other, "-s", "sp/sp.isolated")
    assert (ended.status, 'Variable "PRODUCT_DIR" was not found' in ended.err) == (1, True)


def test_remap_and_run(shell: Shell, split: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ", 'command': ['sh', '-c', 'cat m; echo \"$@\" <(OS)<(EXECUTABLE_SUFFIX) <(X); exit 7', 'sh']"
    (split / "sp.isolate").write_text(SELECT % command)
    (split / "l").symlink_to("m")
    variables = ("--path-variable", "PRODUCT_DIR=sp/out/Rel", "--extra-variable", "X=y")
    ended = shell.isolate("run", "-i", "sp/sp.isolate", *variables, "--", "a", "b c", "--path-variable")
    assert (ended.status, ended.out) == (7, "3a b c --path-variable linux y\n")
    ended = shell.isolate("remap", "-i", "sp/sp.isolate", "-s", "x.isolated", "-o", "again", *variables)
    assert ended == (0, f"Remapping into {tmp_path}/again\n", "")
    assert read_tree(tmp_path / "again") == SPLIT
    assert (tmp_path / "again/m").samefile(split / "m")
    assert shell.isolate("remap", "--skip-refresh", "-s", "x.isolated", "-o", "third").status == 0
    assert read_tree(tmp_path / "third") == SPLIT
    (split / "m").unlink()
    ended = shell.isolate("run", "-s", "x.isolated", "--skip-refresh")
    assert (ended.status, ended.err) == (1, f"isolate: error: {split}/m is missing\n")
    ended = shell.isolate("remap", "-s", "x.isolated", "--skip-refresh", "-o", "fourth")
    assert ended == (1, "", f"isolate: error: {split}/m is missing\n")
    assert not Path("fourth").exists()
    assert not list(tmp_path.glob("isolate-*"))


def test_a_run_that_is_ended_ends_its_command_and_leaves_nothing(tmp_path: Path) -> None:
    command = ["sh", "-c", "trap 'echo told; exit 7' TERM; echo up; read x"]
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "x.isolate").write_text(repr({"variables": {"command": command}}))
    words = [str(Path(sys.executable).parent / "isolate"), "run", "-i", "tree/x.isolate"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, cwd=tmp_path, **pipes) as running:  # type: ignore[call-overload]
        assert running.stdout.readline() == b"up\n"
        running.terminate()  # the command itself is told by nobody else
        assert running.stdout.read() == b"told\n"
        assert running.wait() == 143
    assert os.listdir(tmp_path) == ["tree"]


def test_broken_items_are_skipped_when_the_environment_says_so(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path, {"f": b"x", "t.isolate": b"{'variables': {'files': ['f', 'gone']}}"})
    assert shell.isolate("archive", "-i", "t.isolate", "-s", "t.isolated").status == 1
    monkeypatch.setenv("ISOLATE_IGNORE_BROKEN_ITEMS", "anything")
    ended = shell.isolate("archive", "-i", "t.isolate", "-s", "t.isolated")
    assert (ended.status, ended.err.count("gone doesn't exist")) == (0, 1)
    assert shell.isolate("ls", "t.isolated").out == "f\n"


def test_read_only_makes_copies_and_links_stay_links(shell: Shell, tmp_path: Path) -> None:
    write_tree(tmp_path / "s", {"f": b"x", "l": Link("f"), "e": Executable(b"y")})
    (tmp_path / "s/t.isolate").write_text("{'variables': {'files': ['l', 'e'], 'read_only': 1}}")
    assert shell.isolate("remap", "-i", "s/t.isolate", "-o", "o").status == 0
    assert read_tree(tmp_path / "o") == {"f": b"x", "l": Link("f"), "e": Executable(b"y")}
    assert not (tmp_path / "o/f").samefile(tmp_path / "s/f")
    assert shell.isolate("remap", "-i", "s/t.isolate", "-L", "-o", "c").status == 0
    assert read_tree(tmp_path / "c") == {"l": b"x", "e": Executable(b"y")}


def test_a_batch_stores_the_good_trees(shell: Shell, tmp_path: Path) -> None:
    write_tree(tmp_path, {"a": {"f": b"1"}, "b": {"g": b"2"}})
    for name, file in (("a", "f"), ("b", "missing")):
        (tmp_path / name / "t.isolate").write_text(f"{{'variables': {{'files': ['{file}']}}}}")
        order = {"version": 1, "dir": str(tmp_path / name), "args": ["-i", "t.isolate", "-s", f"{name}.isolated"]}
        Path(f"{name}.gen.json").write_text(json.dumps(order))
    ended = shell.isolate("batcharchive", "--dump-json", "out.json", "b.gen.json", "a.gen.json")
    digest = ended.out.split()[0]
    assert (ended.status, ended.out) == (1, f"{digest}  a\n")
    assert "error: b: Failed to find an input file: Input file" in ended.err
    assert Path("out.json").read_text() == f'{{\n  "a": "{digest}",\n  "b": null\n}}\n'
    ended = shell.isolate("batcharchive", "-I", "http://127.0.0.1:1", "--dump-json", "out.json", "a.gen.json")
    assert (ended.status, Path("out.json").read_text()) == (101, "{}\n")
    Path("a.gen.json").write_text(json.dumps({"version": 1, "dir": str(tmp_path), "args": ["--nonsense"]}))
    ended = shell.isolate("batcharchive", "a.gen.json")
    assert (ended.status, "a.gen.json: No such option" in ended.err) == (2, True)


def test_subdir_keeps_a_part(shell: Shell, split: Path) -> None:
    flags = ("archive", "-i", "sp/sp.isolate", "-s", "x.isolated", "--path-variable", "PRODUCT_DIR=sp/out/Rel")
    for subdir, expected in (("test/", "test/data/t\n"), ("<(PRODUCT_DIR)", "out/Rel/b\n")):
        assert shell.isolate(*flags, "--subdir", subdir).status == 0
        assert shell.isolate("ls", "x.isolated").out == expected


def test_trees_of_the_server_are_looked_at(shell: Shell, tmp_path: Path) -> None:
    tree: Tree = {"d": {"x": Executable(b"12345")}, "l": Link("d"), "e": {}, "\x1b[2J": b"", "f": b"f"}
    write_tree(tmp_path / "one", tree)
    write_tree(tmp_path / "two", {**tree, "f": b"g", "n": b"", "e": {"z": b""}})
    one, two = (shell.isolate("archive", name).out.split()[0] for name in ("one", "two"))
    assert shell.isolate("ls", one).out == "\\x1b[2J\nd/x\ne\nf\nl\n"
    assert shell.isolate("ls", "-l", one, "d", "e", "l").out.splitlines() == [
        "-rwxr-x---            5 d/x",
        "drwxr-xr-x            0 e/",
        "lrwxrwxrwx            0 l -> d",
    ]
    assert shell.isolate("cat", one, "l/x", "f") == (0, "12345f", "")
    assert shell.isolate("diff", one, two) == (0, "D e\nA e/z\nM f\nA n\n", "")
    assert shell.isolate("diff", "--exit-code", one, two).status == 1
    assert shell.isolate("diff", "--exit-code", one, one) == (0, "", "")
    for arguments, message in (
        (["cat", one, "d"], "The tree has no file 'd': it is a directory"),
        (["cat", one, "d/y"], "The tree has no file 'd/y'"),
        (["ls", one, "d/y"], "The tree has nothing at 'd/y'"),
    ):
        ended = shell.isolate(*arguments)
        assert (ended.status, ended.err) == (1, f"isolate: error: {message}\n")


def test_one_v_is_a_summary_and_two_show_requests(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "tree", {"f": os.urandom(10)})
    once = shell.isolate("archive", "-v", "tree", "-l", "log")
    assert len(once.err.splitlines()) == 2
    assert "POST" in Path("log").read_text()
    assert "POST" not in once.err
    twice = shell.isolate("archive", "-vv", "tree").err
    assert twice.count("POST") > 0
    for arguments in (("-vv", "archive", "tree"), ("-v", "-v", "archive", "tree")):
        assert "POST" in shell.isolate(*arguments).err
    ended = shell.isolate("-vx", "archive", "tree")
    assert (ended.status, ended.err.startswith("isolate: error: No such option '-vx'")) == (2, True)
    monkeypatch.setenv("ISOLATE_DEBUG", "2")
    assert shell.isolate("archive", "tree").err.count("POST") == twice.count("POST")
    monkeypatch.delenv("ISOLATE_DEBUG")
    assert shell.isolate("archive", "tree", "-l", "none", "--no-log", "--auth-disabled").status == 0
    assert not Path("none").exists()


def test_fmt(shell: Shell, tmp_path: Path) -> None:
    ugly, canonical = Path("a.isolate"), Path("b.isolate")
    ugly.write_text('{"variables": {"files": ["x"]}}  # why\n')
    ugly.chmod(0o600)
    ended = shell.isolate("fmt", "a.isolate")
    assert ended == (0, "{\n  'variables': {\n    'files': [\n      'x',\n    ],\n  },\n}\n# why\n", "")
    canonical.write_text(ended.out)
    assert shell.isolate("fmt", "--check", "a.isolate", "b.isolate") == (1, "a.isolate\n", "")
    assert shell.isolate("fmt", "-w", "a.isolate") == (0, "", "")
    assert (ugly.read_text(), ugly.stat().st_mode & 0o777) == (ended.out, 0o600)
    assert shell.isolate("fmt", "--check", "a.isolate", "b.isolate") == (0, "", "")


def test_isolateserver_fails_fast_and_takes_no_paths_from_an_empty_stdin(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path, {"a": b"1", "b": b"2"})
    ended = shell.isolateserver("archive", "a", "missing", "b")
    assert (ended.status, ended.out) == (2, "")
    assert shell.isolateserver("archive", "-I", "http://127.0.0.1:1", "a").status == 101
    with open(os.devnull) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert shell.isolateserver("archive", "-") == (0, "\n", "")
    with open("/dev/zero") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        ended = shell.isolateserver("archive", "-")
        assert (ended.status, "more than 67108864 bytes of paths" in ended.err) == (2, True)
    assert shell.isolateserver("download", "-s", "0" * 64, "--use-symlinks", "--cache", "").status == 2


def test_a_cache_that_is_not_kept_goes_with_the_next_if_its_download_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """
import os
from isolate.sources import _cache_folder
from isolate.terminal import TerminalMonitor
with _cache_folder("", TerminalMonitor("isolate")) as folder:
    (folder / "blob").write_text("half")
    os.kill(os.getpid(), 9)
"""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert [len(os.listdir(tmp_path / name)) for name in os.listdir(tmp_path)] == [1]
    script = script.replace("9)", "0)")
    subprocess.run([sys.executable, "-c", script], check=True)
    assert os.listdir(tmp_path) == []
