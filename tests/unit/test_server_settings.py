"""Settings in files: what they mean, and that every mistake is named with its line."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner

from isolate.errors import Refused
from server.cli import cli
from server.live_settings import LiveSettings
from server.retention import DAY_S, RetentionPolicy
from server.settings import BOTS, POOLS, SERVER, InvalidSettings, Settings, parse
from swarming.bot_archive import write_archive
from swarming.policy import Policy
from tests.tasks import hello, one_slice, properties, request

GROUPS = """
# the lab
[[group]]
ids = ["vm{1..3}", "x{a,b}y", "exact"]
dimensions = ["zone:eu", "zone:lab", "pool:special"]
owners = ["a@b"]

[[group]]
prefixes = ["vm", "lab-"]
dimensions = ["zone:us"]

[[group]]
patterns = ["mac-[0-9]+"]
dimensions = ["zone:mac"]
"""


def problems(**files: str) -> list[str]:
    names = {"server": SERVER, "bots": BOTS, "pools": POOLS}
    with pytest.raises(InvalidSettings) as caught:
        parse({names[name]: textwrap.dedent(text).lstrip("\n") for name, text in files.items()})
    return caught.value.problems


def no_draw(_: int) -> int:
    raise AssertionError("Nothing here is left to luck")


def test_without_files_everything_is_as_before() -> None:
    found = parse({})
    assert found == Settings()
    group = found.groups.of("anything")
    assert group is not None
    assert (group.version, group.told(hello())) == ("default", hello())
    tags = ("swarming.pool.template:none", "swarming.pool.version:pools_cfg_rev")
    assert found.pools.admit(request(), "AUTO", no_draw).server_tags == tags
    assert "swarming.pool.template:skip" in found.pools.admit(request(), "SKIP", no_draw).server_tags


def test_figures() -> None:
    text = """
    [scheduler]
    use_lifo = true
    bot_ping_tolerance_secs = 90
    pause_bots = true
    min_task_secs = 30
    [retention]
    tasks_days = 30
    [pages]
    display_server_url_template = "https://x/%s"
    """
    found = parse({SERVER: textwrap.dedent(text)})
    assert (found.policy.use_lifo, found.policy.ping_tolerance_s, found.pause_bots) == (True, 90, True)
    assert found.least_time_s == 30
    assert (found.retention.tasks_s, found.display_server_url_template) == (30 * DAY_S, "https://x/%s")


@pytest.mark.parametrize(
    ("bot_id", "zone"),
    [
        ("vm1", "eu"),
        ("vm3", "eu"),
        ("vm4", "us"),
        ("xby", "eu"),
        ("exact--2", "eu"),
        ("lab-7", "us"),
        ("mac-7", "mac"),
        ("mac-7x", None),
        ("stranger", None),
    ],
)
def test_the_group_of_a_bot(bot_id: str, zone: str | None) -> None:
    group = parse({BOTS: GROUPS}).groups.of(bot_id)
    assert (group and group.dimensions["zone"][0]) == zone


def test_a_group_replaces_dimensions_and_its_version_follows_what_it_says() -> None:
    group = parse({BOTS: GROUPS}).groups.of("exact")
    assert group is not None
    told = dict(group.told(hello("exact")).dimensions)
    assert (told["zone"], told["pool"], told["os"]) == (("eu", "lab"), ("special",), ("linux", "ubuntu"))
    same = parse({BOTS: "# a comment\n" + GROUPS}).groups.of("exact")
    other = parse({BOTS: GROUPS.replace("zone:lab", "zone:rack")}).groups.of("exact")
    assert same is not None
    assert other is not None
    assert same.version == group.version != other.version
    assert group.version.startswith("hash:")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[group]]\nids = ['a', 'a']", "bots.toml:2: Bot 'a' is in two groups, or twice in one"),
        ("[[group]]\nids = ['a']\n[[group]]\n\nids = ['a']", "bots.toml:5: Bot 'a' is in two groups"),
        ("[[group]]\nprefixes = ['a', 'ab']", "bots.toml:2: Prefix 'ab' overlaps with 'a'"),
        ("[[group]]\n[[group]]\n", "bots.toml:2: There are two groups without"),
        ("[[group]]\nids = ['a{1..3}{4..5}']", "bots.toml:2: 'a{1..3}{4..5}' must have one pair of braces"),
        ("[[group]]\nids = ['a{3..1}']", "must count up"),
        ("[[group]]\nids = ['a{1..99999}']", "10000 ids at most"),
        ("[[group]]\nids = ['a{b}']", "braces hold a range"),
        ("[[group]]\npatterns = ['(']", "bots.toml:2: '(' is no regular expression"),
        ("[[group]]\ndimensions = ['x']", "bots.toml:2: 'x' is no dimension"),
        ("[[group]]\ndimensions = ['id:x']", "cannot be given"),
        ("[[group]]\ndimensions = ['a:b', 'a:b']", "twice"),
        ("[[group]]\nbot_archive = '../x.zip'", "bots.toml:2: '../x.zip' is no name of an archive"),
        ("[[group]]\nids = 'a'", "bots.toml:2: ids must be a list of texts"),
        ("[[group]]\nname = 'a'", "bots.toml:2: Unknown key name"),
        ("[group]\nids = ['a']", "bots.toml:1: group must be written as [[group]]"),
        ("x = 1", "bots.toml:1: Unknown key x"),
        ("[[group]]\nids = [", "bots.toml:2: "),
        ("a = 1\na = 2\n", "bots.toml:2: Cannot overwrite a value"),
        ("# a\n\n[[groups]]\nids = ['a']", "bots.toml:3: Unknown key groups"),
        ("# a\n[groups.inner]\nids = ['a']", "bots.toml:2: Unknown key groups"),
        (
            "[[group]]\nids = ['a', '']",
            "bots.toml:2: ids must be a list of texts that are not empty, but item 2 is empty",
        ),
        ("[[group]]\nids = ['a', 7]", "not empty, but item 2 is 7"),
        (f"[[group]]\nids = ['a', {[1] * 100}]", f"item 2 is [{'1, ' * 33}…"),
        ("\ufeff[[group]]", "bots.toml:1: Begins with a byte order mark (BOM): save it as UTF-8 without one"),
        ("x = " + "[" * 3_000, "bots.toml:1: Lists or tables are nested too deeply"),
    ],
)
def test_problems_of_groups_have_their_line(text: str, problem: str) -> None:
    found = problems(bots=text)
    assert any(problem in one for one in found), found


def test_all_problems_are_found_at_once() -> None:
    server = """
    [scheduler]
    use_lifo = 1
    bot_ping_tolerance_secs = 5

    [retention]
    tasks_days = "long"
    [pages]
    display_server_url_template = "ftp://x"
    """
    found = problems(server=server, pools="[[pool]]\nnames = ['a|b']\nschedulers = ['me']\n[[pool]]\n")
    assert [one.partition(": ")[0] for one in found] == [
        "server.toml:2",
        "server.toml:3",
        "server.toml:6",
        "server.toml:8",
        "pools.toml:3",
        "pools.toml:2",
        "pools.toml:4",
    ]


def test_pools_say_who_may_schedule() -> None:
    text = """
    [[pool]]
    names = ["default"]
    schedulers = ["user:a@b"]
    most_urgent_priority = 20
    bot_ping_tolerance_secs = 120

    [[pool]]
    names = ["open"]
    schedulers = ["*"]
    """
    pools = parse({POOLS: textwrap.dedent(text)}).pools
    admitted = pools.admit(request(priority=5, authenticated="user:a@b"), "AUTO", no_draw)
    assert (admitted.priority, admitted.bot_ping_tolerance_s) == (20, 120)
    with pytest.raises(Refused, match="is not allowed to schedule tasks in the pool"):
        pools.admit(request(authenticated="user:c@d"), "AUTO", no_draw)
    elsewhere = one_slice(properties(dimensions=(("pool", "open"),)))
    assert pools.admit(request("n", elsewhere), "AUTO", no_draw).bot_ping_tolerance_s is None
    with pytest.raises(Refused, match='Can\'t submit tasks to pool "nowhere"'):
        pools.admit(request("n", one_slice(properties(dimensions=(("pool", "nowhere"),)))), "AUTO", no_draw)


async def test_files_are_read_again_when_they_change_and_mistakes_are_not_applied(tmp_path: Path) -> None:
    settings, seen = LiveSettings(tmp_path), []
    settings.load()
    settings.follow(lambda found: seen.append(found.policy.use_lifo))
    assert await settings.reload() is False
    (tmp_path / SERVER).write_text("[scheduler]\nuse_lifo = true\n")
    assert await settings.reload() is True
    (tmp_path / SERVER).write_text("[scheduler]\nuse_lifo = maybe\n")
    assert await settings.reload() is False
    assert settings.current.policy.use_lifo is True
    (tmp_path / SERVER).unlink()
    assert await settings.reload() is True
    assert seen == [False, True, False]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("", ["pools.toml:1: A pool needs names"]),
        ("names = []", ["pools.toml:1: A pool needs names"]),
        ("names = ['']", ["pools.toml:2: names must be a list of texts that are not empty, but item 1 is empty"]),
        ("names = 'a'", ["pools.toml:2: names must be a list of texts, not 'a'"]),
    ],
)
def test_what_is_wrong_with_the_names_of_a_pool_is_said_once(names: str, said: list[str]) -> None:
    assert problems(pools=f"[[pool]]\n{names}\nschedulers = ['*']") == said


def test_the_command_checks_settings(tmp_path: Path) -> None:
    (tmp_path / BOTS).write_text(GROUPS)
    fine = CliRunner().invoke(cli, ["config", "check", str(tmp_path)])
    assert (fine.exit_code, "fine" in fine.output) == (0, True)
    (tmp_path / POOLS).write_bytes(b"[[pool]]\n\xff")
    bad = CliRunner().invoke(cli, ["config", "check", str(tmp_path)])
    assert bad.stderr == "pools.toml:2: Not UTF-8\n"


@pytest.mark.parametrize("kind", ["pipe", "device", "endless", "dangling", "folder"])
def test_what_is_no_file_is_refused_and_stops_nobody(tmp_path: Path, kind: str) -> None:
    place = tmp_path / SERVER
    if kind == "pipe":
        os.mkfifo(tmp_path / "pipe")
        place.symlink_to("pipe")
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to({"device": "/dev/null", "endless": "/dev/zero", "dangling": "nowhere"}[kind])
    said = {
        "pipe": "a pipe, not a file",
        "folder": "a directory, not a file",
        "dangling": "a link to what is not there",
    }
    reason = f"server.toml:1: Cannot be read: it is {said.get(kind, 'a device, not a file')}"
    assert checked(str(tmp_path)) == (2, [reason])
    with pytest.raises(InvalidSettings, match=reason):
        LiveSettings(tmp_path).load()


def test_a_file_that_is_too_long_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / SERVER).open("wb") as file:
        file.truncate(1 << 40)
    assert checked(str(tmp_path)) == (2, ["server.toml:1: Cannot be read: it is longer than 4194304 bytes"])


def checked(*arguments: str) -> tuple[object, list[str]]:
    """Return the status and what a check says on stderr."""
    done = CliRunner().invoke(cli, ["config", "check", *arguments], standalone_mode=False)
    return done.return_value, done.stderr.splitlines()


def test_a_check_sees_what_a_server_would_not_miss(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "there.py").touch()
    (tmp_path / BOTS).write_text('[[group]]\nbot_config_script = "there.py"\n')
    (tmp_path / POOLS).write_text('[[pool]]\nnames = ["a"]\n')
    closed = (
        "warning: pools.toml:1: Nobody may schedule in this pool: it has no schedulers; write schedulers = ['*'] for "
    )
    assert checked(str(tmp_path)) == (0, [closed + "anybody"])
    (tmp_path / BOTS).write_text('[[group]]\nids = ["a", "a"]\nbot_config_script = "gone.py"\n')
    (tmp_path / "pool.toml").touch()
    status, lines = checked(str(tmp_path))
    assert (status, [line.partition(": ")[0] for line in lines]) == (2, ["bots.toml:3", "bots.toml:2", "pool.toml:1"])
    missing = CliRunner().invoke(cli, ["config", "check", "--data", str(tmp_path / "nowhere")])
    assert "nowhere" in str(missing.exception)


def test_a_check_reads_the_hooks_of_bots(tmp_path: Path) -> None:
    settings = tmp_path / "config"
    (settings / "scripts").mkdir(parents=True)
    (settings / "scripts" / "right.py").write_text("x = 1\n")
    (settings / "scripts" / "wrong.py").write_text("x = 1\nif\n")
    (settings / "scripts" / "noise.py").write_bytes(b"# \n# \xff")
    (settings / "scripts" / "nul.py").write_bytes(b"\0")
    os.mkfifo(settings / "scripts" / "pipe.py")
    wrong = [
        "scripts/noise.py:2: Not UTF-8",
        "scripts/nul.py:1: scripts/nul.py is no Python: source code string cannot contain null bytes",
        "scripts/pipe.py:1: Cannot be read: it is a pipe, not a file",
        "scripts/wrong.py:2: invalid syntax",
    ]
    assert checked(str(settings)) == (2, wrong)
    (tmp_path / "bot_config.py").write_text("def (")
    status, lines = checked("--data", str(tmp_path))
    assert (status, lines[1:]) == (2, wrong)
    assert lines[0].startswith("bot_config.py:1: ")


def test_a_check_knows_the_archives_of_its_data(tmp_path: Path) -> None:
    settings, archives = tmp_path / "config", tmp_path / "bot_archives"
    settings.mkdir()
    archives.mkdir()
    (settings / BOTS).write_text('[[group]]\nids = ["a"]\nbot_archive = "a.zip"\n[[group]]\nbot_archive = "b.zip"\n')
    assert checked(str(settings)) == (0, [])
    reason = "There is no archive {} in the folder bot_archives of the server's data"
    missing = [f"bots.toml:3: {reason.format('a.zip')}", f"bots.toml:5: {reason.format('b.zip')}"]
    assert checked("--data", str(tmp_path)) == (2, missing)
    write_archive(archives / "a.zip", {"__main__.py": b""})
    os.mkfifo(archives / "b.zip")
    no_file = f"bot_archives/b.zip:1: {archives / 'b.zip'} is no bot archive: it is no file"
    assert checked(str(settings), "--data", str(tmp_path)) == (2, [no_file])
    (archives / "b.zip").unlink()
    (archives / "b.zip").write_bytes(b"no archive")
    assert checked("--data", str(tmp_path))[1] == [no_file.replace("it is no file", "File is not a zip file")]
    write_archive(archives / "b.zip", {"__main__.py": b""})
    assert checked("--data", str(tmp_path)) == (0, [])


def test_the_document_shows_the_usual_values_and_settings_that_are_fine() -> None:
    text = (Path(__file__).parents[2] / "doc" / "server-settings.md").read_text()
    server, bots, pools, templates = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    shown = parse({SERVER: server, BOTS: bots, POOLS: pools})
    assert (shown.policy, shown.retention, shown.least_time_s) == (Policy(), RetentionPolicy(), Settings().least_time_s)
    assert [*shown.warnings, *parse({POOLS: templates}).warnings] == []
