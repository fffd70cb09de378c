"""What a version of a bot is called: a hash of its content, the same on the server and on the bot.

Pure, but for reading what is hashed. The rule for archives is that of 2020: over the files in the order of their names,
the length of each name, the name, the length of the content, the content.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from isolate.cas.digest import SHA256
from isolate.errors import InvalidInput

VERSION = re.compile(r"[0-9a-f]{64}")
PLATFORM = re.compile(r"[a-z0-9_]{1,30}-[a-z0-9_]{1,30}-cp[0-9]{2,4}")
MAX_ARCHIVE_BYTES = 256 << 20
PACKAGES = ("isolate", "run_isolated", "swarming")  # of ours; a bot has no use for the server


def content_version(files: Iterable[tuple[str, bytes]]) -> str:
    """Return the version of an archive with these files, which come in the order of their names."""
    hasher = SHA256.hasher()
    for name, content in files:
        encoded = name.encode()
        for part in (str(len(encoded)).encode(), encoded, str(len(content)).encode(), content):
            hasher.update(part)
    return hasher.digest().hex()


def archive_version(archive: Path) -> str:
    """Return the version of a packed archive; raises InvalidInput for a file that is none."""
    if archive.exists() and not archive.is_file():  # opening a pipe would wait for whoever writes to it
        raise InvalidInput(f"{archive} is no bot archive: it is no file")
    try:
        with zipfile.ZipFile(archive) as packed:
            return content_version((name, packed.read(name)) for name in sorted(packed.namelist()))
    except (OSError, zipfile.BadZipFile, EOFError, RuntimeError) as error:
        raise InvalidInput(f"{archive} is no bot archive: {error}") from error


def code_version() -> str:
    """Return a hash of the code that is installed here: the version of a bot that came in no archive.

    Equal on two machines exactly when their bots are the same program.
    """
    parts: list[bytes] = []
    for package in PACKAGES:
        root = Path(__file__).parent.parent / package  # not found by name: a command of that name may stand before it
        for path in sorted(root.rglob("*.py")):
            name = f"{package}/{path.relative_to(root).as_posix()}".encode()
            parts += [name, b"\0", path.read_bytes(), b"\0"]
    return SHA256.digest(b"".join(parts)).hex()


def write_archive(path: Path, files: Mapping[str, bytes]) -> str:
    """Pack files so that equal ones make equal archives; return the version."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as packed:
        for name in sorted(files):
            packed.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), files[name], zipfile.ZIP_DEFLATED)
    return content_version((name, files[name]) for name in sorted(files))
