"""From a tree to a collected result on this machine: `make demo`.

Starts a server and two bots, archives this repository's unit tests, runs them in two shards, collects, and triggers the
same task again to show that it is not run twice. Every command is printed before it runs, so that it can be repeated by
hand. Everything lives in `.demo`, and nothing is left running.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / ".demo"
BIN = Path(sys.executable).parent
BOTS = ("demo-bot-1", "demo-bot-2")
SHARDS = 2
START_LIMIT_S = 30


def environment() -> dict[str, str]:
    """Return an environment in which every command keeps its files below `.demo`."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("SWARMING_", "ISOLATE_", "GTEST_"))
    }
    places = {"XDG_CACHE_HOME": "cache", "XDG_CONFIG_HOME": "config", "XDG_DATA_HOME": "data", "TMPDIR": "tmp"}
    for name, folder in places.items():
        (DEMO / folder).mkdir(parents=True)
        kept[name] = str(DEMO / folder)
    return kept | {"PATH": f"{BIN}:{kept.get('PATH', os.defpath)}"}


def show(argv: list[str]) -> None:
    """Print a command as a reader would type it in the repository."""
    words = [shlex.quote(word.replace(f"{ROOT}/", "")) for word in argv]
    print(f"\n$ {' '.join(words)}", flush=True)


def run(argv: list[str], env: dict[str, str], *, may_fail: bool = False) -> str:
    """Run one command in the foreground and return its stdout; unless it may fail, a failure ends the demonstration."""
    show(argv)
    done = subprocess.run(argv, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode and not may_fail:
        print(done.stdout, end="")
        raise SystemExit(f"{argv[0]} ended with status {done.returncode}; logs are in {DEMO}")
    return done.stdout


@contextlib.contextmanager
def background(argv: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a command until the block ends, its stderr going to `log`."""
    show(argv)
    with log.open("w") as stream:
        process = subprocess.Popen(argv, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=stream, text=True)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()


def server_url(server: subprocess.Popen[str], log: Path) -> str:
    """Return the address in the line a server prints when it is ready."""
    line = server.stdout.readline() if server.stdout else ""
    if not line.startswith("Serving "):
        raise SystemExit(f"The server did not start:\n{log.read_text()}")
    print(line, end="")
    return line.split()[1].rstrip("/")


def wait_for_bots(url: str, env: dict[str, str]) -> None:
    """Return when every bot has introduced itself."""
    argv = ["swarming", "bots", "--swarming", url, "--bare"]
    show(argv)
    deadline_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline_s:
        alive = subprocess.run(argv, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
        if set(BOTS) <= set(alive):
            print("\n".join(alive))
            return
        time.sleep(0.2)
    raise SystemExit(f"The bots did not appear within {START_LIMIT_S} s; logs are in {DEMO}")


def trigger_and_collect(url: str, digest: str, name: str, env: dict[str, str]) -> list[dict[str, object]]:
    """Run the tests in shards and return what the server says of each."""
    out = DEMO / name
    tasks, summary = f"{out}.json", f"{out}-summary.json"
    place = ["--swarming", url]
    what = ["--isolate-server", url, "--isolated", digest, "--task-name", name, "--dimension", "pool", "default"]
    run(["swarming", "trigger", *place, *what, "--idempotent", "--shards", str(SHARDS), "--dump-json", tasks], env)
    quiet = ["--task-summary-json", summary, "--task-output-stdout", "json"]
    run(["swarming", "collect", *place, "--json", tasks, "--task-output-dir", str(out), *quiet], env, may_fail=True)
    shards: list[dict[str, object]] = json.loads(Path(summary).read_text())["shards"]
    return shards


def report(shards: list[dict[str, object]], out: Path) -> None:
    """Print who ran each shard, how it ended, and a file that came back."""
    for index, shard in enumerate(shards):
        print(
            f"\nShard {index}: bot {shard['bot_id']}, {float(str(shard['duration'])):.1f} s, exit {shard['exit_code']}"
        )
        for line in str(shard["output"]).strip().splitlines()[-3:]:
            print(f"  | {line}")
        junit = out / str(index) / "junit.xml"
        suite = ET.parse(junit).getroot()[0]
        counts = ", ".join(f"{suite.get(what)} {what}" for what in ("tests", "failures", "errors"))
        print(f"  {junit.relative_to(ROOT)}: {counts}")


def main() -> int:
    """Show the whole way once."""
    started_s = time.monotonic()
    shutil.rmtree(DEMO, ignore_errors=True)
    env = environment()
    with contextlib.ExitStack() as stack:
        log = DEMO / "server.log"
        serve = ["swarming-server", "serve", "--data", str(DEMO / "server")]
        url = server_url(stack.enter_context(background([*serve, "--port", "0"], env, log)), log)
        for bot in BOTS:
            argv = ["swarming-bot", "--server", url, "--dir", str(DEMO / bot), "--id", bot]
            stack.enter_context(background(argv, env, DEMO / f"{bot}.log"))
        wait_for_bots(url, env)
        isolated = str(DEMO / "unit_tests.isolated")
        isolate = str(ROOT / "examples/unit_tests.isolate")
        printed = run(["isolate", "archive", "--isolate-server", url, "-i", isolate, "-s", isolated], env)
        print(printed, end="")
        digest = printed.split()[0]
        shards = trigger_and_collect(url, digest, "unit-tests", env)
        report(shards, DEMO / "unit-tests")
        again = trigger_and_collect(url, digest, "unit-tests-again", env)
        for index, shard in enumerate(again):
            if shard.get("deduped_from"):
                print(f"\nShard {index}: not run again, the result is that of {shard['deduped_from']}")
            elif shards[index]["failure"]:
                print(f"\nShard {index}: run again, because only a success is reused")
            else:
                raise SystemExit(f"Shard {index} was run again, though nothing had changed")
    print(f"\nDone in {time.monotonic() - started_s:.0f} s; server and bots are stopped. The pages of this run:")
    show(serve)
    print("and open http://127.0.0.1:8080/tasklist (commands are in .venv/bin)")
    return 0 if all(str(shard["exit_code"]) == "0" for shard in shards) else 1


if __name__ == "__main__":
    sys.exit(main())
