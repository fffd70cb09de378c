"""isolate.config: what is read from the environment."""

from __future__ import annotations

from pathlib import Path

from isolate.config import load


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
