"""The start of `run_isolated.pyz`, beside its `__main__.py` in the archive; `pyz.py` fills in the constant.

Runs before anything can be imported, so it has no library; on the right Python, see `pyz_main.py`. The invariant: a
directory it uses was unpacked as a whole, is complete, and nobody else can have written to it.
"""

import os
import shutil
import stat
import sys
import tempfile
import zipfile

CONTENT = ""


def main() -> int:
    """Run the command of this process, from the archive it was started with."""
    sys.path[0] = unpacked(sys.argv[0])
    from isolate.entry import run_isolated

    return run_isolated()


def unpacked(archive: str) -> str:
    """Return a directory with what is in `archive`, unpacked now if it was not before."""
    name = f"run_isolated-{CONTENT}-{os.getuid() if hasattr(os, 'getuid') else 0}"
    beside, aside = os.path.dirname(os.path.abspath(archive)), tempfile.gettempdir()
    with zipfile.ZipFile(archive) as zipped:
        for parent in (beside, aside):
            if is_good(os.path.join(parent, name), zipped):
                return os.path.join(parent, name)
        for parent in (beside, aside):
            try:
                return unpack(zipped, parent, name)
            except OSError as error:
                reason = f"{parent}: {error.strerror}"
    sys.stderr.write(f"run_isolated: error: cannot unpack, neither beside the archive nor in {reason}\n")
    sys.exit(1)


def is_good(path: str, zipped: zipfile.ZipFile) -> bool:
    """Whether `path` is ours alone and holds every file."""
    try:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o022:
            return False
        if hasattr(os, "getuid") and status.st_uid != os.getuid():
            return False
        return all(os.stat(os.path.join(path, item.filename)).st_size == item.file_size for item in zipped.infolist())
    except OSError:  # a cleaner of temporary files has been here
        return False


def unpack(zipped: zipfile.ZipFile, parent: str, name: str) -> str:
    """Unpack under a temporary name, rename, and return the path; somebody else may be faster."""
    temporary = tempfile.mkdtemp(prefix=name + ".", dir=parent)
    try:
        zipped.extractall(temporary)
        path = os.path.join(parent, name)
        try:
            os.rename(temporary, path)
        except OSError:
            if is_good(path, zipped):
                return path
            os.rename(path, os.path.join(temporary, "broken"))  # and goes with it
            fresh = tempfile.mkdtemp(prefix=name + ".", dir=parent)
            zipped.extractall(fresh)
            os.rename(fresh, path)
        return path
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
