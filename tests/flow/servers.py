"""Real `swarming-server serve` processes for tests; whoever starts one here is sure of its end.

`with running_server(tmp_path / "data") as server:` or the fixture `server`. The process is the installed command, its
log is `server.log()`; `stop()` drains it, `kill()` is a power cut, and starting again on the same directory is allowed.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

COMMAND = str(Path(sys.executable).parent / "swarming-server")
READY = re.compile(r"Serving (http://\S+)/ from (.+)\n")
START_S = 60.0  # a loaded machine; a healthy start takes half a second
STOP_S = 60.0


class ServerProcess:
    """One server: `url` has no slash at the end."""

    def __init__(
        self,
        data_dir: Path,
        *arguments: str,
        port: int = 0,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] = (),
    ) -> None:
        self.data_dir = data_dir
        self._log = data_dir.parent / f"{data_dir.name}.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command or [COMMAND, "serve", "--data", str(data_dir), "--port", str(port), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **(env or {})},
            )
        self.ready_line = self._read_line()
        match = READY.fullmatch(self.ready_line)
        if match is None:
            self.kill()
            raise AssertionError(f"The server said {self.ready_line!r} and then:\n{self.log()}")
        self.url = match[1]
        self.port = int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        """Return what all servers on this directory wrote to stderr."""
        return self._log.read_text(errors="replace")

    def stop(self, sign: int = signal.SIGTERM) -> int:
        """Ask it to drain, wait, and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(sign)
        try:
            return self.process.wait(STOP_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, timeout_s: float = 60
    ) -> tuple[int, Any]:
        """Make one request; returns the status and the parsed JSON (text where it is none)."""
        status, _, data = self.raw(method, path, body, headers, timeout_s)
        try:
            return status, json.loads(data) if data else None
        except ValueError:
            return status, data.decode()

    def raw(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, timeout_s: float = 60
    ) -> tuple[int, Any, bytes]:
        """Make one request; returns status, headers and bytes, and follows no redirect."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json", **(headers or {})})
        request.method = method
        try:
            with _OPENER.open(request, timeout=timeout_s) as reply:
                return reply.status, reply.headers, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def _read_line(self) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_S)
        return self.process.stdout.readline().decode() if ready else "nothing"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


@contextmanager
def running_server(data_dir: Path, *arguments: str, port: int = 0) -> Iterator[ServerProcess]:
    """Start a server on `data_dir`; it is gone when the block ends, whatever happened inside."""
    server = ServerProcess(data_dir, *arguments, port=port)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server on an empty directory."""
    with running_server(tmp_path / "server-data") as process:
        yield process
