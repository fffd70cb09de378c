"""What mountinfo says of a directory: what is mounted below it, and where else what it has is mounted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from isolate.cas.mounts import Mount, find_alias, has_mounts, nameless_inodes, parse, touches

TABLE = rb"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 8:1 /home /home rw,relatime shared:1 - ext4 /dev/sda1 rw
40 27 254:0 /work/a\040b\011c\012d\134e\043f/x /mnt/t\011b rw - ext4 /dev/vda rw
"""
LAYERS = b"41 27 0:60 / /m rw - overlay overlay rw,"
ODD = b"/work/a b\tc\nd\\e#f"


def test_names_are_unescaped() -> None:
    assert parse(TABLE)[3] == Mount(b"40", b"254:0", ODD + b"/x", b"/mnt/t\tb")


def test_a_carriage_return_ends_no_line() -> None:
    assert parse(b"41 27 8:1 / /mnt/a\rb rw - ext4 /dev/sda1 rw\n") == [Mount(b"41", b"8:1", b"/", b"/mnt/a\rb")]


@pytest.mark.parametrize(
    ("line", "path", "expected"),
    [
        (b"", ODD, True),  # the source is in it
        (b"", ODD + b"/x", True),  # the source is it
        (b"", ODD + b"/x/y", False),  # a mount of what is above shows no more than there is anyway
        (b"", ODD[:-1], False),
        (b"", b"/mnt", True),
        (b"", b"/mnt/t\tb", False),  # on the mount, with nothing below
        (b"", b"/home/u", False),
        (rb"41 27 8:1 /home/u/f /mnt/f rw - ext4 /dev/sda1 rw", b"/home/u", True),
        (rb"41 27 254:0 /home/u/f /mnt/f rw - ext4 /dev/vda rw", b"/home/u", False),  # another file system
        (rb"41 27 8:1 /home/u/f//deleted /mnt/f rw - ext4 /dev/sda1 rw", b"/home/u", True),
        (rb"41 27 8:1 /home/uu /mnt/f rw - ext4 /dev/sda1 rw", b"/home/u", False),
        (rb"41 27 0:50 / /home/u rw - tmpfs tmpfs rw", b"/home/u", False),
        (rb"41 27 0:50 / /home/u/d rw - tmpfs tmpfs rw", b"/home/u", True),
    ],
)
def test_mounts_below_and_sources_within(line: bytes, path: bytes, expected: bool) -> None:
    assert touches(parse(TABLE + line), path) is expected


def test_without_a_table_nothing_is_mounted() -> None:
    assert not touches([], b"/work")
    assert find_alias([], b"/work") is None


@pytest.mark.parametrize(
    ("line", "path", "expected"),
    [
        (b"", b"/work", b"/mnt/t\tb"),  # a part of it
        (b"", ODD + b"/x/cache", b"/mnt/t\tb/cache"),
        (b"", ODD + b"/y", None),
        (b"", b"/mnt/t\tb/cache", ODD + b"/x/cache"),  # the other way round
        (b"", b"/home/u/cache", None),
        (b"41 27 8:1 /home /alias rw - ext4 /dev/sda1 rw", b"/home/u/cache", b"/alias/u/cache"),
        (b"41 27 8:1 /home/u/cache /alias rw - ext4 /dev/sda1 rw", b"/home/u/cache", b"/alias"),
        (b"41 27 8:1 /home/u/cach /alias rw - ext4 /dev/sda1 rw", b"/home/u/cache", None),
        (LAYERS + rb"lowerdir=/l,upperdir=/home/u\040u,workdir=/home/w", b"/home/u u/cache", b"/m/cache"),
        (LAYERS + rb"lowerdir=/l,upperdir=/home/u/cache/trees,workdir=/w", b"/home/u/cache", b"/m"),
        (LAYERS + rb"lowerdir=/l:/home/u\134:\134\134x:/m,upperdir=/k", rb"/home/u:\x/cache", b"/m/cache"),
        (LAYERS + rb"lowerdir+=/l,lowerdir+=/home/u/,volatile", b"/home/u/cache", b"/m/cache"),
        (LAYERS + rb"lowerdir=u,upperdir=/home/uu,workdir=/home/u", b"/home/u/cache", None),
        (LAYERS.replace(b" / ", b" /x ") + b"upperdir=/home/u", b"/home/u/x/cache", b"/m/cache"),
        (LAYERS.replace(b" / ", b" /x ") + b"upperdir=/home/u", b"/home/u/cache", None),
        (LAYERS.replace(b"/m", b"/home") + b"upperdir=/", b"/home/u/cache", None),  # it is on the overlay itself
        (b"41 27 8:1 /home/u/cache /home/u/cache rw - ext4 /dev/sda1 rw", b"/home/u/cache", None),  # on itself
        (b"41 27 8:1 /home/u /home/u/cache/m rw - ext4 /dev/sda1 rw", b"/home/u/cache", None),  # in itself
    ],
)
def test_another_way_to_a_directory(line: bytes, path: bytes, expected: bytes | None) -> None:
    assert find_alias(parse(TABLE + line), path) == expected


def test_real_mounts_are_seen(tmp_path: Path) -> None:
    """In a namespace of its own, so that nothing of this is left, whatever happens."""
    odd = tmp_path / "a b\tc\nd\\e"
    (odd / "in").mkdir(parents=True)
    for name in ("in/file", "bare"):
        (odd / name).write_text(name)
    for name in ("file", "bare"):
        (tmp_path / name).touch()
    code = """
import os, subprocess, sys
from pathlib import Path
from isolate.cas.mounts import has_mounts, nameless_inodes
odd, top = Path(sys.argv[1]), Path(sys.argv[1]).parent
bind = lambda source, point: subprocess.run(["mount", "--bind", source, point], check=True)
seen = [has_mounts(odd)]
bind(odd / "in/file", top / "file"); seen.append(has_mounts(odd)); seen.append(has_mounts(odd / "in"))
subprocess.run(["umount", top / "file"], check=True); seen.append(has_mounts(odd))
bind(top, odd / "in"); seen.append(has_mounts(odd)); subprocess.run(["umount", odd / "in"], check=True)
inode = os.stat(odd / "bare").st_ino
os.link(odd / "bare", top / "kept"); bind(odd / "bare", top / "bare"); (odd / "bare").unlink()
seen.append(inode in (nameless_inodes(top) or ()))
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", top], check=True); seen.append(nameless_inodes(odd.parent.parent))
print(seen)
"""
    argv = ["unshare", "-m", "--propagation", "private", sys.executable, "-c", code, str(odd)]
    if subprocess.run([*argv[:4], "true"], capture_output=True).returncode:
        pytest.skip("a mount namespace is not allowed here, or not to us")
    done = subprocess.run(argv, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.stdout, done.stderr) == ("[False, True, True, False, True, True, None]\n", "")
    assert not has_mounts(odd)
    assert os.stat(tmp_path / "kept").st_ino not in (nameless_inodes(tmp_path) or ())
