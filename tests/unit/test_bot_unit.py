"""The systemd unit of a bot."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarming.bot.unit import program, systemd_unit


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("--id", "--id"),
        ("a b", '"a b"'),
        ("50%", "50%%"),
        ("$HOME", "$$HOME"),
        ('say "hi"', '"say \\"hi\\""'),
        ("back\\slash", '"back\\\\slash"'),
        ("", '""'),
    ],
)
def test_words_mean_to_systemd_what_they_mean_here(word: str, written: str) -> None:
    assert f"ExecStart=python {written}\n" in systemd_unit("b", ["python", word])


def test_the_unit_names_the_bot_and_comes_back_after_its_end() -> None:
    unit = systemd_unit("bot-1", program(Path("/srv/bot")))
    assert "Description=Swarming bot bot-1\n" in unit
    assert "-m swarming.bot.cli\n" in unit
    assert "Restart=always\n" in unit
