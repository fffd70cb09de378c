"""What a task prints: pipe, file, chunks."""

from __future__ import annotations

import base64
import errno
import os
from pathlib import Path

import pytest

from swarming.bot.output import CHUNK_BYTES, Spool, encode_chunk

LIMIT_S = 20


class Printer:
    """The writing end of a pipe that fills a spool."""

    def __init__(self, spool: Spool) -> None:
        source, self.end = os.pipe()
        self.signs = 0
        spool.fill_from(source, self._grown)

    def _grown(self) -> None:
        self.signs += 1

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.end, data) :]


def filled(spool: Spool, data: bytes) -> Spool:
    printer = Printer(spool)
    printer.write(data)
    os.close(printer.end)
    spool.finish(LIMIT_S)
    assert printer.signs > 0
    return spool


def test_everything_printed_is_in_the_file(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    spool = filled(Spool(tmp_path / "stdout"), data)
    assert (tmp_path / "stdout").read_bytes() == data
    assert spool.written_bytes == len(data)


def test_what_comes_byte_by_byte_wakes_nobody_for_each(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "stdout")
    printer = Printer(spool)
    for _ in range(2000):
        printer.write(b"x")
    os.close(printer.end)
    spool.finish(LIMIT_S)
    assert spool.written_bytes == 2000
    assert printer.signs < 1000


@pytest.mark.parametrize(("limit_bytes", "dropped_bytes"), [(9, 1), (10, 0), (11, 0)])
def test_beyond_the_limit_is_counted_not_kept(tmp_path: Path, limit_bytes: int, dropped_bytes: int) -> None:
    spool = filled(Spool(tmp_path / "stdout", limit_bytes), b"0123456789")
    assert (tmp_path / "stdout").read_bytes() == b"0123456789"[:limit_bytes]
    assert spool.dropped_bytes == dropped_bytes


class FullDisk:
    """Takes so many bytes, then refuses one write, then has space again."""

    def __init__(self, free_bytes: int) -> None:
        self.free_bytes, self.refusals = free_bytes, 0

    def write(self, file: int, data: bytes) -> int:
        if self.free_bytes or self.refusals:
            data = data if self.refusals else data[: self.free_bytes]
            written = os.write(file, data)
            self.free_bytes = max(0, self.free_bytes - written)
            return written
        self.refusals += 1
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("kept_bytes", [0, 4, 10])
def test_a_full_disk_ends_the_output_with_a_word_and_leaves_no_gap(tmp_path: Path, kept_bytes: int) -> None:
    data, disk = b"0123456789" + os.urandom(3 * 64 << 10), FullDisk(kept_bytes)
    spool = filled(Spool(tmp_path / "stdout", write=disk.write), data)
    assert (disk.refusals, (tmp_path / "stdout").read_bytes()) == (1, data[:kept_bytes])
    assert spool.lost_bytes == len(data) - kept_bytes
    assert sent(spool) == data[:kept_bytes] + f"\n[{spool.complaint}]\n".encode()
    assert spool.complaint == f"the bot's disk was full: {spool.lost_bytes} bytes of output after this were not kept"


def sent(spool: Spool) -> bytes:
    found = b""
    while chunk := spool.chunk():
        found += chunk
        spool.sent(chunk[: len(chunk) // 2] or chunk)  # the rest comes again, as after a lost reply
        found = found[: spool.sent_bytes]
    assert spool.pending_bytes == 0
    return found


def test_a_stray_writer_does_not_hold_the_end_up(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "stdout")
    stray = Printer(spool)
    spool.finish(0)
    os.close(stray.end)
    spool.finish(LIMIT_S)
    assert spool.written_bytes == 0


def test_output_of_another_task_is_never_mixed_in(tmp_path: Path) -> None:
    (tmp_path / "stdout").write_bytes(b"of another task")
    with pytest.raises(FileExistsError):
        Printer(Spool(tmp_path / "stdout"))


def test_chunks_come_in_order_and_only_once_acknowledged(tmp_path: Path) -> None:
    data = os.urandom(CHUNK_BYTES + 7)
    assert Spool(tmp_path / "absent").chunk() == b""
    spool = filled(Spool(tmp_path / "stdout"), data)
    first = spool.chunk()
    assert spool.chunk() == first
    spool.sent(first)
    second = spool.chunk()
    spool.sent(second)
    assert first + second == data
    assert spool.pending_bytes == 0
    assert spool.chunk() == b""


def test_a_chunk_says_where_it_belongs() -> None:
    fields = encode_chunk(5, b"abc")
    assert fields == {"output": base64.b64encode(b"abc").decode(), "output_chunk_start": 5}
    assert encode_chunk(5, b"") == {}
