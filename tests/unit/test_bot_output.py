"""What a task prints: pipe, file, chunks."""

from __future__ import annotations

import base64
import os
from pathlib import Path

from swarming.bot.output import CHUNK_BYTES, Spool, SpoolWriter, encode_chunk


def write_all(writer: SpoolWriter, data: bytes) -> None:
    while data:
        data = data[os.write(writer.write_end, data) :]


def test_everything_printed_is_in_the_file(tmp_path: Path) -> None:
    signs: list[int] = []
    writer = SpoolWriter(tmp_path / "stdout", lambda: signs.append(1))
    data = os.urandom(300_000)
    write_all(writer, data)
    writer.finish(10)
    assert (tmp_path / "stdout").read_bytes() == data
    assert writer.written_bytes == len(data)
    assert signs


def test_beyond_the_limit_is_counted_not_kept(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path / "stdout", lambda: None, limit_bytes=10)
    write_all(writer, b"0123456789abc")
    writer.finish(10)
    assert (tmp_path / "stdout").read_bytes() == b"0123456789"
    assert writer.dropped_bytes == 3


def test_a_stray_writer_does_not_hold_the_end_up(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path / "stdout", lambda: None)
    stray = os.dup(writer.write_end)
    writer.finish(0)
    os.close(stray)
    writer.finish_reading(10)
    assert writer.written_bytes == 0


def test_chunks_come_in_order_and_only_once_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "stdout"
    data = os.urandom(CHUNK_BYTES + 7)
    path.write_bytes(data)
    spool = Spool(path)
    assert spool.chunk() == b""
    spool.grown_to(len(data))
    first = spool.chunk()
    assert spool.chunk() == first
    spool.sent(first)
    second = spool.chunk()
    spool.sent(second)
    assert first + second == data
    assert spool.pending_bytes == 0
    assert spool.chunk() == b""


def test_the_file_itself_says_how_long_it_is(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "stdout")
    spool.measure()
    assert spool.pending_bytes == 0
    (tmp_path / "stdout").write_bytes(b"abc")
    spool.measure()
    assert spool.chunk() == b"abc"


def test_a_chunk_says_where_it_belongs() -> None:
    fields = encode_chunk(5, b"abc")
    assert fields == {"output": base64.b64encode(b"abc").decode(), "output_chunk_start": 5}
    assert encode_chunk(5, b"") == {}
