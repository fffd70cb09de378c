"""isolate.config: what is read from the environment and from the configuration file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from isolate.config import MAX_SETTINGS_BYTES, load, load_settings
from isolate.errors import InvalidInput


def test_everything_is_read() -> None:
    config = load(
        {
            "ISOLATE_SERVER": "http://a:1",
            "SWARMING_SERVER": "http://b:2",
            "ISOLATE_DEBUG": "2",
            "XDG_CACHE_HOME": "/caches",
        }
    )
    assert (config.isolate_server, config.swarming_server, config.verbosity) == ("http://a:1", "http://b:2", 2)
    assert (config.stat_cache, config.blob_cache) == (Path("/caches/isolate/stat"), Path("/caches/isolate/blobs"))


def test_empty_and_senseless_values_count_as_absent() -> None:
    config = load({"ISOLATE_SERVER": "", "ISOLATE_DEBUG": "yes", "XDG_CACHE_HOME": "relative", "HOME": "/home/someone"})
    assert (config.isolate_server, config.swarming_server, config.verbosity) == (None, None, 0)
    assert config.cache_root == Path("/home/someone/.cache/isolate")


def test_the_configuration_file_may_be_missing_and_a_link(tmp_path: Path) -> None:
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert load_settings(environment).common == {}
    (tmp_path / "isolate").mkdir()
    assert load_settings(environment).common == {}
    (tmp_path / "mine.toml").write_text("user = 'someone'")
    (tmp_path / "isolate/config.toml").symlink_to("../mine.toml")
    assert load_settings(environment).common == {"user": "someone"}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "it is a pipe, not a file"),
        (os.mkdir, "it is a directory, not a file"),
        (lambda path: path.symlink_to("nowhere"), "it is a link to what is not there"),
        (lambda path: path.write_bytes(b"user = '\xff'"), "it is not UTF-8"),
        (
            lambda path: path.write_bytes(b"#" * (MAX_SETTINGS_BYTES + 1)),
            f"it is longer than {MAX_SETTINGS_BYTES} bytes",
        ),
    ],
)
def test_what_is_no_configuration_file_stops_nobody(
    tmp_path: Path, make: Callable[[Path], object], reason: str
) -> None:
    place = tmp_path / "isolate/config.toml"
    place.parent.mkdir()
    make(place)
    with pytest.raises(InvalidInput) as caught:
        load_settings({"XDG_CONFIG_HOME": str(tmp_path)})
    assert str(caught.value) == f"Cannot read {place}: {reason}"
