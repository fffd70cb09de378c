"""The benchmark as it is typed: what stands in its way is one line before anything is measured, and nothing is left."""

from __future__ import annotations

import json
import os
from pathlib import Path
from threading import Thread

import click
import pytest

from bench import __main__ as bench
from bench import bot_overhead, collect, growth, load, million, peers, report, warm_start
from bench.command import made, run_program, working
from bench.measure import Failed, Result, Sample
from bench.place import Size
from bench.session import Differs, Record
from bench.table import Measured, shown
from bench.tree import copy_of

ROW = Measured("1", "archive cold", "", (Result("isolate", False, (Sample(1.0),)),), (), {}, 0.0, ("restic",))
TABLE = {"machine": {"cores": 2}, "load": 0.5, "sittings": 1, "rows": [ROW.as_json()]}


@pytest.fixture(autouse=True)
def nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*_: object) -> None:
        raise AssertionError("it went on to measure")

    monkeypatch.setattr(bench, "machine", measured)
    monkeypatch.setattr(growth, "measured", measured)
    monkeypatch.setattr("isolate.ending.listen", lambda: None)  # signals belong to the tests


def said(capsys: pytest.CaptureFixture[str], program: click.Command, *arguments: object) -> str:
    """Return the one line that a program says about its wrong usage."""
    assert run_program("bench", program, [str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("absent/x.json", "there is no folder"),
        ("dangling", "No such file or directory"),
        ("folder", "is a directory"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, reason: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "absent" / "x.json")
    for program, option in ((bench.main, "--json"), (growth.main, "--json"), (growth.main, "--svg")):
        line = said(capsys, program, option, tmp_path / file)
        assert option in line
        assert reason in line
    assert not (tmp_path / "absent").exists()


def test_a_tree_without_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(__file__)
    assert f"There is no file in {tmp_path}: " in said(capsys, bench.main, "--tree", tmp_path)


def test_two_sizes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "choose one" in said(capsys, bench.main, "--quick", "--full")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[1]", b"{}", json.dumps({**TABLE, "rows": [{"row": "1"}]}).encode(),
     json.dumps({**TABLE, "load": "much"}).encode()],
)  # fmt: skip
def test_what_is_no_table_makes_no_document(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    file, output = tmp_path / "garbage.json", tmp_path / "out.md"
    file.write_bytes(content)
    assert f"{file} is no table of bench --json: " in said(capsys, report.main, file, "--output", output)
    assert f"{file} is no growth of bench.growth" in said(capsys, report.main, "--growth", file, "--output", output)
    assert not output.exists()


@pytest.mark.parametrize(
    "content",
    [[1], {"machine": 1}, {"machine": {"cores": 2}, "size": None}, {"machine": {"cores": 2}, "rows": [1]}],
)
def test_what_is_no_table_is_not_gone_on_with(tmp_path: Path, content: object) -> None:
    file = tmp_path / "table.json"
    record = Record(file, {"cores": 2}, Size(), [])
    record.add(ROW)
    whole = json.loads(file.read_text())
    file.write_text(json.dumps({**whole, **content} if isinstance(content, dict) else content))
    with pytest.raises(Differs, match=r"table\.json (is no table|was measured with another)"):
        record.resume()


@pytest.mark.parametrize(
    "program",
    [bench.main, report.main, growth.main, million.main, load.main, collect.main, warm_start.main, bot_overhead.main],
)
def test_every_program_has_the_short_word_for_help(capsys: pytest.CaptureFixture[str], program: click.Command) -> None:
    assert run_program("bench", program, ["-h"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Usage: python -m bench ")
    assert "-h, --help" in out
    assert out.count("-v, --verbose") == 1


def test_the_record_goes_where_its_name_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("table.json")
    Record(tmp_path / "link", {}, Size(), []).add(ROW)
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "table.json").read_text())["rows"][0]["absent"] == ["restic"]
    pipe, got = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    Record(pipe, {}, Size(), []).add(ROW)
    reader.join()
    assert json.loads(got[0])["rows"][0]["row"] == "1"
    assert pipe.is_fifo()
    with pytest.raises(Differs, match="is no file that keeps anything"):
        Record(pipe, {}, Size(), []).resume()


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "table.json").mkdir()
    with pytest.raises(IsADirectoryError):
        Record(tmp_path / "table.json", {}, Size(), []).add(ROW)
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


def test_folders_that_were_made_go_again_unless_something_is_kept_in_them(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for scratch in ("a/b", "old", "old/c"):
        with working("bench-", tmp_path / scratch) as folder:
            assert folder.parent == tmp_path / scratch
            (folder / "file").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["old"]
    with made(tmp_path / "data" / "x"):
        (tmp_path / "data" / "kept").touch()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["kept"]
    with pytest.raises(click.UsageError, match="Cannot make the folder"), made(tmp_path / "data" / "kept" / "x"):
        pass


def test_who_ends_a_run_is_told_what_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "machine", ended)
    assert run_program("bench", bench.main, ["--scratch", str(tmp_path / "scratch")]) == 130
    assert capsys.readouterr().err.startswith("python -m bench: interrupted: nothing is kept. --json FILE ")
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "t.json"
    assert bench.interrupted(Record(file, {}, Size(), [])).endswith(f"nothing was written to {file}")
    assert f"rows kept in {file}: 1. --resume" in bench.interrupted(Record(file, {}, Size(), [ROW]))


def test_who_is_not_installed_has_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "borg").write_text("")
    (tmp_path / "borg").chmod(0o755)
    assert peers.absent(["isolate", "restic", "borg", "ostree archive"]) == ("restic", "ostree archive")
    assert "  restic: absent" in shown(ROW)
    assert Measured.from_json(ROW.as_json()) == ROW
    assert Measured.from_json({**ROW.as_json(), "absent": ["x"]}).absent == ("x",)
    (tmp_path / "table.json").write_text(json.dumps(TABLE))
    report.main([str(tmp_path / "table.json"), "--output", str(tmp_path / "o.md")], standalone_mode=False)
    assert "| restic: absent |  |  |  |  |  |  |  |  |" in (tmp_path / "o.md").read_text().splitlines()


def test_a_tree_that_cannot_be_copied_is_named(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=f"^{tmp_path} cannot be copied to be measured: cp: .*into itself"):
        copy_of(tmp_path, tmp_path / "scratch" / "tree")
