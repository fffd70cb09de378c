"""Brings a bot to a machine that has only a Python: fetch an archive, unpack it once, become the bot.

Needs nothing but the standard library, because its text is what `/bootstrap` serves; a bot that updates itself uses the
same functions. The invariant: a folder named by a version is whole, because it gets its name last and loses it first.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from contextlib import suppress
from pathlib import Path

FOLDER = "code"  # below the directory of the bot: one folder per version
LOCK = "swarming.lck"  # held by the bot of a directory while it lives
EMPTIED = ("w", "c", "isolated_cache")  # folders in which a bot deletes what it does not know
_VERSION = re.compile(r"[0-9a-f]{64}")
_GONE = re.compile(r"\.[0-9a-f]{64}\.\d+\.gone")  # a version that is being deleted, or was when the machine stopped
CURRENT, PREVIOUS = "current", "previous"  # links to the version in use and to the one before


def platform_key() -> str:
    """Return what an archive must be made for to run here: `linux-x86_64-cp311`."""
    libc = "" if sys.platform != "linux" or platform.libc_ver()[0] else "musl"
    return f"{sys.platform}{libc}-{platform.machine().lower()}-cp{sys.version_info[0]}{sys.version_info[1]}"


def unpack(archive: Path, folder: Path, version: str) -> Path:
    """Make an archive a private environment in `folder`, unless it is there; return its interpreter. Raises OSError."""
    place = folder / version
    if not place.exists():
        fresh = folder / f".{version}.{os.getpid()}"
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            _fill(fresh, archive)
            fresh.rename(place)
        except BaseException as error:
            shutil.rmtree(fresh, ignore_errors=True)  # half of it would keep a full disk full
            if not isinstance(error, OSError) or not place.exists():  # else another process was faster
                raise
    return place / "bin" / "python"


def _fill(fresh: Path, archive: Path) -> None:
    library = fresh / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    library.mkdir(parents=True)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(library)
    base = Path(sys.executable).resolve()
    (fresh / "bin").mkdir()
    (fresh / "bin" / "python").symlink_to(base)
    (fresh / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")


def discard(folder: Path, version: str) -> None:
    """Delete a version that does not work here, unless it is what would be started."""
    if _VERSION.fullmatch(version) and version not in {_target(folder / CURRENT), _target(folder / PREVIOUS)}:
        _delete(folder / version)


def _delete(place: Path) -> None:
    """Delete a version as well as it goes; it loses its name first, so that half of it is never taken for all."""
    gone = place.with_name(f".{place.name}.{os.getpid()}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    with suppress(OSError):  # not there, or the disk cannot be written now
        place.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def choose(folder: Path, version: str) -> None:
    """Make a version the one that is started from now on; the one before stays as the last known good, others go.

    Whatever else is in the folder may be somebody's work, and stays.
    """
    current = folder / CURRENT
    before = os.readlink(current) if current.is_symlink() else ""
    if before and before != version:
        _link(folder / PREVIOUS, before)
    _link(current, version)
    kept = {CURRENT, PREVIOUS, version, before}
    for entry in folder.iterdir():
        if _GONE.fullmatch(entry.name):
            shutil.rmtree(entry, ignore_errors=True)
        if not _VERSION.fullmatch(entry.name):
            continue
        if entry.name not in kept and not (before == version and entry.name == _target(folder / PREVIOUS)):
            _delete(entry)


def go_back(folder: Path, version: str) -> bool:
    """Make the last known good version the one that is started again; False when there is none but `version`."""
    before = _target(folder / PREVIOUS)
    if before in {"", version} or not (folder / before / "bin" / "python").exists():
        return False
    _link(folder / CURRENT, before)
    (folder / PREVIOUS).unlink()
    return True


def _link(link: Path, target: str) -> None:
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.symlink_to(target)
    fresh.replace(link)


def _target(link: Path) -> str:
    return os.readlink(link) if link.is_symlink() else ""


def _message(body: str) -> str:
    """Return what a server says is wrong, without its wrapping."""
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return body[:1000]


def foreign(directory: Path) -> str:
    """Return the name of a folder that a bot would empty though no bot has ever been in `directory`; "" for none."""
    if (directory / LOCK).exists():
        return ""
    return next((name for name in EMPTIED if (directory / name).is_dir() and os.listdir(directory / name)), "")


def _take(directory: Path) -> bool:
    """Own a directory until this process becomes the bot; ends the program when there is a bot in it.

    Return whether this is its first lock.
    """
    try:
        import fcntl
    except ImportError:
        return False  # not a POSIX system: the bot itself will see
    is_first = not (directory / LOCK).exists()
    lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o644)  # not inheritable, as all that Python opens
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"swarming-bot: error: Another bot runs in {directory}: a second one needs a directory of its own")
    return is_first


def bootstrap(url: str, arguments: list[str]) -> None:
    """Fetch the archive for this machine from the server at `url`, and become a bot in the current directory.

    A failure leaves nothing that was not there before.
    """
    directory = Path.cwd()
    if directory in {Path.home().resolve(), Path("/")}:
        sys.exit(f"swarming-bot: error: {directory} cannot be the directory of a bot: make one for it, and go there")
    made: list[Path] = []
    try:
        if name := foreign(directory):
            sys.exit(f"swarming-bot: error: {directory / name} is not of a bot: go to an empty directory")
        if _take(directory):
            made.append(directory / LOCK)
        python = _installed(url, directory / FOLDER, made)
    except BaseException as error:
        for path in reversed(made):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            sys.exit(f"swarming-bot: error: Cannot use {directory} as the directory of a bot: {error.strerror}")
        raise
    program = [str(python), "-P", "-m", "swarming.bot.cli", "run", "--server", url, "--dir", str(directory)]
    os.execv(program[0], program + arguments)  # noqa: S606


def _installed(url: str, folder: Path, made: list[Path]) -> Path:
    """Have the version of the server in `folder` and chosen; return its interpreter, and what is new in `made`."""
    if not folder.exists():
        made.append(folder)
        folder.mkdir()
    wanted = f"{url}/bot_code?{urllib.parse.urlencode({'platform': platform_key()})}"
    archive = folder / f".download.{os.getpid()}"
    try:
        with urllib.request.urlopen(wanted, timeout=60) as reply, archive.open("wb") as file:  # noqa: S310 - as configured
            version = urllib.parse.urlsplit(reply.url).path.rpartition("/")[2]
            shutil.copyfileobj(reply, file)
        if not (folder / version).exists():
            made.append(folder / version)
        python = unpack(archive, folder, version)
        choose(folder, version)
    except urllib.error.HTTPError as error:
        sys.exit(f"swarming-bot: error: {_message(error.read(4000).decode(errors='replace'))}")
    except (OSError, zipfile.BadZipFile) as error:
        sys.exit(f"swarming-bot: error: Cannot get the bot from {wanted}: {error}")
    finally:
        archive.unlink(missing_ok=True)
    return python
