"""Task and run ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolate.errors import InvalidInput
from swarming import ids


def test_the_example_of_2020() -> None:
    value = ids.number(1_262_401_445.0, 0x88)  # 2010-01-02T03:04:05Z
    assert ids.pack(value) == "5cee488008810"
    assert ids.pack(value, 1) == "5cee488008811"
    assert ids.unpack("5cee488008811") == (value, 1)


@given(st.floats(ids.EPOCH_S, ids.EPOCH_S + 2**43 / 1000 - 1), st.integers(0, 0xFFFF), st.integers(0, 2))
def test_ids_round_trip(now_s: float, random16: int, try_number: int) -> None:
    value = ids.number(now_s, random16)
    assert 0 < value < 2**63
    assert ids.unpack(ids.pack(value, try_number)) == (value, try_number)


def test_run_ids_and_back() -> None:
    assert ids.run_id("5cee488008810", 2) == "5cee488008812"
    assert ids.task_id("5cee488008812") == ids.task_id("5cee488008810") == "5cee488008810"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "10 ",
        "5cee488008820",
        "5cee488008813",
        "5CEE488008810",
        "05cee488008810",
        "x10",
        "../10",
        "f" * 15 + "10",
        "\uff1110",
    ],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is an invalid key"):
        ids.unpack(text)


def test_numbers_fit_sqlite() -> None:
    assert ids.unpack("7" + "f" * 14 + "10")[0] < 2**63
    with pytest.raises(InvalidInput):
        ids.unpack("8" + "0" * 14 + "10")


def test_a_clock_before_the_epoch_makes_a_valid_id() -> None:
    assert ids.unpack(ids.pack(ids.number(0.0, 3))) == (0x31, 0)
