"""Makes a bot archive: all the files a bot needs besides a Python, from wheels or from what is installed here.

Knows no route. The invariant: the same inputs make the same archive, so building again changes nothing for the bots.
"""

from __future__ import annotations

import email
import importlib
import importlib.metadata
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from isolate.cas.files import sync_directory
from isolate.errors import InvalidInput
from swarming.bot_archive import PACKAGES, PLATFORM, write_archive
from swarming.unpack import platform_key

FOLDER = "bot_archives"
DISTRIBUTION = "isolate-toolkit"
NOT_NEEDED = {"rich"}  # the progress bars of other commands
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def build(data_dir: Path, wheels: Path | None, platform: str | None) -> tuple[str, str]:
    """Put an archive for `platform` (default: this one) in the data directory; return (platform, version).

    Raises InvalidInput.
    """
    key = platform or platform_key()
    if not PLATFORM.fullmatch(key):
        raise InvalidInput(f"Platform {key!r}: say SYSTEM-MACHINE-cpXY, as in {platform_key()}")
    if wheels is None and key != platform_key():
        raise InvalidInput(f"What is installed here is for {platform_key()}: name a folder with wheels for {key}")
    files = installed_files() if wheels is None else wheel_files(wheels, key)
    missing = [name for name in PACKAGES if f"{name}/__init__.py" not in files]
    if missing:
        raise InvalidInput(f"Nothing here has the package {missing[0]!r}: the wheel of {DISTRIBUTION} is needed, too")
    folder = data_dir / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f".{key}.{os.getpid()}"
        version = write_archive(fresh, files)
        fresh.replace(folder / f"{key}.zip")
        sync_directory(folder)
    except OSError as error:
        raise InvalidInput(f"Cannot write to {folder}: {error.strerror}") from error
    return key, version


def wheel_files(folder: Path, key: str) -> dict[str, bytes]:
    """Return what the wheels in a folder install; raises InvalidInput, also for one that is not for platform `key`."""
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise InvalidInput(f"{folder} has no wheels (*.whl)")
    for wheel in wheels:
        if not _fits(wheel.stem, key):
            raise InvalidInput(f"{wheel} is not for {key}, as its name says")
    files: dict[str, bytes] = {}
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as packed:
                files |= {
                    place: packed.read(name)
                    for name in packed.namelist()
                    if (place := _place(name)) and not name.endswith("/")
                }
        except (OSError, zipfile.BadZipFile) as error:
            raise InvalidInput(f"{wheel} is no wheel: {error}") from error
    if lacking := sorted(_lacking(files)):
        raise InvalidInput(f"{folder} lacks a wheel of {', '.join(lacking)}: `pip wheel` brings those needed, too")
    return {name: content for name, content in files.items() if not name.startswith("server/")}


def _lacking(files: Mapping[str, bytes]) -> set[str]:
    """Return the names of distributions that something in `files` needs and that are not there."""
    needed, there = set(), set()
    for name, content in files.items():
        if name.endswith(".dist-info/METADATA"):
            about = email.message_from_bytes(content)
            there.add(_plain(about.get("Name", "")))
            needed |= {_plain(wanted) for wanted in _wanted(about.get_all("Requires-Dist", []))}
    return needed - there - NOT_NEEDED


def installed_files() -> dict[str, bytes]:
    """Return what is installed here of this product and all it needs; raises InvalidInput."""
    files: dict[str, bytes] = {}
    for package in PACKAGES:
        root = Path(next(iter(importlib.import_module(package).__path__)))
        for path in root.rglob("*"):
            inner = path.relative_to(root)
            if path.is_file() and "__pycache__" not in inner.parts:
                files[f"{package}/{inner.as_posix()}"] = path.read_bytes()
    for name in sorted(_needed(DISTRIBUTION, NOT_NEEDED) - {DISTRIBUTION}):
        for file in importlib.metadata.distribution(name).files or ():
            path = Path(str(file.locate()))
            if ".." not in file.parts and "__pycache__" not in file.parts and path.is_file():
                files[file.as_posix()] = path.read_bytes()
    return files


def _needed(name: str, without: set[str]) -> set[str]:
    """Return the names of a distribution and of all it needs, extras aside."""
    found: set[str] = set()
    open_ends = [name]
    while open_ends:
        one = open_ends.pop()
        if one in found or one in without:
            continue
        try:
            requirements = importlib.metadata.requires(one) or ()
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system or another Python than this one, else this program would not run
        found.add(one)
        open_ends += (name.lower() for name in _wanted(requirements, with_conditions=True))
    return found


def _wanted(requirements: Iterable[str], *, with_conditions: bool = False) -> Iterator[str]:
    """Yield the names in lines of Requires-Dist, extras aside; those for some platforms only `with_conditions`."""
    for requirement in requirements:
        wanted, _, condition = requirement.partition(";")
        match = _NAME.match(wanted.strip())
        if match and "extra" not in condition and (with_conditions or not condition):
            yield match[0]


def _plain(name: str) -> str:
    """Return the name of a distribution as all its spellings have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _fits(stem: str, key: str) -> bool:
    """Say whether a wheel can be used on a platform: `NAME-VERSION[-BUILD]-PYTHON-ABI-PLATFORM` beside ours."""
    system, machine, python = key.split("-")
    *_, pythons, abis, platforms = ["", "", *stem.split("-")]
    names = set(pythons.split("."))
    minors = [int(name[3:]) for name in names if re.fullmatch(r"cp3\d+", name)]
    is_stable = "abi3" in abis.split(".") and any(minor <= int(python[3:]) for minor in minors)
    if not ({"py3", python} & names or is_stable):
        return False
    libc = "musllinux" if system == "linuxmusl" else ("manylinux", "linux") if system == "linux" else ""
    kind = libc or {"darwin": "macosx", "win32": "win"}.get(system, system)
    return any(
        one == "any" or (one.startswith(kind) and one.endswith((machine, "universal2"))) for one in platforms.split(".")
    )


def _place(name: str) -> str:
    """Return where a file of a wheel goes, "" for what is no library."""
    first, _, rest = name.partition("/")
    if not first.endswith(".data"):
        return name
    kind, _, inner = rest.partition("/")
    return inner if kind in {"purelib", "platlib"} else ""
