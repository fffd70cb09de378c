"""The `isolate` and `isolateserver` commands against a real server: output, exit statuses, files written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.shells import Shell
from tests.flow.servers import ServerProcess
from tests.processes import is_running, wait_until, workers_of
from tests.trees import Executable, Link, Tree, read_tree, write_tree

BIN = Path(sys.executable).parent
TREE: Tree = {
    "a": b"hello",
    "b": {"x": Executable(b"#!/bin/sh\n"), "e": {}},
    "empty": b"",
    "l": Link("a"),
    "\udcff": b"y",
}


def test_a_tree_goes_there_and_comes_back(shell: Shell, tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", TREE)
    archived = shell.isolate("archive", "tree")
    digest = archived.out.split()[0]
    assert archived == (0, f"{digest}  tree\n", "")
    assert len(digest) == 64
    assert shell.isolate("download", "-s", digest, "-t", "back") == (0, "", "")
    assert read_tree(tmp_path / "back") == read_tree(tmp_path / "tree") == TREE


def test_a_second_archive_says_that_it_sent_nothing(shell: Shell, tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", {"f": os.urandom(100)})
    first, second = shell.isolate("archive", "-v", "tree"), shell.isolate("archive", "-v", "tree")
    assert "tree: 1 file of 100 bytes; 1 uploaded (100 bytes), dedup 1.0:1; manifest of 140 bytes\n" in first.err
    assert "; 0 uploaded (0 bytes)" in second.err
    assert (first.status, first.out) == (second.status, second.out)


def test_of_a_directory_everything_is_stored_unless_its_user_says_otherwise(shell: Shell, tmp_path: Path) -> None:
    tree: Tree = {".git": {"HEAD": b"ref"}, "m.pyc": b"code", "n.swp": b"", "kept": b"1"}
    write_tree(tmp_path / "tree", tree)
    for options, expected in (
        ((), tree),
        (("--blacklist", r".+\.(pyc|swp)$", "--blacklist", r"\.git$"), {"kept": b"1"}),
    ):
        digest = shell.isolate("archive", "tree", *options).out.split()[0]
        target = f"back{len(options)}"
        assert shell.isolate("download", "-s", digest, "-t", target).status == 0
        assert read_tree(tmp_path / target) == expected
    digest = shell.isolateserver("archive", "tree").out.split()[0]
    assert shell.isolate("download", "-s", digest, "-t", "as-in-2020").status == 0
    assert read_tree(tmp_path / "as-in-2020") == {"kept": b"1"}


def test_several_paths_have_a_line_each_and_a_file_is_its_content(shell: Shell, tmp_path: Path) -> None:
    write_tree(tmp_path, {"tree": TREE, "f": b"content"})
    ended = shell.isolate("archive", "tree", "f", "./tree", "f", "--dump-json", "out.json")
    hashes = {name: digest for digest, name in (line.split("  ") for line in ended.out.splitlines())}
    assert list(hashes) == ["tree", "f", "./tree"]
    assert hashes["tree"] == hashes["./tree"]
    assert json.loads(Path("out.json").read_text()) == hashes
    assert shell.isolate("download", "-f", hashes["f"], "sub/g", "-t", "back").status == 0
    assert Path("back/sub/g").read_bytes() == b"content"


def test_the_line_of_the_readme(shell: Shell, tmp_path: Path) -> None:
    write_tree(tmp_path / "my_tests", {"run.py": b""})
    readme = Path(__file__).parents[2].joinpath("README.md").read_text()
    (line,) = re.findall(r"^isolate (.+?) +# prints (.+)$", readme, re.MULTILINE)
    ended = shell.isolate(*line[0].split())
    assert ended == (0, line[1].replace("<hash>", ended.out[:64]) + "\n", "")


def test_links_of_a_directory_are_collapsed_and_a_part_of_it_kept(shell: Shell, tmp_path: Path) -> None:
    write_tree(tmp_path, {"real": {"g": b"2"}, "tree": {"a": {"b": b"1", "l": Link("../../real")}, "a2": b"3"}})
    (tmp_path / "tree/f").symlink_to("a2")
    for flags, expected in ((["-L"], "a/b\na/l/g\na2\nf\n"), (["-L", "--subdir", "a/"], "a/b\na/l/g\n")):
        digest = shell.isolate("archive", "tree", *flags).out.split()[0]
        assert shell.isolate("ls", digest).out == expected
    assert shell.isolate("cat", shell.isolate("archive", "-L", "tree").out.split()[0], "f").out == "3"
    ended = shell.isolate("archive", "tree", "-L", "--subdir", "c")
    assert (ended.status, ended.err) == (0, "isolate: warning: Nothing in tree begins with 'c'\n")
    (tmp_path / "tree/a/l").unlink()
    assert shell.isolate("ls", shell.isolate("archive", "tree", "--subdir", "./a2").out.split()[0]).out == "a2\n"
    (tmp_path / "tree/a/up").symlink_to("..")
    ended = shell.isolate("archive", "-L", "tree")
    assert (ended.status, "recursive reference" in ended.err) == (2, True)


def test_isolateserver_hashes_as_in_2020_unless_told_otherwise(shell: Shell, tmp_path: Path) -> None:
    """The vector of the protocol."""
    write_tree(tmp_path / "v", {"a.txt": b"hello\n", "bin": {"x": Executable(b"#!/bin/sh\necho hi\n")}, "empty": b""})
    write_tree(tmp_path / "v", {"lnk": Link("a.txt"), "é.txt": b"n\n"})
    for name, mode in (("a.txt", 0o644), ("bin/x", 0o755), ("empty", 0o600), ("é.txt", 0o644)):
        (tmp_path / "v" / name).chmod(mode)
    for flags in ([], ["--namespace", "default"], ["--namespace", "default-gzip"]):
        ended = shell.isolateserver("archive", "v", *flags)
        assert ended == (0, "af6898aa06b8c92a0a77458ca9dbaef1ac5989be v\n", "")
    # What is spelt as a hash is one, also where a file has that name.
    (tmp_path / "af6898aa06b8c92a0a77458ca9dbaef1ac5989be").write_text("{}")
    assert shell.isolateserver("download", "-s", "af6898aa06b8c92a0a77458ca9dbaef1ac5989be", "-t", "w").status == 0
    assert (tmp_path / "w/bin/x").stat().st_mode & 0o700 == 0o700
    assert (
        shell.isolate(
            "diff", "af6898aa06b8c92a0a77458ca9dbaef1ac5989be", "AF6898AA06B8C92A0A77458CA9DBAEF1AC5989BE"
        ).out
        == ""
    )


def test_variables_as_2020_takes_them(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "t.isolate").write_text("{'variables': {'command': ['echo', '<(A)', '<(B)', '<(C)', '<(D)']}}")
    given = ("--config-variable", "A=", "--config-var", "B", "x=y", "--config-variable=C=sub=string")
    ended = shell.isolate("run", "-i", "t.isolate", *given, "--extra-variable", "D", "", "--", "--config-variable")
    assert (ended.status, ended.out) == (0, " x=y sub=string  --config-variable\n")


def test_a_selection_is_archived_and_its_manifest_written(shell: Shell, tmp_path: Path) -> None:
    write_tree(tmp_path / "src", {"lib": {"a": b"1"}, "linux": b"2", "mac": b"3"})
    (tmp_path / "src/t.isolate").write_text(
        "{'variables': {'command': ['run', '<(N)'], 'files': ['lib/']},"
        " 'conditions': [['OS==\"linux\"', {'variables': {'files': ['linux']}}]]}"
    )
    variables = ["--config-variable", "OS", "linux", "--config-variable", "N=07"]
    ended = shell.isolate("archive", "-i", "src/t.isolate", "-s", "t.isolated", *variables)
    digest = ended.out.split()[0]
    assert ended == (0, f"{digest}  t\n", "")
    manifest = json.loads(Path("t.isolated").read_bytes())
    assert (sorted(manifest["files"]), manifest["command"]) == (["lib/a", "linux"], ["run", "7"])
    assert (manifest["read_only"], manifest["relative_cwd"]) == (1, ".")
    assert shell.isolate("download", "-s", digest, "-t", "back").status == 0
    assert read_tree(tmp_path / "back") == {"lib": {"a": b"1"}, "linux": b"2"}
    ended = shell.isolateserver("download", "-s", "t.isolated", "-t", "again")
    assert ended.out == "To run this test please run from the directory again:\n  run 7\n"
    assert shell.isolate("check", "-i", "src/t.isolate", *variables) == (0, "", "")
    (tmp_path / "src/linux").unlink()
    ended = shell.isolate("check", "-i", "src/t.isolate", *variables)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("isolate: error: Failed to find an input file: Input file /")


def test_isolateserver_has_one_space_and_reads_a_list(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path, {"tree": TREE, "f": b"content"})
    ended = shell.isolateserver("archive", "--namespace", "default-gzip", "tree/b/x", "f")
    assert [line.split(" ")[1] for line in ended.out.splitlines()] == ["tree/b/x", "f"]
    assert [len(line.split(" ")[0]) for line in ended.out.splitlines()] == [40, 40]
    read, write = os.pipe()
    os.write(write, b"f\r\ntree\n")
    os.close(write)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        ended = shell.isolateserver("archive", "-")
    assert [line.split(" ")[1] for line in ended.out.splitlines()] == ["f", "tree"]


def sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


ZEROES = "0" * 64
SELECT = ["archive", "-i", "good.isolate", "-s", "x.isolated", "--config-variable", "N"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["archive"], 2, "Nothing to archive"),
        (["archive", "none"], 2, "none is neither a file nor a directory"),
        (["archive", "-i", "none.isolate", "-s", "x.isolated"], 1, "Cannot read '.*none.isolate': No such file"),
        (["archive", "-i", "bad.isolate", "-s", "x.isolated"], 1, "/bad.isolate:2:1: "),
        (["archive", "-i", "good.isolate"], 2, "-i FILE.isolate and -s FILE.isolated go together"),
        (["archive", "-i", "good.isolate", "-s", "x"], 2, "--isolated value must end with '.isolated'"),
        (["archive", "-i", "good.isolate", "-s", "x.isolated"], 1, "missing from the command line: N"),
        (SELECT, 2, "'N' has no value: write NAME=VALUE"),
        ([*SELECT[:-1]], 2, "'--config-variable' requires an argument"),
        ([*SELECT[:-1], "N-1=2"], 2, "'N-1' is not the name of a variable"),
        ([*SELECT, "x"], 1, "none doesn't exist"),
        (["archive", "tree", "--namespace", "blake3-x"], 2, "Namespace 'blake3-x' is unknown"),
        (["archive", "tree", "--namespace", "a/b"], 2, "Namespace 'a/b' may hold only"),
        (["archive", "tree", "--blacklist", "("], 2, "is not a regular expression"),
        (["archive", "tree", "-I", "ftp://x"], 2, "ftp"),
        (["archive", "pipe"], 2, "pipe/p' is a named pipe"),
        (["archive", "bad.isolate", "--subdir", "x"], 2, "bad.isolate is a file"),
        (["archive", "tree", "--nonsense"], 2, "No such option"),
        (["download", "-t", "out"], 2, "Use one of -s HASH and -f HASH DEST"),
        (["download", "-s", "xyz", "-t", "out"], 2, "'xyz' is not a hash"),
        (["download", "-s", ZEROES, "-t", "out"], 1, f"Blob {ZEROES} not found"),
        (["download", "-f", ZEROES, "x", "-t", "out"], 1, f"Blob {ZEROES} not found"),
        (["download", "-f", ZEROES, "../x", "-t", "out"], 2, "Path '../x' is not a plain relative path"),
        (["download", "-f", ZEROES, "/tmp/x", "-t", "out"], 2, "Path '/tmp/x' is not a plain relative path"),
        (["download", "-s", ZEROES, "-t", "tree"], 2, "exists and is not an empty directory"),
        (["check", "-i", "bad.isolate"], 1, "/bad.isolate:2:1: the file has the unknown key 'x'"),
        (
            ["check", "-i", "empty.isolate", "--path-variable", "X=none"],
            1,
            "Execution failure: X=/.*/none is not a dir",
        ),
        (["check", "-s", "x.isolated"], 1, "Execution failure: A .isolate file is required"),
        (["check", "-i", "good.isolate", "-s", "no/x.isolated"], 2, "no' is not a directory"),
        (["remap", "-i", "good.isolate"], 2, "Missing option '-o'"),
        (["remap", "-i", "empty.isolate", "-o", "tree"], 1, "Can't remap in a non-empty directory"),
        (["remap", "-i", "empty.isolate", "-o", "http://x"], 2, "not a URL"),
        (["run", "-i", "empty.isolate"], 1, "Execution failure: No command to run"),
        (["run", "--skip-refresh", "-s", "x.isolated"], 1, "Execution failure: --skip-refresh needs -s with a state"),
        (["run", "-i", "absent.isolate"], 1, "Cannot run '.*no-such-program'"),
        (["batcharchive", "none.json"], 2, "Cannot read 'none.json'"),
        (["batcharchive", "empty.isolate"], 2, "version None, not 1"),
        (["ls", "xyz"], 2, "'xyz' is not a hash"),
        (["ls", ZEROES], 1, f"Blob {ZEROES} not found"),
        (["cat", ZEROES, "x"], 1, f"Blob {ZEROES} not found"),
        (["diff", ZEROES], 2, "Missing argument 'HASH'"),
        (["fmt", "none"], 1, "No such file or directory: 'none'"),
        (["fmt", "pipe/p"], 1, "Cannot read 'pipe/p': it is not a file .hint: `-` is stdin"),
        (["fmt", "bad.isolate"], 1, "bad.isolate:2:1: the file has the unknown key 'x'"),
        (["archive", "tree", "-l", "no/log"], 2, "Cannot write 'no/log': No such file"),
        (["archive", "tree", "--dump-json", "no/x"], 2, "'no/x' cannot be written: 'no' is not a directory"),
        (["archive", "tree", "--dump-json", "tree"], 2, "'tree' cannot be written: it is a directory"),
        (["archive", ""], 2, "'' is neither a file nor a directory"),
        (["batcharchive", "help.json"], 2, "help.json: its flags ask for help instead of an archive"),
        (["download", "-s", sha1(b"{"), "-t", "out"], 1, f"{sha1(b'{')} is not the hash of a tree: Not a manifest: "),
        (["download", "-s", ZEROES, "-t", "/proc/out"], 1, f"Blob {ZEROES} not found"),
        (["ls", sha1(b"{")], 1, f"{sha1(b'{')} is not the hash of a tree: Not a manifest: "),
        (["check", "-i", "."], 1, "Cannot read '/.*': it is not a file"),
        (["check"], 2, "--isolate is required"),
        (["nonsense"], 2, "No such command 'nonsense'"),
    ],
)
def test_bad_input_is_one_line_and_the_right_status(
    shell: Shell, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    write_tree(tmp_path, {"tree": TREE, "pipe": {}, "bad.isolate": b"{\n'x': 1}", "brace": b"{"})
    (tmp_path / "help.json").write_text(json.dumps({"version": 1, "dir": str(tmp_path), "args": ["--help"]}))
    if sha1(b"{") in arguments:
        assert shell.isolate("archive", "brace", "--namespace", "default-gzip").status == 0
    (tmp_path / "good.isolate").write_text(
        "{'conditions': [['N==1', {'variables': {}}]], 'variables': {'files': ['none']}}"
    )
    (tmp_path / "empty.isolate").write_text("{}")
    (tmp_path / "absent.isolate").write_text("{'variables': {'command': ['no-such-program']}}")
    os.mkfifo(tmp_path / "pipe/p")
    ended = shell.isolate(*arguments)
    assert (ended.status, ended.out) == (status, "")
    assert ended.err.count("\n") == 1
    assert re.search(message, ended.err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", [["tree"], ["-i", "x.isolate", "-s", "x.isolated"]])
def test_a_manifest_of_2020_that_nobody_could_read_is_refused_for_what_it_is(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: list[str]
) -> None:
    monkeypatch.setattr("isolate.split.MAX_MANIFEST_BYTES", 100)
    write_tree(tmp_path, {"tree": TREE, "x.isolate": b"{'variables': {'files': ['tree/']}}"})
    ended = shell.isolate("archive", "--namespace", "default-gzip", *what)
    assert (ended.status, ended.out) == (1, "")
    assert re.fullmatch(
        r"isolate: error: \d+ entries or more are too many for one manifest, which a namespace of 2020 demands "
        r"\(hint: use blake3-zstd, or archive the directories one by one\)\n",
        ended.err,
    )
    assert not (tmp_path / "x.isolated").exists()


def test_a_isolate_that_is_a_link_to_itself_is_one_line_also_beside_a_state(shell: Shell, tmp_path: Path) -> None:
    write_tree(tmp_path, {"b.isolate": b"{}", "a.isolate": Link("a.isolate")})
    assert shell.isolate("check", "-i", "b.isolate", "-s", "x.isolated").status == 0
    ended = shell.isolate("check", "-i", "a.isolate", "-s", "x.isolated")
    said = f"isolate: error: Cannot read '{tmp_path}/a.isolate': Too many levels of symbolic links\n"
    assert ended == (1, "", said)


@pytest.mark.parametrize(
    "settings",
    [{"files": ["x" * 90_000]}, {"files": ["../" * 90 + "x" * 90_000]}, {"command": [f"<({'x' * 90_000})"]}],
)
def test_what_is_far_too_long_is_not_shown_as_a_whole(shell: Shell, tmp_path: Path, settings: object) -> None:
    (tmp_path / "x.isolate").write_text(repr({"variables": settings}))
    (tmp_path / "y.isolate").write_text(repr({"includes": ["x" * 90_000]}))
    for name in ("x", "y"):
        ended = shell.isolate("check", "-i", f"{name}.isolate")
        assert (ended.status, ended.err.count("\n")) == (1, 1)
        assert len(ended.err) < 5_000


def test_how_much_was_known_is_told_of_contents_alone(shell: Shell, tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", {f"{number}": os.urandom(20) for number in range(100)})
    assert shell.isolate("archive", "tree").status == 0
    (tmp_path / "tree/7").write_bytes(os.urandom(20))
    told = r"; 1 uploaded \(20 bytes\), dedup 100.0:1; manifest of \d,\d{3} bytes\n"
    assert re.search(told, shell.isolate("archive", "-v", "tree").err)


def test_without_a_server_nothing_goes(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path / "tree", TREE)
    ended = shell.isolate("archive", "-I", "http://127.0.0.1:1", "tree")
    assert ended == (101, "", "isolate: error: Cannot reach http://127.0.0.1:1: connection refused\n")
    monkeypatch.delenv("ISOLATE_SERVER")
    ended = shell.isolate("archive", "tree")
    assert ended.status == 2
    assert ended.err.startswith("isolate: error: --isolate-server is required (or set ISOLATE_SERVER)")


@pytest.mark.parametrize("arguments", [[], ["help"], ["--help"], ["help", "archive"], ["archive", "--help"]])
def test_help(shell: Shell, arguments: list[str]) -> None:
    ended = shell.isolate(*arguments)
    assert (ended.status, ended.err) == (0, "")
    assert "Exit status: 0 ok" in ended.out


@pytest.mark.parametrize("program", ["isolate", "isolateserver"])
def test_the_installed_commands_answer_quickly_because_they_import_little(program: str) -> None:
    command = [sys.executable, "-X", "importtime", str(BIN / program), "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert not imported & {"asyncio", "aiohttp", "blake3", "zstandard", "msgspec", "rich", "sqlite3", "ssl"}


def big_tree(root: Path) -> Path:
    """Return a tree that keeps workers busy for a while."""
    for number in range(40):
        folder = root / str(number)
        folder.mkdir(parents=True)
        for index in range(150):
            (folder / str(index)).write_bytes(os.urandom(20_000))
    return root


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return big_tree(tmp_path_factory.mktemp("big"))


@pytest.mark.parametrize(("sign", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_an_archive_that_is_ended_leaves_no_worker_and_the_next_one_completes(
    big: Path, server: ServerProcess, tmp_path: Path, sign: signal.Signals, status: int
) -> None:
    namespace = {"SIGKILL": "sha256-flat", "SIGINT": "sha512-flat"}[sign.name]
    command = [str(BIN / "isolate"), "archive", "-I", server.url, "--namespace", namespace, "--no-stat-cache", str(big)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as archiving:
        assert wait_until(lambda: bool(workers_of(archiving.pid)))
        workers = workers_of(archiving.pid)
        os.killpg(archiving.pid, sign) if sign == signal.SIGINT else archiving.send_signal(sign)
        out, err = archiving.communicate(timeout=60)
    assert (archiving.returncode, out, err.strip()) == (status, b"", b"")
    assert wait_until(lambda: not any(map(is_running, workers | workers_of(archiving.pid))))
    again = subprocess.run(command, capture_output=True, timeout=120)
    assert (again.returncode, again.stderr) == (0, b"")
