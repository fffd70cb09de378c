"""Every command in every spelling, from a wheel in a fresh environment."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
COMMANDS = ("isolate", "isolateserver", "run_isolated", "swarming", "swarming-server", "swarming-bot")
SPELLINGS = (*COMMANDS, "isolate.py", "isolateserver.py", "run_isolated.py", "swarming.py")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment that has only the wheel; its dependencies come from this environment."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    source.mkdir()
    files = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(files, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.split():  # a copy, because a build leaves folders behind
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(place), str(source)], check=True)
    venv.create(place / "venv", with_pip=False)
    python = place / "venv/bin/python"
    (wheel,) = place.glob("*.whl")
    target = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(target, check=True)
    site = next((place / "venv/lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(f"{next(p for p in sys.path if p.endswith('site-packages'))}\n")
    return place / "venv/bin"


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("argument", ["--help", "--version", "help"])
def test_every_spelling_runs_from_a_wheel(installed: Path, tmp_path: Path, spelling: str, argument: str) -> None:
    done = subprocess.run([installed / spelling, argument], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "0.1.0" in done.stdout if argument == "--version" else "Usage:" in done.stdout


@pytest.mark.parametrize("package", ["isolate", "run_isolated", "swarming"])
def test_the_py_spellings_step_aside_when_imported(installed: Path, tmp_path: Path, package: str) -> None:
    """A script in the folder of the commands has that folder first on its path."""
    script = installed / "probe_the_import"
    script.write_text(f"import {package}, {package}.cli\nprint({package}.__file__)\n")
    done = subprocess.run([installed / "python", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(f"site-packages/{package}/__init__.py")


@pytest.mark.parametrize("name", ["bench", "tests", "examples"])
def test_what_is_not_a_part_of_the_product_is_not_installed(installed: Path, name: str) -> None:
    assert not (next((installed.parent / "lib").glob("python*/site-packages")) / name).exists()
