"""isolate.pool, isolate.workers, isolate.messages and isolate.crew: real worker processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from isolate import crew, hands, slab
from isolate.archive import ArchiveOptions, Remote, archive_tree
from isolate.cas.digest import Namespace
from isolate.cas.memory import MemoryStore
from isolate.cas.remote import HttpStore
from isolate.clock import SystemClock
from isolate.errors import FileChanged, InternalFailure, InvalidInput, IsolateError, Refused, TooLarge, Unavailable
from isolate.hands import Hands, open_target
from isolate.hashing import Hashed
from isolate.http import HttpClient
from isolate.messages import (
    MAX_MESSAGE_BYTES,
    HashJob,
    JobFailed,
    decode_reply,
    decode_request,
    framed,
    pack_error,
    unframed,
    unpack_error,
)
from isolate.monitor import NullMonitor, TallyMonitor
from isolate.pool import Pool
from isolate.upload import Wanted
from server.stores.blobs import LocalBlobStores
from server.stores.limits import BlobLimits
from tests.cas_server import serving_cas
from tests.processes import is_running, wait_until, workers_of
from tests.trees import Tree, write_tree

OURS = Namespace.parse("blake3-zstd")
NOWHERE = Remote("http://127.0.0.1:1", OURS, "test")


@asynccontextmanager
async def served(root: Path) -> AsyncIterator[Remote]:
    root.mkdir()
    stores = await LocalBlobStores.open(root, SystemClock(), NullMonitor(), BlobLimits(min_free_bytes=0))
    try:
        async with serving_cas(stores) as url:
            yield Remote(url, OURS, "test")
    finally:
        await stores.close()


def test_messages_survive_any_cutting() -> None:
    jobs = [HashJob(number, b"a\xff\0" + b"b" * number) for number in range(5)]
    received = bytearray()
    seen = []
    for byte in b"".join(map(framed, jobs)):
        received.append(byte)
        seen += [decode_request(message) for message in unframed(received)]
    assert seen == jobs
    assert not received


def test_a_message_that_cannot_be_right_is_refused() -> None:
    with pytest.raises(InternalFailure):
        list(unframed(bytearray((MAX_MESSAGE_BYTES + 1).to_bytes(4, "little"))))


@pytest.mark.parametrize(
    "error",
    [
        FileChanged("/x\udcff"),
        InvalidInput("Name \udcff"),
        Unavailable("gone", 2.5),
        Unavailable("gone"),
        Refused("no", 401),
        TooLarge("big"),
    ],
)
def test_errors_keep_class_message_and_details(error: IsolateError) -> None:
    (message,) = unframed(bytearray(framed(JobFailed(1, pack_error(error)))))
    reply = decode_reply(message)
    assert isinstance(reply, JobFailed)
    again = unpack_error(reply.failure)
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_three_workers_hold_no_more_than_two_would() -> None:
    rooms = [hands.Room(setup.kept_bytes, setup.uploading) for setup in (Pool(NOWHERE, n)._setup for n in (1, 2, 3))]
    assert rooms[:2] == [hands.ROOM, hands.ROOM]
    assert 3 * rooms[2].kept_bytes <= 2 * hands.ROOM.kept_bytes
    assert 3 * rooms[2].uploading <= 2 * hands.ROOM.uploading


async def test_workers_hash_like_the_calling_process(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff")
    write_tree(tmp_path, {"a": b"1", name: b"2", "d": {}})
    paths = [str(tmp_path / one) for one in ("a", name, "d", "none")]
    async with Pool(NOWHERE, 2) as pool, Hands(MemoryStore(OURS), 1, SystemClock(), NullMonitor()) as hands:
        theirs, ours = (await pool.hash(paths)).files, (await hands.hash(paths)).files
    assert [one if isinstance(one, Hashed) else (type(one), str(one)) for one in theirs] == [
        one if isinstance(one, Hashed) else (type(one), str(one)) for one in ours
    ]
    assert isinstance(theirs[2], InvalidInput)
    assert theirs[0] == Hashed(OURS.blob(b"1"), ours[0].stamp if isinstance(ours[0], Hashed) else None)


async def test_workers_upload_over_their_own_connections(tmp_path: Path) -> None:
    write_tree(tmp_path / "t", {str(number): os.urandom(1000) for number in range(50)})
    files = [Wanted(str(path), OURS.blob(path.read_bytes())) for path in (tmp_path / "t").iterdir()]
    async with served(tmp_path / "data") as target, Pool(target, 2) as pool:
        written = await asyncio.gather(pool.upload(files[:25]), pool.upload(files[25:]))
        async with HttpClient(target.url, user_agent="test") as client:
            assert await HttpStore(client, OURS).missing([file.blob for file in files]) == []
    assert [one.stored for one in written] == [25, 25]


async def test_errors_come_back_from_workers(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"now")
    async with served(tmp_path / "data") as target, Pool(target, 1) as pool:
        with pytest.raises(FileChanged, match="f' changed"):
            await pool.upload([Wanted(str(tmp_path / "f"), OURS.blob(b"then"))])


async def test_a_worker_that_dies_fails_its_jobs_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    async with Pool(NOWHERE, 1) as pool:
        await pool.hash([str(tmp_path / "f")])
        (pid,) = workers_of(os.getpid())
        os.kill(pid, signal.SIGSTOP)
        async with asyncio.TaskGroup() as tasks:
            job = tasks.create_task(_outcome(pool, str(tmp_path / "f")))
            await asyncio.sleep(0)
            os.kill(pid, signal.SIGKILL)
        assert "ended unexpectedly with status -9" in job.result()
        assert "ended unexpectedly" in await _outcome(pool, str(tmp_path / "f"))


async def _outcome(pool: Pool, path: str) -> str:
    try:
        await pool.hash([path])
    except InternalFailure as error:
        return str(error)
    return "hashed"


async def test_a_worker_that_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isolate.pool.GRACE_S", 0.01)
    async with Pool(NOWHERE, 2) as pool:
        await pool.hash([])
        pids = workers_of(os.getpid())
        assert len(pids) == 2
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
    assert not workers_of(os.getpid())


async def test_workers_ignore_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    async with Pool(NOWHERE, 1) as pool:
        for pid in workers_of(os.getpid()):
            os.kill(pid, signal.SIGINT)
        assert isinstance((await pool.hash([str(tmp_path / "f")])).files[0], Hashed)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_its_parent(tmp_path: Path, sign: signal.Signals) -> None:
    """Also one that is stopped, and so can see no end of its input: the kernel ends it."""
    script = """
import asyncio
from isolate.cas.digest import Namespace
from isolate.hands import Remote
from isolate.pool import Pool

async def main():
    async with Pool(Remote("http://127.0.0.1:1", Namespace.parse("blake3-zstd"), "test"), 2) as pool:
        await asyncio.gather(*[pool.hash([]) for _ in range(4)])
        print("ready", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        workers = workers_of(parent.pid)
        assert len(workers) == 2
        os.kill(min(workers), signal.SIGSTOP)
        parent.send_signal(sign)
    assert wait_until(lambda: not any(map(is_running, workers)))


def test_a_worker_whose_parent_is_gone_already_leaves() -> None:
    worker = subprocess.run([sys.executable, "-P", "-m", "isolate.workers", "0", "1"], timeout=60)
    assert worker.returncode == 0


async def test_a_large_tree_is_the_same_with_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "START_AFTER_JOBS", 0.1)
    monkeypatch.setattr(slab, "JOB_FILES", 20)
    tree: Tree = {f"d{number % 5}": {} for number in range(5)}
    for number in range(500):
        tree[f"d{number % 5}"][f"{number}"] = os.urandom(number % 100) * 20  # type: ignore[index]
    tree["large"] = os.urandom(6 << 20)
    root = write_tree(tmp_path / "tree", tree)
    alone = await archive_tree(root, MemoryStore(OURS), ArchiveOptions(), NullMonitor())
    async with served(tmp_path / "data") as target:
        monitor = TallyMonitor()
        together = await archive_tree(root, target, ArchiveOptions(workers=2), monitor)
        again = await archive_tree(root, target, ArchiveOptions(workers=2), NullMonitor())
    assert together.root == alone.root == again.root
    assert (together.uploaded_blobs, again.uploaded_blobs) == (alone.uploaded_blobs, 0)
    assert monitor.counters["hashed_files"] == 501
    assert not workers_of(os.getpid())


async def test_a_small_tree_starts_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", None)
    write_tree(tmp_path / "tree", {str(number): str(number).encode() for number in range(100)})
    async with served(tmp_path / "data") as target:
        archived = await archive_tree(tmp_path / "tree", target, ArchiveOptions(), NullMonitor())
    assert archived.uploaded_blobs == 101


async def test_many_small_jobs_start_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", None)
    (tmp_path / "f").write_bytes(b"x")
    clock, monitor = SystemClock(), NullMonitor()
    async with (
        served(tmp_path / "data") as target,
        open_target(target, clock, monitor) as store,
        crew.GrowingCrew(target, store, None, clock, monitor) as growing,
    ):
        for _ in range(10 * crew.START_AFTER_JOBS):
            (hashed,), _ = await growing.hash([str(tmp_path / "f")])
    assert isinstance(hashed, Hashed)


async def test_without_processes_the_work_goes_on_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", refuse)
    monkeypatch.setattr(crew, "START_AFTER_JOBS", 0)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/f").write_bytes(b"x")
    monitor = TallyMonitor()
    async with served(tmp_path / "data") as target:
        archived = await archive_tree(tmp_path / "tree", target, ArchiveOptions(workers=2), monitor)
    assert archived.uploaded_blobs == 2
    assert "Cannot start a worker process" in monitor.problems[0]
