"""What the server is told from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from isolate.errors import InvalidInput
from server.config import ServerConfig, blob_limits, default_data_dir
from server.stores.limits import BlobLimits
from server.units import bytes_text, parse_bytes, parse_duration_s


def test_the_directory_of_the_user() -> None:
    assert default_data_dir({"XDG_DATA_HOME": "/data"}) == Path("/data/isolate-server")
    for ignored in ("", "relative/path"):
        found = default_data_dir({"XDG_DATA_HOME": ignored})
        assert found == Path.home() / ".local/share/isolate-server"


def test_flags() -> None:
    config = ServerConfig.from_flags(Path("/d"), "localhost", 0, {})
    assert (config.data_dir, config.address, config.port) == (Path("/d"), "127.0.0.1", 0)
    assert ServerConfig.from_flags(None, "::1", 1, {"XDG_DATA_HOME": "/x"}).data_dir == Path("/x/isolate-server")
    with pytest.raises(InvalidInput, match="without authentication"):
        ServerConfig.from_flags(None, "0.0.0.0", 1, {})


@pytest.mark.parametrize(("size", "told"), [("0", "0 B"), ("10", "10 B"), ("1023K", r"1023\.0 KiB")])
def test_a_store_that_would_refuse_everything_is_not_opened(size: str, told: str) -> None:
    reason = rf"--max-size of {told}: a block of an upload has 1\.0 MiB; leave it out for no limit"
    with pytest.raises(InvalidInput, match=reason):
        ServerConfig.from_flags(None, "::1", 1, {}, blob_limits(size, None, None))
    assert ServerConfig.from_flags(None, "::1", 1, {}, blob_limits("1M", None, None)).limits.max_bytes == 1 << 20


def test_limits() -> None:
    assert blob_limits(None, None, None) == BlobLimits()
    limits = blob_limits("1.5G", "10M", "14d")
    assert (limits.max_bytes, limits.min_free_bytes, limits.kept_s) == (3 << 29, 10 << 20, 14 * 86400)
    assert (limits.promised_s, limits.temporary_kept_s) == (6 * 3600, 86400)


def test_who_keeps_for_less_promises_less_but_never_less_than_an_hour() -> None:
    limits = blob_limits(None, None, "2h")
    assert (limits.promised_s, limits.kept_s, limits.temporary_kept_s) == (7200, 7200, 7200)
    assert blob_limits(None, None, "1h").promised_s == 3600
    with pytest.raises(InvalidInput, match="--keep 59m: blobs are kept for at least an hour"):
        blob_limits(None, None, "59m")


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("17", 17), ("1k", 1024), ("2 MiB", 2 << 20), ("3GB", 3 << 30), ("1.5T", 3 << 39)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("2m", 120), ("36h", 129600), ("7 d", 604800), ("1W", 604800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "much", "1X", "1e9", "0x10", "inf", "nan", "1 day"])
def test_what_is_neither(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a size"):
        parse_bytes(text)
    with pytest.raises(InvalidInput, match="is not a duration"):
        parse_duration_s(text)


def test_sizes_for_people() -> None:
    assert [bytes_text(size) for size in (0, 1023, 1024, 3 << 29, 5 << 40)] == [
        "0 B", "1023 B", "1.0 KiB", "1.5 GiB", "5.0 TiB",
    ]  # fmt: skip
