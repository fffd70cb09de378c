"""Build `run_isolated.pyz`: the command with all it needs in one file, for a machine that has only Python.

    python -m run_isolated.pyz [DIRECTORY]          # default: dist

Compiled modules cannot be loaded from a zip, so the archive unpacks itself once (see `pyz_start.py`), and it is made
for the platform and the minor version of the Python that builds it; its name says so. Knows no run. The invariant: the
same sources and libraries give the same bytes.
"""

from __future__ import annotations

import io
import os
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from isolate.cas.digest import Namespace
from isolate.cas.files import write_atomic
from isolate.errors import NotFound

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("isolate", "run_isolated")
PROJECT = "isolate-toolkit"  # what it requires is taken along
_LEFT_OUT = {"__pycache__", "bin"}
_LEGAL = ("LICENSE", "METADATA", "NOTICE")
_EPOCH = (1980, 1, 1, 0, 0, 0)


def build(directory: Path) -> Path:
    """Write the archive into `directory` and return its path; raises NotFound when a library is not installed."""
    files = dict(sorted([*_ours(), *_theirs()]))
    platform, version = sysconfig.get_platform(), sysconfig.get_python_version()
    content = "".join(f"{name}\0{len(data)}\0" for name, data in files.items()).encode() + b"".join(files.values())
    digest = Namespace.parse("blake3-zstd").blob(content).digest.hex()[:16]
    known = {"CONTENT": digest, "PLATFORM": platform, "VERSION": version}
    start = {"__main__.py": _with(known, "pyz_main.py"), "pyz_start.py": _with(known, "pyz_start.py")}
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"run_isolated-{platform}-python{version}.pyz"
    write_atomic(path, b"#!/usr/bin/env python3\n" + _zipped({**start, **files}))
    path.chmod(0o755)
    return path


def _with(constants: dict[str, str], file: str) -> bytes:
    """Return one of our files with those of the `constants` filled in that it has."""
    text = (ROOT / "run_isolated" / file).read_text(encoding="ascii")
    for name, value in constants.items():
        text = text.replace(f'{name} = ""', f'{name} = "{value}"')
    return text.encode()


def _zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _ours() -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        for folder, folders, names in os.walk(ROOT / package):
            folders[:] = [name for name in folders if name not in _LEFT_OUT]
            for name in names:
                path = Path(folder, name)
                yield path.relative_to(ROOT).as_posix(), path.read_bytes()


def _theirs() -> Iterator[tuple[str, bytes]]:
    """Yield the files of the libraries, and of what these require."""
    for name in _with_requirements():
        for file in metadata.distribution(name).files or ():
            is_about = file.parts[0].endswith(".dist-info")
            if file.name.startswith(_LEGAL) if is_about else not {"..", *_LEFT_OUT} & set(file.parts):
                yield file.as_posix(), Path(str(file.locate())).read_bytes()


def _with_requirements() -> list[str]:
    from packaging.requirements import Requirement  # a library of the tests: only who builds needs it

    found: dict[str, None] = {}
    pending = [PROJECT]
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found[name] = None
        try:
            needed = [Requirement(text) for text in metadata.requires(name) or ()]
        except metadata.PackageNotFoundError as error:
            raise NotFound(f"The library {name} is not installed here") from error
        pending += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return sorted(set(found) - {PROJECT})


if __name__ == "__main__":
    sys.stdout.write(f"{build(Path(*sys.argv[1:2] or ['dist']))}\n")
