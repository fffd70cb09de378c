"""Where a benchmark works: a scratch folder, the tree it measures, servers that live as long as they are needed."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.measure import Sample, run
from bench.relay import Relay

BIN = Path(sys.executable).parent
NO_LIMITS = ("--max-cache-size", "0", "--min-free-space", "0", "--max-items", "0")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    url: str
    pid: int
    data: Path  # where it keeps everything

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    runs: int = 3
    tree_files: int = 5_000  # of the generated tree
    generations: int = 100
    large_bytes: int = 512 << 20
    index_blobs: int = 2_000_000
    egress_files: int = 2_500  # of 200 KB
    tasks: int = 3_000


@dataclass
class Place:
    """Where one row works; `tree` is changed only by those rows that say so."""

    scratch: Path
    tree: Path
    stack: contextlib.ExitStack
    size: Size
    data: Path | None = None  # where what takes long to make is kept for the next time
    numbers: Iterator[int] = field(default_factory=itertools.count)
    counted: set[str] = field(default_factory=set)

    def fresh(self, name: str) -> Path:
        """Return a path that nothing has used yet."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        return self.scratch / f"{name}-{next(self.numbers)}"

    @property
    def dropped(self) -> Path:
        """What is to be deleted when the row is over."""
        return self.scratch.parent / "dropped"

    def drop(self, path: Path) -> None:
        """Put away what nobody wants any more; whoever measures the row deletes it when all have had their turns.

        ext4 looks at each inode that was deleted within the last minute before it takes another one: a new file then
        costs half a millisecond, which would be most of what is measured.
        """
        if path.exists():
            self.dropped.mkdir(parents=True, exist_ok=True)
            path.rename(self.dropped / f"{path.name}-{os.urandom(6).hex()}")

    def env(self, cache: Path, url: str = "") -> dict[str, str]:
        """Return the environment of a command of ours that keeps its caches in `cache` and talks to `url`."""
        path = f"{BIN}:{os.environ['PATH']}"
        return {**os.environ, "XDG_CACHE_HOME": str(cache), "PATH": path, "ISOLATE_SERVER": url}

    def start(self, data: Path | None = None) -> tuple[Server, Callable[[], None]]:
        """Start a server on `data`, or on an empty directory; returns it and what ends it.

        An empty directory is dropped with its server.
        """
        place = data or self.fresh("server")
        argv = [str(BIN / "swarming-server"), "serve", "--data", str(place), "--port", "0", "--min-free", "0"]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None, "it was asked for"

        def end() -> None:
            process.terminate()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
            if data is None:
                self.drop(place)

        try:
            return Server(process.stdout.readline().split()[1].rstrip("/"), process.pid, place), end
        except IndexError:
            end()
            raise SystemExit("The server did not start") from None

    def server(self) -> Server:
        """Return a server on an empty directory that lives as long as the row."""
        server, end = self.start()
        self.stack.callback(end)
        return server

    def ours(self, who: str, argv: Sequence[str], server: Server, cache: Path) -> Sample:
        """Run a command of ours against a server; the first time that `who` does, the wire is counted as well."""
        if who in self.counted:
            return run(argv, self.env(cache, server.url), server=server.pid)
        self.counted.add(who)
        with Relay(server.port) as relay:
            sample = run(argv, self.env(cache, f"http://127.0.0.1:{relay.port}"), server=server.pid)
        return replace(sample, wire=relay.wire)

    def archive(self, server: Server, tree: Path | None = None) -> str:
        """Archive a tree outside of any measurement; returns its hash."""
        env = self.env(self.fresh("cache"), server.url)
        return run(["isolate", "archive", str(tree or self.tree)], env).stdout.split()[0]


def warmed(folder: Path) -> None:
    """Read all that is in a store, so that the page cache has it: what was restored before may have pushed it out."""
    piece = bytearray(1 << 20)
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError), open(os.path.join(path, name), "rb", buffering=0) as file:
                while file.readinto(piece):
                    pass


def removed(path: Path) -> None:
    """Delete a directory, read-only parts included."""
    subprocess.run(["rm", "-rf", str(path)], check=False)
