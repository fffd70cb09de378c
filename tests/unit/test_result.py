"""The JSON form of a result is 2020's."""

from __future__ import annotations

import base64
import zlib

import pytest

from run_isolated.result import OutputsRef, RunResult, Stats, Transfer, pack_sizes


@pytest.mark.parametrize(
    ("sizes", "packed"),
    [
        ([], ""),
        ([0], "eJxjAAAAAQAB"),
        ([3, 115], "eJxjLgAAAHgAdA=="),
        ([211, 271], "eJy7zGgDAAK6ARE="),
        ([1_000_000, 1, 2, 1], "eJxjZGDc12ILAAOPAYI="),
    ],
)
def test_sizes_are_packed_as_in_2020(sizes: list[int], packed: str) -> None:
    ours = pack_sizes(sizes)
    # The compression level may vary; what is compressed may not.
    assert unzipped(ours) == unzipped(packed)


def unzipped(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text)) if text else b""


def test_every_key_is_there_when_nothing_ran() -> None:
    assert RunResult(internal_failure="Because").to_json() == {
        "version": 5,
        "exit_code": None,
        "duration": None,
        "had_hard_timeout": False,
        "internal_failure": "Because",
        "outputs_ref": None,
        "cas_output_root": None,
        "stats": {"isolated": {"download": {}}},
    }


def test_everything_is_told() -> None:
    result = RunResult(
        exit_code=-9,
        duration_s=1.5,
        had_hard_timeout=True,
        outputs=OutputsRef("aa", "http://localhost:1", "default-gzip"),
        stats=Stats(
            download=Transfer(0.5, items_cold=(3, 115), items_hot=()),
            upload=Transfer(0.25, items_cold=(0,)),
            initial_number_items=2,
            initial_size_bytes=7,
        ),
    )
    json = result.to_json()
    assert json["exit_code"] == -9
    assert json["outputs_ref"] == {
        "isolated": "aa",
        "isolatedserver": "http://localhost:1",
        "namespace": "default-gzip",
    }
    assert json["stats"] == {
        "isolated": {
            "download": {
                "initial_number_items": 2,
                "initial_size": 7,
                "duration": 0.5,
                "items_cold": pack_sizes([3, 115]),
                "items_hot": "",
            },
            "upload": {"duration": 0.25, "items_cold": pack_sizes([0]), "items_hot": ""},
        }
    }
