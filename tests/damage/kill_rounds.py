"""Rounds of SIGKILL at random moments: `python -m tests.damage.kill_rounds --rounds 200`.

In each round a tree is archived or fetched by the real commands, and the client, one of its workers, or the server is
killed meanwhile. Then the same is done again in peace and has to succeed. What must hold: a command that says it is
done is right; one that is not done says why in a line; no worker outlives its client; at the end every blob of every
tree that was ever acknowledged is read back and has its digest, and `swarming-server check --read-data` finds nothing.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click

from isolate.cas.block import Block, ChunkList
from isolate.cas.digest import Blob, Namespace
from isolate.cas.remote import HttpStore
from isolate.http import HttpClient
from isolate.remote_tree import RemoteTree
from tests.flow.servers import COMMAND, ServerProcess
from tests.processes import is_running, wait_until, workers_of

NAMESPACE = Namespace.parse("blake3-zstd")
BIN = Path(sys.executable).parent
FEW, MANY = "few", "many"
FILES = {FEW: 1_500, MANY: 9_400}  # of many, so many change that worker processes are started
LARGE_BYTES = 9 << 20  # in chunks
VICTIMS = ("client", "worker", "server")
KINDS = ("archive", "fetch")
PATIENCE_S = 120.0
ENOUGH = 20  # rounds in which each victim has its turn
TOLD_ROUNDS = 20  # between two lines about how far it is
OUR_STATUSES = {0, 1, 101, -signal.SIGKILL}


class Lost(AssertionError):
    """Something did not hold."""


@dataclass
class Tally:
    """What happened."""

    kills: Counter[str] = field(default_factory=Counter)
    survived: int = 0  # commands that succeeded although something was killed
    acknowledged: int = 0

    def __str__(self) -> str:
        return (f"killed {dict(self.kills)}; {self.survived} commands succeeded all the same; "
                f"{self.acknowledged} trees acknowledged")  # fmt: skip


class Site:
    """A server directory, a tree that changes, and a cache, used by all rounds."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.draw = folder, random.Random(seed)
        self.tree, self.cache = folder / FEW, folder / "cache"
        self.acknowledged: dict[str, str] = {}  # hash of a tree to what we know of its contents
        self.typical_s = dict.fromkeys(KINDS, 1.0)
        self.tally = Tally()
        self.server = ServerProcess(folder / "data")
        for name, files in FILES.items():
            for number in range(files):
                path = folder / name / f"{number % 40}" / f"{number}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self.draw.randbytes(50))

    def round(self) -> None:
        """Do one thing, kill somebody meanwhile, do it again."""
        victim = self.draw.choice(VICTIMS)
        kind = "archive" if victim == "worker" else self.draw.choice(KINDS)
        if kind == "archive" or not self.acknowledged:
            self._change(MANY if victim == "worker" else self.draw.choice([FEW, FEW, MANY]))
            self._attempt("archive", victim)
        else:
            self._attempt("fetch", victim)

    def finish(self) -> None:
        """Verify all that was ever acknowledged; and the packs."""
        for root, known in self.acknowledged.items():
            if asyncio.run(read_back(self.server.url, root)) != known:
                raise Lost(f"{root} was acknowledged, and is not what it was")
        if self.server.stop() != 0:
            raise Lost(f"The server did not stop in peace: {self.server.log()[-2000:]}")
        command = [COMMAND, "check", "--read-data", "--data", str(self.server.data_dir)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or "all is well" not in done.stdout:
            raise Lost(done.stdout + done.stderr)

    def _change(self, name: str) -> None:
        """Give most of the files of a tree new contents, and sometimes the large one; it is archived next."""
        self.tree = self.folder / name
        for number in self.draw.sample(range(FILES[name]), FILES[name] * 9 // 10):
            (self.tree / f"{number % 40}" / f"{number}").write_bytes(self.draw.randbytes(self.draw.randrange(1, 400)))
        if self.draw.random() < 0.4:
            (self.tree / "large").write_bytes(self.draw.randbytes(LARGE_BYTES))

    def _attempt(self, kind: str, victim: str) -> None:
        root = self.draw.choice(list(self.acknowledged)) if kind == "fetch" else ""
        status, said, error = self._run(kind, root, victim)
        if status not in OUR_STATUSES or "Traceback" in error:
            raise Lost(f"{kind} ended with {status}: {error}")
        self.tally.survived += status == 0
        if kind == "archive":
            if status == 0:
                self._archived(said)
            status, said, error = self._run(kind, root)
            if status:
                raise Lost(f"archive in peace ended with {status}: {error}")
            self._archived(said)
            return
        if status == 0 or (self.folder / "back").exists():  # killed or not: it is there as a whole, or not at all
            self._fetched(root, 0, said, error)
        self._fetched(root, *self._run(kind, root))

    def _run(self, kind: str, root: str, victim: str | None = None) -> tuple[int, str, str]:
        """Run a command, with a victim or in peace; returns its status and what it said."""
        back = self.folder / "back"
        shutil.rmtree(back, ignore_errors=True)
        arguments = ["archive", str(self.tree)]
        if kind == "fetch":
            arguments = ["download", "-s", root, "-t", str(back), "--cache", str(self.cache), "--min-free-space", "0"]
        env = {**os.environ, "ISOLATE_SERVER": self.server.url, "XDG_CACHE_HOME": str(self.folder / "xdg")}
        started_s = time.monotonic()
        with subprocess.Popen(
            [str(BIN / "isolate"), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        ) as client:
            if victim is not None:
                if victim == "worker":
                    wait_until(lambda: bool(workers_of(client.pid)) or client.poll() is not None)
                # A moment is what this is about; there is no condition to wait for.
                time.sleep(self.draw.uniform(0.0, self.typical_s[kind]))
                self._kill(victim, client)
            try:
                said, error = client.communicate(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired as late:
                client.kill()
                raise Lost(f"{kind} did not end when the {victim} was killed") from late
        if victim is None:
            self.typical_s[kind] = time.monotonic() - started_s
        if not wait_until(lambda: not any(is_running(pid) for pid in workers_of(client.pid))):
            raise Lost(f"Workers of {client.pid} are left")
        return client.returncode, said, error

    def _kill(self, victim: str, client: subprocess.Popen[str]) -> None:
        workers = sorted(pid for pid in workers_of(client.pid) if is_running(pid))
        if victim == "worker" and workers:
            os.kill(self.draw.choice(workers), signal.SIGKILL)
        elif victim == "server":
            self.server.kill()
            self.server = ServerProcess(self.server.data_dir, port=self.server.port)
        else:
            victim = "client"  # it has no workers any more
            client.kill()
        self.tally.kills[victim] += 1

    def _archived(self, said: str) -> None:
        self.acknowledged[said.split(maxsplit=1)[0]] = fingerprint(self.tree)
        self.tally.acknowledged = len(self.acknowledged)

    def _fetched(self, root: str, status: int, said: str, error: str) -> None:
        if status:
            raise Lost(f"{root} cannot be fetched: {status} {said} {error}")
        if fingerprint(self.folder / "back") != self.acknowledged[root]:
            raise Lost(f"{root} came back with other contents")


def fingerprint(root: Path) -> str:
    """Return a digest of all names and contents of a tree on disk."""
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return _digest_of({name: NAMESPACE.blob(content) for name, content in files.items()})


async def read_back(url: str, root: str) -> str:
    """Return the same of a tree in the store, every blob read and verified."""
    async with HttpClient(url, user_agent="kill-rounds") as client:
        tree = RemoteTree(client, NAMESPACE)
        entries = list((await tree.open(bytes.fromhex(root))).entries())
        store = HttpStore(client, NAMESPACE)
        wanted = [entry.blob for entry in entries if entry.blob is not None]
        pieces: dict[Blob, tuple[Blob, ...]] = {}
        found: set[Blob] = set()
        async for record in store.read(wanted):
            if isinstance(record, ChunkList):
                pieces[record.blob] = record.chunks
            elif isinstance(record, Block):
                found |= {blob for blob, content in record.contents() if NAMESPACE.blob(bytes(content)) == blob}
        for blob, chunks in pieces.items():
            contents = {part: bytes(data) async for record in store.read(chunks) if isinstance(record, Block)
                        for part, data in record.contents()}  # fmt: skip
            if NAMESPACE.blob(b"".join(contents[chunk] for chunk in chunks)) == blob:
                found.add(blob)
    return _digest_of({entry.path: entry.blob for entry in entries if entry.blob in found})


def _digest_of(files: Mapping[str, Blob | None]) -> str:
    return NAMESPACE.blob(repr(sorted(files.items())).encode()).digest.hex()


def kill_rounds(folder: Path, rounds: int, seed: int, told: Callable[[int, Tally], object] = lambda *_: None) -> Tally:
    """Do `rounds` rounds in `folder`; raises Lost for what does not hold. `told` hears of every round that is over."""
    site = Site(folder, seed)
    try:
        for number in range(rounds):
            try:
                site.round()
            except Lost as error:
                raise Lost(f"Round {number} of seed {seed}: {error}\n{site.server.log()[-2000:]}") from error
            told(number + 1, site.tally)
        site.finish()
        if rounds >= ENOUGH and (spared := set(VICTIMS) - set(site.tally.kills)):
            raise Lost(f"Nothing was lost, but no {' and no '.join(sorted(spared))} was ever killed in {rounds} rounds")
    finally:
        site.server.kill()
    return site.tally


@click.command()
@click.option("--rounds", default=200, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(rounds: int, seed: int) -> None:
    """Kill at random moments and look whether anything acknowledged is lost."""
    started_s = time.monotonic()

    def told(done: int, tally: Tally) -> None:
        if done % TOLD_ROUNDS == 0 and done < rounds:
            passed_s = time.monotonic() - started_s
            left_min = passed_s / done * (rounds - done) / 60
            click.echo(f"{done} rounds in {passed_s:.0f} s, about {left_min:.0f} min left: {tally}", err=True)

    with tempfile.TemporaryDirectory(prefix="kill-rounds-") as folder:
        tally = kill_rounds(Path(folder), rounds, seed, told)
    click.echo(f"{rounds} rounds of seed {seed} in {time.monotonic() - started_s:.0f} s: {tally}, none lost")


if __name__ == "__main__":
    main()
