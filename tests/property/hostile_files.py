"""Files nobody would write, read in a process that may take only so much memory and time: `python -m …` prints JSON.

For each file why it was refused, nothing when it was not; and at the end the most memory that was held.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from isolate.cas.digest import Namespace
from isolate.errors import IsolateError
from isolate.isolated import MAX_MANIFEST_BYTES, MAX_NODES, loads
from isolate.isolatefile import load_isolate
from isolate.isolateformat import format_isolate
from isolate.isolatesyntax import MAX_TEXT

MAX_ADDRESS_BYTES = 2 << 30
MAX_CPU_S = 120  # a guard against hanging: far above what is needed
MIB = 1 << 20

ISOLATE = {
    "deep lists": "[" * MAX_TEXT,
    "deep dictionaries": "{'a':" * (MAX_TEXT // 5),
    "deep tuples": "(1," * 100_000,
    "a long sum": "{'variables': {'files': [" + "'a'+" * 200_000 + "'a']}}",
    "many signs": "-" * (MAX_TEXT - 1) + "1",
    "a huge string": "{'variables': {'files': ['" + "x" * (MAX_TEXT - 40) + "']}}",
    "a huge number": "{'variables': {'read_only': " + "9" * (MAX_TEXT - 40) + "}}",
    "a huge power": "{'variables': {'read_only': 9**9**9}}",
    "a huge repetition": "{'variables': {'files': ['a'*10**12]}}",
    "many files": "{'variables': {'files': [" + "'abc'," * 150_000 + "]}}",
    "many conditions": "{'conditions': [" + "['a==1',{'variables':{}}]," * 35_000 + "]}",
    "many comments": "{\n" + "#\n" * 400_000 + "}",
    "a long condition": "{'conditions': [['" + "a==1 or " * 100_000 + "a==1', {'variables': {}}]]}",
    "a deep condition": "{'conditions': [['" + "(" * 100_000 + "a==1', {'variables': {}}]]}",
    "blank lines": "\n" * (MAX_TEXT - 1) + "x",
    "too long": "#" * (MAX_TEXT + 1),
    "NULs": "\0" * 1000,
    "a NUL in a string": "{'variables': {'files': ['a\0']}}",
    "lone surrogates": "{'variables': {'files': ['\ud800']}}",
    "surrogate escapes": "{'variables': {'files': ['\\udcff\udcff']}}",
    "itself": "{'includes': ['t']}",
    "itself in another spelling": "{'includes': ['x/../t']}",
    "itself many times": "{'includes': [" + "'t'," * 100_000 + "]}",
    "many large includes": "{'includes': [" + "'big'," * 900 + "]}",
}
BIG = "{}" + "#" * (MAX_TEXT - 2)
MANIFESTS: dict[str, Callable[[], bytes]] = {
    "deep lists": lambda: b"[" * MAX_NODES,
    "deeper than can be": lambda: b"[" * MAX_MANIFEST_BYTES,
    "deep objects": lambda: b'{"files":' * (MAX_NODES - 1),
    "a huge string": lambda: b'{"files":{"a":{"l":"' + b"x" * (16 * MIB) + b'"}}}',
    "a huge number": lambda: b'{"version":' + b"9" * (16 * MIB) + b"}",
    "many numbers": lambda: b'{"command":[' + b"1," * (4 * MIB) + b"1]}",
    "many empty objects": lambda: b'{"command":[' + b"{}," * MAX_NODES + b"1]}",
    "many includes": lambda: b'{"includes":[' + b'"",' * (4 * MIB) + b'""]}',
    "many entries": lambda: b'{"files":{' + b",".join(b'"%06x":{"l":"x"}' % n for n in range(MAX_NODES)) + b"}}",
    "one path in many spellings": lambda: (
        b'{"files":{' + b",".join(rb'"a\\%s":{"l":"x"}' % (b"/b" * n) for n in range(200)) + b',"a/":{"l":"x"}}}'
    ),
    "too long": lambda: b" " * (MAX_MANIFEST_BYTES + 1),
    "NULs": lambda: b"\0" * 1000,
    "a NUL in a name": lambda: rb'{"files":{"a\u0000":{"l":"x"}}}',
    "lone surrogates": lambda: rb'{"files":{"\ud800":{"l":"x"}}}',
    "surrogates that spell a letter": lambda: rb'{"files":{"\udcc3\udca9":{"l":"x"}}}',
    "not UTF-8": lambda: b'{"files":{"\xff":{"l":"x"}}}',
}


def read(path: str) -> str:
    return BIG if path == "/big" else ISOLATE[NAME[-1]]


NAME: list[str] = []


def refusals() -> Iterator[tuple[str, str]]:
    """Yield what each reader says of each file."""
    space = Namespace.parse("default-gzip")
    for name, text in ISOLATE.items():
        NAME.append(name)
        said = refusal(lambda: load_isolate("/t", {"a": 2}, read))
        yield f"load {name}", said
        if not said or "include" in name or name.startswith("itself"):  # else it is refused for the same reason
            yield f"format {name}", refusal(lambda text=text: format_isolate(text, "/t"))  # type: ignore[misc]
    for name, make in MANIFESTS.items():
        yield f"manifest {name}", refusal(lambda make=make: loads(make(), space))  # type: ignore[misc]


def refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except IsolateError as error:
        return str(error)
    return ""


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_BYTES, MAX_ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    found = dict(refusals())
    json.dump({"refusals": found, "peak_kib": peak_kib()}, sys.stdout)


def peak_kib() -> int:
    """Return the most memory this program has had; `getrusage` would count what started it too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    main()
