"""Bot archives: what they are called, what is in them, and how a server hands them out."""

from __future__ import annotations

import ast
import errno
import inspect
import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.error import URLError

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from isolate.errors import InvalidInput
from server.bot_archive import FOLDER, _fits, build, wheel_files
from server.bot_code import BotArchives, BotCodeApi
from server.bot_groups import BotGroup
from swarming import unpack
from swarming.bot.workdir import WorkDirectory
from swarming.bot_archive import archive_version, code_version, content_version, write_archive
from swarming.bots import BotHello
from swarming.unpack import platform_key
from tests.unit.server_site import running_site

KEY = "linux-x86_64-cp399"
FILES = {"b.py": b"b", "a/__init__.py": b""}


def offered(data: Path, files: dict[str, bytes], key: str = KEY) -> str:
    (data / FOLDER).mkdir(exist_ok=True)
    return write_archive(data / FOLDER / f"{key}.zip", files)


def due(archives: BotArchives, said: BotHello, archive: str = "") -> str | None:
    return archives.due(said, BotGroup(archive=archive))


def hello(version: str, session: str = "s", **archive: object) -> BotHello:
    return BotHello(bot_id="b", session=session, version=version, state={"bot_archive": archive} if archive else {})


def test_equal_files_make_equal_archives(tmp_path: Path) -> None:
    one, two = tmp_path / "1.zip", tmp_path / "2.zip"
    version = write_archive(one, FILES)
    assert write_archive(two, dict(reversed(FILES.items()))) == version == archive_version(one)
    assert one.read_bytes() == two.read_bytes()


def test_names_and_contents_cannot_be_exchanged() -> None:
    assert content_version([("ab", b"c")]) != content_version([("a", b"bc")])


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match="no bot archive"):
        archive_version(tmp_path / "x.zip")


def wheel(path: Path, files: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)


def test_an_archive_is_made_from_wheels(tmp_path: Path) -> None:
    wheels, data = tmp_path / "wheels", tmp_path / "data"
    wheels.mkdir()
    packages = {f"{name}/__init__.py": "" for name in ("isolate", "run_isolated", "swarming", "server")}
    wheel(wheels / "ours-1-py3-none-any.whl", packages | {"ours.data/scripts/isolate": "#!python"})
    wheel(
        wheels / "other-1-py3-none-any.whl",
        {"other.py": "1", "other.data/platlib/fast.so": "2", "other.dist-info/METADATA": "3"},
    )
    found = wheel_files(wheels, KEY)
    assert found.keys() == {
        "isolate/__init__.py",
        "run_isolated/__init__.py",
        "swarming/__init__.py",
        "other.py",
        "fast.so",
        "other.dist-info/METADATA",
    }
    key, version = build(data, wheels, KEY)
    assert (key, version) == (KEY, BotArchives(data).version(KEY))


def test_wheels_that_need_others_are_not_enough(tmp_path: Path) -> None:
    needs = (
        "Name: Isolate_Toolkit\nRequires-Dist: Two.Words>=1\nRequires-Dist: rich\nRequires-Dist: x; extra == 'dev'\n"
    )
    wheel(tmp_path / "ours-1-py3-none-any.whl", {"isolate_toolkit-1.dist-info/METADATA": needs})
    with pytest.raises(InvalidInput, match=r"lacks a wheel of two-words: `pip wheel`"):
        wheel_files(tmp_path, KEY)
    wheel(tmp_path / "two-1-py3-none-any.whl", {"two_words-1.dist-info/METADATA": "Name: two_words\n"})
    assert len(wheel_files(tmp_path, KEY)) == 2


def test_an_archive_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has no wheels"):
        build(tmp_path, tmp_path, KEY)
    with pytest.raises(InvalidInput, match="name a folder with wheels for linux-x86_64-cp399"):
        build(tmp_path, None, KEY)
    with pytest.raises(InvalidInput, match="SYSTEM-MACHINE-cpXY"):
        build(tmp_path, None, "../x")
    wheel(tmp_path / "other-1-py3-none-any.whl", {"other.py": "1"})
    with pytest.raises(InvalidInput, match="package 'isolate'"):
        build(tmp_path, tmp_path, KEY)
    (tmp_path / "other-1-py3-none-any.whl").write_bytes(b"")
    with pytest.raises(InvalidInput, match="is no wheel"):
        build(tmp_path, tmp_path, KEY)


def test_the_version_a_server_expects_is_the_one_bots_have(tmp_path: Path) -> None:
    """Of what is installed, until there is an archive."""
    archives = BotArchives(tmp_path)
    assert archives.expected() == archives.expected() == code_version()
    version = offered(tmp_path, FILES, platform_key())
    assert archives.expected() == version != code_version()


def test_a_bot_is_due_for_what_its_platform_has_now(tmp_path: Path) -> None:
    version = offered(tmp_path, FILES)
    archives = BotArchives(tmp_path)
    assert due(archives, hello("old", platform=KEY)) == version
    assert due(archives, hello(version, platform=KEY)) is None
    assert due(archives, hello("old", platform=KEY, refused=version)) is None
    assert due(archives, hello("old", platform="linux-arm-cp399")) is None
    assert due(archives, hello("old", platform="../../x")) is None
    assert due(archives, hello("old", platform=3)) is None
    assert due(archives, hello("old")) is None  # it was installed
    assert due(archives, hello("old", session="", platform=KEY)) is None  # it is of 2020
    assert not archives.has_changed()
    newer = offered(tmp_path, {**FILES, "c": b""})
    assert archives.has_changed()
    assert due(archives, hello(version, platform=KEY, refused=version)) == newer


def test_a_bot_of_2020_becomes_what_its_group_names(tmp_path: Path) -> None:
    version = offered(tmp_path, FILES, "of-2020")
    archives = BotArchives(tmp_path)
    assert due(archives, hello("old", session=""), "of-2020.zip") == version
    assert archives.by_version(version) == tmp_path / FOLDER / "of-2020.zip"
    assert due(archives, hello(version, session=""), "of-2020.zip") is None
    assert due(archives, hello("old", session=""), "gone.zip") is None
    assert due(archives, hello("old", platform=KEY), "of-2020.zip") is None  # it is none of 2020
    (tmp_path / FOLDER / "of-2020.zip").write_bytes(b"half of one")
    assert due(archives, hello("old", session=""), "of-2020.zip") is None
    assert archives.by_version(version) is None


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    app = web.Application()
    app.add_routes(BotCodeApi(BotArchives(tmp_path)).routes())
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


async def test_the_code_is_found_by_platform_and_by_version(url: str, tmp_path: Path) -> None:
    version = offered(tmp_path, FILES)
    async with ClientSession() as session:
        async with session.get(f"{url}/bot_code?platform={KEY}") as reply:
            assert reply.status == 200
            assert reply.url.path.endswith(f"/bot_code/{version}")
            assert reply.headers["Cache-Control"] == "public, max-age=3600"
            assert await reply.read() == (tmp_path / FOLDER / f"{KEY}.zip").read_bytes()
        versioned = f"{url}/swarming/api/v1/bot/bot_code/{version}"
        async with session.get(f"{versioned}?x=1", allow_redirects=False) as reply:
            assert (reply.status, reply.headers["Location"]) == (302, f"/swarming/api/v1/bot/bot_code/{version}")
        async with session.get(f"{versioned[:-1]}x", allow_redirects=False) as reply:
            assert reply.status == 404
        async with session.get(f"{url}/swarming/api/v1/bot/bot_code/{'0' * 64}", allow_redirects=False) as reply:
            assert (reply.status, reply.headers["Location"]) == (302, "/bot_code")


async def test_the_bootstrap_is_a_whole_program(url: str) -> None:
    async with ClientSession() as session, session.get(f"{url}/bootstrap") as reply:
        assert reply.content_type == "text/x-python"
        text = await reply.text()
    assert text.startswith(f"host_url = {url!r}\nbootstrap_token = ''\n")
    assert text.isascii()
    program = ast.parse(text, feature_version=(3, 4))  # an old Python can read it, and say that it is too old
    assert "a bot needs 3.11 or newer" in ast.unparse(program.body[3])
    (inner,) = [
        node.value for node in ast.walk(program) if isinstance(node, ast.Constant) and "def " in str(node.value)
    ]
    assert inner == inspect.getsource(unpack)


async def test_a_server_without_archives_asks_nobody_to_update() -> None:
    async with running_site() as site:
        state = {"bot_archive": {"platform": KEY}, "running_time": 1.0, "sleep_streak": 0}
        said = {"dimensions": {"id": ["b"]}, "state": state, "version": "old"}
        status, reply = await site.bot("poll", said, "s")
        assert (status, reply["cmd"]) == (200, "sleep")


def test_an_archive_becomes_a_private_environment(tmp_path: Path) -> None:
    archive, folder = tmp_path / "x.zip", tmp_path / "code"
    folder.mkdir()
    version = write_archive(archive, FILES)
    python = unpack.unpack(archive, folder, version)
    assert python == folder / version / "bin" / "python"
    assert python.exists()
    assert [path.name for path in (folder / version).rglob("b.py")] == ["b.py"]
    assert unpack.unpack(tmp_path / "not needed again", folder, version) == python
    assert [entry.name for entry in folder.iterdir()] == [version]


def test_two_versions_are_kept(tmp_path: Path) -> None:
    one, two, three = (letter * 64 for letter in "123")
    for version in (one, two, two, three):
        (tmp_path / version).mkdir(exist_ok=True)
        unpack.choose(tmp_path, version)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [two, three, "current", "previous"]
    assert ((tmp_path / "current").readlink(), (tmp_path / "previous").readlink()) == (Path(three), Path(two))


def test_what_is_no_version_is_not_deleted(tmp_path: Path) -> None:
    """Somebody may have a folder of the same name with all their work in it."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    for letter in "123":
        (tmp_path / (letter * 64)).mkdir()
        unpack.choose(tmp_path, letter * 64)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "precious"


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched, nothing is started."""
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("asked the server"))


@pytest.mark.usefixtures("nobody")
def test_a_home_does_not_become_the_directory_of_a_bot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="cannot be the directory of a bot"):
        unpack.bootstrap("http://localhost", [])
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("nobody")
def test_somebodys_folder_does_not_become_that_of_a_bot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "chapter.tex").write_text("precious")
    with pytest.raises(SystemExit, match="w is not of a bot"):
        unpack.bootstrap("http://localhost", [])
    with pytest.raises(InvalidInput, match="w is not of a bot"), WorkDirectory.taken(tmp_path):
        pass
    assert [entry.name for entry in tmp_path.rglob("*")] == ["w", "chapter.tex"]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), URLError("refused")])
@pytest.mark.parametrize("kept", [[], ["code/"], ["swarming.lck"], ["code/", "swarming.lck", "code/x"]])
def test_a_bootstrap_that_fails_leaves_nothing_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: OSError, kept: list[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr("urllib.request.urlopen", fail)
    monkeypatch.chdir(tmp_path)
    for name in kept:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit, match="Cannot get the bot from http://localhost/bot_code"):
        unpack.bootstrap("http://localhost", [])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_at_the_last_step_of_a_bootstrap_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reply(io.BytesIO):
        url = f"http://localhost/bot_code/{'a' * 64}"

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.py", "")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Reply(packed.getvalue()))
    monkeypatch.setattr(unpack, "choose", fail)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="No space left"):
        unpack.bootstrap("http://localhost", [])
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("nobody")
def test_a_bootstrap_beside_a_bot_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with WorkDirectory.taken(tmp_path):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit, match="Another bot runs in"):
            unpack.bootstrap("http://localhost", [])
        assert sorted(tmp_path.rglob("*")) == before


def test_the_platform_of_this_machine_can_have_an_archive(tmp_path: Path) -> None:
    version = offered(tmp_path, FILES, platform_key())
    assert BotArchives(tmp_path).version(platform_key()) == version


@pytest.mark.parametrize(
    ("stem", "key", "expected"),
    [
        ("click-8.1.7-py3-none-any", "linux-aarch64-cp312", True),
        ("old-1.0-py2.py3-none-any", "linux-aarch64-cp312", True),
        ("old-1.0-py2-none-any", "linux-aarch64-cp312", False),
        ("x-1-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64", "linux-x86_64-cp312", True),
        ("x-1-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64", "linux-x86_64-cp311", False),
        ("x-1-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64", "linux-aarch64-cp312", False),
        ("x-1-cp312-cp312-musllinux_1_2_x86_64", "linux-x86_64-cp312", False),
        ("x-1-cp312-cp312-musllinux_1_2_x86_64", "linuxmusl-x86_64-cp312", True),
        ("x-1-2build-cp38-abi3-linux_x86_64", "linux-x86_64-cp312", True),
        ("x-1-cp313-abi3-linux_x86_64", "linux-x86_64-cp312", False),
        ("x-1-cp312-cp312-macosx_11_0_universal2", "darwin-arm64-cp312", True),
        ("x-1-cp312-cp312-macosx_11_0_arm64", "darwin-x86_64-cp312", False),
        ("x-1-cp312-cp312-win_amd64", "win32-amd64-cp312", True),
        ("nothing", "linux-x86_64-cp312", False),
    ],
)
def test_a_wheel_says_where_it_can_be_used(stem: str, key: str, expected: bool) -> None:
    assert _fits(stem, key) is expected
