"""The single file: on a Python that has nothing else, on one it was not made for, and in awkward places."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from run_isolated import pyz
from run_isolated.pyz import build
from tests.flow.servers import ServerProcess

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
BARE = ("-I", "-S")  # no environment, no site-packages


def bare_python() -> str:
    """Return the machine's own Python if it is of our version, else ours."""
    found = shutil.which(f"python{VERSION}", path="/usr/bin:/usr/local/bin")
    return found or sys.executable


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("pyz"))


@pytest.fixture
def archive(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(built, tmp_path / "run_isolated.pyz"))


def call(archive: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    place = archive.parent.parent / "runs"
    command = [bare_python(), *BARE, str(archive), "--no-log", "--root-dir", str(place), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"], **env})


def test_it_says_what_it_is_for(built: Path) -> None:
    assert f"-python{VERSION}" in built.name
    assert os.access(built, os.X_OK)


def test_a_whole_run_on_a_bare_python_unpacks_once(archive: Path, server: ServerProcess, tmp_path: Path) -> None:
    flags = ["-I", server.url, "--cache", str(tmp_path / "cache")]
    done = call(archive, *flags, "--", "sh", "-c", "echo hello; echo out > ${ISOLATED_OUTDIR}/x; exit 3")
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith("hello\n[run_isolated_out_hack]{")
    unpacked = [path for path in tmp_path.iterdir() if path.is_dir() and path.name.startswith("run_isolated-")]
    assert len(unpacked) == 1
    before = unpacked[0].stat().st_ino
    told = done.stdout.partition('"hash":"')[2].partition('"')[0]
    assert call(archive, *flags, "-s", told, "cat", "x").stdout == "out\n"
    assert unpacked[0].stat().st_ino == before


def test_damaged_or_foreign_unpacked_directory_is_replaced(archive: Path, tmp_path: Path) -> None:
    assert call(archive, "true").returncode == 0
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir() and path.name.startswith("run_isolated-"))
    (unpacked / "run_isolated/run.py").unlink()
    assert call(archive, "true").returncode == 0
    unpacked.chmod(0o777)
    (unpacked / "run_isolated/cli.py").write_text("raise SystemExit('poisoned')\n")
    done = call(archive, "true")
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("run_isolated-")] == [unpacked.name]


def test_beside_it_nothing_can_be_written(built: Path, tmp_path: Path) -> None:
    start = tmp_path / "aside"
    start.mkdir()
    with zipfile.ZipFile(built) as zipped:
        code = zipped.read("pyz_start.py").decode()
    # As root every directory is writable: so the place beside does not exist at all.
    place = f"import zipfile; zipfile.ZipFile = lambda _, z=zipfile.ZipFile: z({str(built)!r})\n"
    (tmp_path / "start.py").write_text(
        place + code.replace("sys.argv[0]", "'/proc/absent/x.pyz'") + "\nsys.exit(main())"
    )
    command = [bare_python(), "-S", str(tmp_path / "start.py"), "--no-log", "--root-dir", str(tmp_path / "w"), "true"]
    done = subprocess.run(command, capture_output=True, text=True, env={"TMPDIR": str(start), "PATH": "/usr/bin:/bin"})
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(start.iterdir())) == 1


def test_other_python_gets_one_clear_line(built: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(built) as zipped:
        code = zipped.read("__main__.py").decode()
    (tmp_path / "start.py").write_text(code.replace(f'VERSION = "{VERSION}"', 'VERSION = "3.99"', 1))
    done = subprocess.run([bare_python(), str(tmp_path / "start.py")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("run_isolated: error: this archive is for cpython 3.99 on ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("python", ["2.7", "3.6", "3.13"])
def test_other_python_that_is_here_gets_it_too(built: Path, python: str) -> None:
    found = sorted((Path.home() / ".pyenv/versions").glob(f"{python}.*/bin/python"))
    other = found[-1] if found else shutil.which(f"python{python}")
    if other is None:
        pytest.skip(f"there is no Python {python} here")
    done = subprocess.run([other, built, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    needed = f"run_isolated: error: this archive is for cpython {VERSION} on "
    assert done.stderr.startswith(needed)
    assert f"; this is cpython {python} on " in done.stderr


def test_first_file_can_be_read_by_any_python(built: Path) -> None:
    """Where none is here to try, what would be a mistake for an old one is looked for."""
    with zipfile.ZipFile(built) as zipped:
        code = zipped.read("__main__.py").decode("ascii")
    nodes = list(ast.walk(ast.parse(code)))
    modern = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.FunctionDef, ast.ImportFrom, ast.With, ast.Match)
    assert not [node for node in nodes if isinstance(node, modern)]


def test_the_same_files_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyz, "PACKAGES", ())  # somebody may be editing ours
    first, second = build(tmp_path / "1"), build(tmp_path / "2")
    assert first.read_bytes() == second.read_bytes()


def test_package_can_be_run_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "run_isolated", "--no-log", "--root-dir", str(tmp_path), "echo", "hello"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")
